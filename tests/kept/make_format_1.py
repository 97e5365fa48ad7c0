"""Make tests/kept/format-1: what embedkit 0.1.0, commit 278ecfd, leaves behind, for tests/test_kept_files.py.

Run once, against a checkout of that commit, and not again: later versions are held against these very files.

    PYTHONPATH=<checkout of 278ecfd> OMP_NUM_THREADS=1 python tests/kept/make_format_1.py

It needs `/embedkit-kept`, which must not be there yet: a study writes down where its encoder lies, so the workspace is
made at a place that says nothing of the machine. (The test puts its copy's own place there.) What is kept:

    workspace/embedkit.toml, cache/, heads/, studies/   cards and settings
    workspace/corpus/           sounds of 3 speakers in a file each, cut by the manifest
    workspace/encoder/          a HuBERT of one layer, 16 wide, with random weights
    workspace/cache/            `clips` complete, `again` (the same clips) stopped by --limit; both with skipped rows
    workspace/studies/kept      finished and exported: npz, safetensors, LightGBM's text, ONNX; two heads searched
    workspace/studies/stopped   the same study, killed by SIGKILL after its first fits
    workspace/note.flac         a voice note
    expected.json               what the exported file said of the note, and what the caches hold

Left out, as nothing reads them again: search.db (its outcome is in search.json), report.md, report.html and figures/.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from embedkit import cli, synth
from embedkit.cache import Cache

COMMIT = "278ecfd"
PLACE = Path("/embedkit-kept")
TARGET = Path(__file__).parent / "format-1"
ENCODER = PLACE / "encoder" / "tiny-hubert"
RATE, SOUND, SILENCE = 16_000, 4_800, 1_600  # Hz; samples of a clip, and before and after it
SPEAKERS = 3
PITCH = {"anger": 330.0, "happiness": 520.0, "neutral": 170.0, "sadness": 90.0, "surprise": 700.0}  # Hz
PARTIALS = {"anger": 0.9, "happiness": 0.5, "neutral": 0.7, "sadness": 0.4, "surprise": 0.6}  # one to the one before
CONFUSED = 0.15  # share of clips that sound like any class

TINY = {  # what it has unlike DistilHuBERT
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [8] * 5 + [24] * 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}

CARDS = {
    "heads/small-mlp.toml": """\
kind = "mlp"
views = "draw"
[fixed]
hidden = 8
standardize = true
activation = "gelu"
epochs = 12
patience = 4
lr = 3e-2
batch = 16
""",
    "heads/small-trees.toml": """\
kind = "lightgbm"
views = "all"
[fixed]
n_estimators = 2
num_leaves = 4
feature_fraction = 0.5
min_child_samples = 3
""",
    "studies/kept.toml": """\
summary = "Small, for the tests"
corpus = "clips"
encoder = "ENCODER"
stats = ["mean", "std"]
heads = ["small-mlp", "small-trees", "logistic", "lda"]
[folds]
kind = "speaker"
k = 3
[search]
trials = 3
""",
}
KEPT_CARDS = ("cache/exact.toml", "heads/logistic.toml", "heads/lda.toml", *CARDS)

KILLED = """
import os, signal, sys
from embedkit import cli, study

written, write = [], study._write_part

def write_some(path, columns, facts):
    if len(written) == FITS:  # the head of this fit is there, its part of the record is not
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    write(path, columns, facts)

