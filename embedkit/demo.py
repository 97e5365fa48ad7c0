"""The whole path on synthetic speech, in a workspace of its own: what `make demo` shows.

Every step calls what the verb of the same name calls, on an embedded default: 5 sessions of synthetic speech in
IEMOCAP's own layout. Only here may an encoder of random weights stand in for DistilHuBERT, and everything made from it
says so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embedkit import cards
from embedkit.errors import EncoderError
from embedkit.workspace import Workspace, init_workspace

TURNS = 240  # of the four classes and others, about 2.5 s each: extraction in about a minute on 2 cores
VIEWS = 1  # augmented views beside the clean one
NOTE_SECONDS = 120
CLIPS = 64  # that certify the file: a quick look


def run_demo(folder: Path) -> dict[str, Any]:
    """Make the corpus, then extract, study, stitch-export and predict in the workspace `folder`.

    Returns {folder, encoder, weights, study, results, model, bytes, certificate, prediction, seconds, table}.
    """
    seconds: dict[str, float] = {}
    workspace = init_workspace(folder)
    with _time_step("synthetic speech in IEMOCAP's layout", seconds):
        note = _make_corpus(workspace)
    encoder, weights = _choose_encoder(workspace)
    shown = f"embedkit --workspace {folder}"

    with _time_step(f"{shown} extract --corpus iemocap --encoder {encoder} --views {VIEWS}", seconds):
        from embedkit.extract import extract_corpus

        recipe = cards.read(cards.Recipe, workspace.card("cache", "exact"))
        cached = extract_corpus(workspace, "iemocap", recipe=recipe, encoder=encoder, views=VIEWS)
    with _time_step(f"{shown} study --folds loso --encoder {encoder}", seconds):
        from embedkit.study import run_single_study

        study = run_single_study(workspace, flags={"folds": "loso", "encoder": encoder})
    with _time_step(f"{shown} stitch-export --clips {CLIPS}", seconds):
        from embedkit.export import stitch_study

        model = stitch_study(workspace, clips=CLIPS)
    with _time_step(f"{shown} predict {model['model']} {note}", seconds):
        from embedkit.runtime import Predictor

        prediction = Predictor(Path(model["model"])).predict(note)
    result = {
        "folder": str(folder),
        "encoder": encoder,
        "weights": weights,
        "cache": cached["cache"],
        "study": study["study"],
        "results": study["results"],
        **model,
        "prediction": prediction,
        "seconds": seconds,
    }
    return {**result, "table": _format_table(result, str(study["table"]), shown)}


def _make_corpus(workspace: Workspace) -> Path:
    """The synthetic corpus and a voice note, made once; the workspace's settings say where. Returns the note."""
    from embedkit import synth

    root, note = workspace.root / "corpus" / "IEMOCAP_full_release", workspace.root / "voice-note.wav"
    if not note.exists():  # the last thing made: what is there without it is half a corpus
        synth.make_iemocap(root, turns=TURNS)
        synth.make_voice_note(note, seconds=NOTE_SECONDS)
    settings = workspace.root / "embedkit.toml"
    if not settings.exists():
        settings.write_text('[corpora]\niemocap = "corpus/IEMOCAP_full_release"\n', encoding="utf-8")
    return note


def _choose_encoder(workspace: Workspace) -> tuple[str, str]:
    """DistilHuBERT where it is cached or quickly had, else seeded random weights in its exact geometry."""
    from embedkit import encoders
    from embedkit.encoders import _random_weights as random_weights

    try:
        return encoders.resolve("ntu-spml/distilhubert").id, "pretrained"
    except EncoderError:  # its message names what to do; here there is something else to do
        folder = workspace.root / "encoder" / "distilhubert-random"
        print("embedkit: DistilHuBERT's weights cannot be had here; seeded random weights stand in", file=sys.stderr)
        random_weights.write_random_distilhubert(folder)
        return str(folder), "random"


@contextmanager
def _time_step(what: str, seconds: dict[str, float]) -> Iterator[None]:
    print(f"\n$ {what}", file=sys.stderr)
    begin = time.monotonic()
    yield
    verb = next((v for v in ("extract", "study", "stitch-export", "predict") if f" {v}" in what), "corpus")
    seconds[verb] = round(time.monotonic() - begin, 1)


def _format_table(r: dict[str, Any], table: str, shown: str) -> str:
    """What was made, how well it does, how large it is, where it lies and what to try next."""

    def format_size(path: str) -> str:
        return f"{Path(path).stat().st_size / 1e6:8.1f} MB  {path}"

    p = r["prediction"]
    probabilities = "  ".join(f"{name} {value:.2f}" for name, value in (p["probabilities"] or {}).items())
    times = ", ".join(f"{verb} {s:.0f} s" for verb, s in r["seconds"].items())
    return "\n".join([
        "",
        table,
        "",
        f"voice note of {NOTE_SECONDS} s: {p['label'] or 'no speech'} ({probabilities}),"
        f" {len(p['windows'])} windows of speech",
        "",
        "files",
        format_size(r["cache"]),
        format_size(r["model"]),
        f"{'':12} {r['folder']}/studies/{r['study']}/",
        "",
        f"took: {times}",
        "",
        "try next",
        f"  {shown} study --folds loso --encoder {r['encoder']} --layer all --name layers",
        f"  {shown} study --folds loso --encoder {r['encoder']} --trials 20 --name searched",
        f"  {shown} study --folds speaker --encoder {r['encoder']} --set folds.k=5",
        f"  {shown} evaluate {r['model']} --corpus iemocap",
        "  embedkit corpora            (real corpora: terms, where to get them)",
        "  embedkit init my-workspace  (a workspace of your own)",
    ])  # fmt: skip
