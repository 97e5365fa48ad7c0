"""The verb `demo`: extract, study, stitch-export and predict on synthetic speech, in a new workspace.

The corpus is 5 sessions of synthetic speech in the layout of IEMOCAP. Where DistilHuBERT cannot be had, an encoder with
random weights takes its place, and everything that is made with it says so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedkit import cards, encoders, synth
from embedkit.errors import EmbedkitError, EncoderError
from embedkit.export.document import ExportDocument
from embedkit.export.stitch import stitch_study
from embedkit.extract import extract_corpus
from embedkit.report import Result
from embedkit.runtime import Prediction, Predictor
from embedkit.study import run_single_study
from embedkit.workspace import Workspace, init_workspace

TURNS = 240  # clips of the four classes and of others, about 2.5 s each: about a minute of extraction on 2 cores
VIEWS = 1  # augmented views beside the clean one
NOTE_SECONDS = 120
CLIPS = 64  # so few clips certify the file, to be quick


class DemoDocument(ExportDocument):
    """What the demo made.

    weights: of the encoder, "pretrained" or "random". cache, study, model: the file, the name and the file. prediction:
    of the voice note. seconds: by step. table: all of it as text.
    """

    folder: str
    encoder: str
    weights: str
    cache: str
    study: str
    results: list[Result]
    prediction: Prediction
    seconds: dict[str, float]
    table: str


def run_demo(folder: Path) -> DemoDocument:
    """Make the corpus, then extract, study, stitch-export and predict in the workspace `folder`."""
    seconds: dict[str, float] = {}
    workspace = init_workspace(folder)
    with _time_step("synthetic speech in IEMOCAP's layout", seconds):
        note = _make_corpus(workspace)
    encoder, weights = _choose_encoder(workspace)
    shown = f"embedkit --workspace {folder}"

    with _time_step(f"{shown} extract --corpus iemocap --encoder {encoder} --views {VIEWS}", seconds):
        recipe = cards.read(cards.Recipe, workspace.card("cache", "exact"))
        cached = extract_corpus(workspace, "iemocap", recipe=recipe, encoder=encoder, views=VIEWS)
    with _time_step(f"{shown} study --folds loso --encoder {encoder}", seconds):
        study = run_single_study(workspace, flags={"folds": "loso", "encoder": encoder})
    with _time_step(f"{shown} stitch-export --clips {CLIPS}", seconds):
        model = stitch_study(workspace, clips=CLIPS)
    with _time_step(f"{shown} predict {model['model']} {note}", seconds):
        prediction = Predictor(Path(model["model"])).predict(note)
    if "error" in prediction:
        raise EmbedkitError(f"{note}: {prediction['error']}")
    result: DemoDocument = {
        "folder": str(folder),
        "encoder": encoder,
        "weights": weights,
        "cache": cached["cache"],
        "study": study["study"],
        "results": study["results"],
        **model,
        "prediction": prediction,
        "seconds": seconds,
        "table": "",
    }
    result["table"] = _format_table(result, study["table"], shown)
    return result


def _make_corpus(workspace: Workspace) -> Path:
    """Make the synthetic corpus and a voice note, where they are not there yet; returns the note's file.

    The workspace's settings say where the corpus lies.
    """
    root, note = workspace.root / "corpus" / "IEMOCAP_full_release", workspace.root / "voice-note.wav"
    if not note.exists():  # it is made last: without it the corpus may be incomplete
        synth.make_iemocap(root, turns=TURNS)
        synth.make_voice_note(note, seconds=NOTE_SECONDS)
    settings = workspace.root / "embedkit.toml"
    if not settings.exists():
        settings.write_text('[corpora]\niemocap = "corpus/IEMOCAP_full_release"\n', encoding="utf-8")
    return note


def _choose_encoder(workspace: Workspace) -> tuple[str, str]:
    """DistilHuBERT where it is cached or can be downloaded, else random weights of the same geometry.

    Returns the encoder, and "pretrained" or "random".
    """
    try:
        return encoders.resolve("ntu-spml/distilhubert").id, "pretrained"
    except EncoderError:
        folder = workspace.root / "encoder" / "distilhubert-random"
        print("embedkit: DistilHuBERT's weights cannot be had here; seeded random weights stand in", file=sys.stderr)
        encoders.write_random_distilhubert(folder)
        return str(folder), "random"


@contextmanager
def _time_step(what: str, seconds: dict[str, float]) -> Iterator[None]:
    print(f"\n$ {what}", file=sys.stderr)
    begin = time.monotonic()
    yield
    verb = next((v for v in ("extract", "study", "stitch-export", "predict") if f" {v}" in what), "corpus")
    seconds[verb] = round(time.monotonic() - begin, 1)


def _format_table(r: DemoDocument, study_table: str, shown: str) -> str:
    """What was made, its scores, its size, where it lies and what to try next. shown: the command so far."""

    def format_size(path: str) -> str:
        return f"{Path(path).stat().st_size / 1e6:8.1f} MB  {path}"

    p = r["prediction"]
    probabilities = "  ".join(f"{name} {value:.2f}" for name, value in (p["probabilities"] or {}).items())
    times = ", ".join(f"{verb} {s:.0f} s" for verb, s in r["seconds"].items())
    return "\n".join([
        "",
        study_table,
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