study._write_part = write_some
cli.run(sys.argv[1:])
"""
FITS = 5  # of 12: those of the MLP, and two of the trees'


def python(*argv: str) -> subprocess.CompletedProcess[str]:
    """An interpreter that finds the same embedkit as this one, wherever it is started."""
    return subprocess.run([sys.executable, "-P", *argv], check=False, stdout=subprocess.PIPE, text=True)


def embedkit(*argv: str) -> Any:
    """One command with --json: its document."""
    done = python("-m", "embedkit", "--workspace", str(PLACE), "--traceback", *argv, "--json")
    done.check_returncode()
    return json.loads(done.stdout)


def coarse(wave: np.ndarray, bits: int) -> np.ndarray:
    """16-bit samples of which only so many bits are used, which FLAC packs well; the largest is 0.7 of full scale."""
    steps = np.round(wave * (0.7 / np.abs(wave).max()) * 2 ** (bits - 1))
    return (steps * 2 ** (16 - bits)).astype(np.int16)


def sound(label: str, speaker: int, rng: np.random.Generator) -> np.ndarray:
    """A clip whose pitch and partials depend on the class, but not always."""
    heard = str(rng.choice(list(PITCH))) if rng.random() < CONFUSED else label
    pitch = PITCH[heard] * (0.9 + 0.1 * speaker) * rng.uniform(0.95, 1.05)
    phase = 2 * np.pi * np.cumsum(np.full(SOUND, pitch / RATE))
    wave = sum(PARTIALS[heard] ** k * np.sin((k + 1) * phase) for k in range(12))
    return np.asarray(wave * np.hanning(SOUND) + 0.02 * rng.standard_normal(SOUND))


def make_corpus(folder: Path) -> None:
    """A file for each speaker: two takes of four classes and a surprise; the manifest says where each one lies."""
    folder.mkdir()
    rng, silence = np.random.default_rng(0), np.zeros(SILENCE, np.int16)
    lines = ["file,speaker,label,session,text,dialogue,gender,start,end,valence"]
    lines.append("silence.flac,s0,neutral,S1,none,d0,f,,,")
    lines.append("s1.flac,s1,anger,S1,none,d0,m,0.25,0.26,")  # shorter than a frame of the encoder
    lines.append("lost.flac,s2,sadness,S2,none,d0,f,,,")  # a file that is not there
    for number in range(SPEAKERS):
        parts = []
        takes = [(label, take) for take in range(2) for label in ("anger", "happiness", "neutral", "sadness")]
        for i, (label, take) in enumerate([*takes, ("surprise", 0)]):
            parts += [silence, coarse(sound(label, number, rng), 5), silence]
            start, end = (each * (SOUND + 2 * SILENCE) / RATE for each in (i, i + 1))
            said = f"S{number // 2 + 1},sentence {take},d{take},{'fm'[number % 2]}"
            place = f"{start:g},{end:g},{3 + take / 2:g}"
            lines.append(f"s{number}.flac,s{number},{label},{said},{place}")
        soundfile.write(folder / f"s{number}.flac", np.concatenate(parts), RATE, subtype="PCM_16")
    soundfile.write(folder / "silence.flac", np.zeros(SOUND, np.int16), RATE, subtype="PCM_16")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")


def make_note(path: Path) -> None:
    """Two turns of one voice with a pause between and around."""
    rng = np.random.default_rng(1)
    voice = synth.Speaker.draw("female", rng)
    said = [coarse(synth.utterance(emotion, voice, 1.5, rng), 7) for emotion in ("happiness", "sadness")]
    pause = np.zeros(RATE // 2, np.int16)
    soundfile.write(path, np.concatenate([pause, said[0], pause, said[1], pause]), RATE, subtype="PCM_16")


def make_encoder(folder: Path) -> None:
    from embedkit.encoders.random_weights import DISTILHUBERT, hubert_geometry  # where that commit has them

    hubert_geometry(folder, 0, {**DISTILHUBERT, **TINY})


def make_workspace() -> None:
    python("-m", "embedkit", "init", str(PLACE)).check_returncode()
    for name, text in CARDS.items():
        (PLACE / name).write_text(text.replace("ENCODER", str(ENCODER)))
    for card in PLACE.glob("*/*.toml"):
        if card.relative_to(PLACE).as_posix() not in KEPT_CARDS:
            card.unlink()
    (PLACE / "embedkit.toml").write_text('[corpora]\nclips = "corpus/clips.csv"\nagain = "corpus/clips.csv"\n')
    make_corpus(PLACE / "corpus")
    make_note(PLACE / "note.flac")
    make_encoder(ENCODER)


def killed(*argv: str) -> None:
    """A command that a SIGKILL ends after FITS fits."""
    done = python("-c", KILLED.replace("FITS", str(FITS)), "--workspace", str(PLACE), *argv)
    assert done.returncode == -signal.SIGKILL, done.returncode


def held(path: Path) -> dict[str, Any]:
    """What a cache says of itself, and digests of what it holds."""
    info = embedkit("cache", "info", str(path))
    with Cache.open(path) as cache:
        features = cache.features(views=range(1 + info["views"]), layers=range(info["layers"]), stats=range(2))
        return {
            "info": {**info, "file": path.relative_to(PLACE).as_posix()},
            "ids": cache.ids.tolist(),
            "done": cache.done.tolist(),
            "features": hashlib.sha256(features.tobytes()).hexdigest(),
        }


def said(model: Path) -> dict[str, Any]:
    """What an exported file says of the voice note, with speech found and without."""
    note = str(PLACE / "note.flac")
    both = {"speech": embedkit("predict", str(model), note), "whole": embedkit("predict", str(model), note, "--no-vad")}
    return {way: {k: v for k, v in doc["files"][0].items() if k != "file"} for way, doc in both.items()}


def main() -> None:
    checkout = Path(cli.__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, stdout=subprocess.PIPE, text=True, cwd=checkout)
    if not commit.stdout.startswith(COMMIT):
        sys.exit(f"{checkout} is of {commit.stdout.strip()}; put a checkout of {COMMIT} into PYTHONPATH")
    if PLACE.exists() or TARGET.exists():
        sys.exit(f"{PLACE} and {TARGET} must not be there yet")
    os.environ["OMP_NUM_THREADS"] = "1"
    make_workspace()
    extract = ["extract", "--encoder", str(ENCODER), "--views", "1", "--jobs", "1"]
    embedkit(*extract, "--corpus", "clips", "--labels", "all")
    embedkit(*extract, "--corpus", "again", "--limit", "10")
    embedkit("study", "kept", "--jobs", "1")
    killed("study", "kept", "--name", "stopped", "--jobs", "1")
    model = Path(embedkit("stitch-export", "kept", "--head", "logistic")["model"])
    expected = {
        "made by": f"embedkit 0.1.0, commit {COMMIT}",
        "caches": {path.stem: held(path) for path in sorted(PLACE.glob("cache/*/*/*.h5"))},
        "predict": said(model),
    }
    left_out = shutil.ignore_patterns("search.db", "report.*", "figures")
    shutil.copytree(PLACE, TARGET / "workspace", ignore=left_out)
    (TARGET / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
