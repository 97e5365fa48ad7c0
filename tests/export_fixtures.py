"""A corpus of a few clips and a finished study of it, for what exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from embedkit import cards, extract, study, workspace

CLASSES = ("anger", "happiness", "neutral", "sadness")


def corpus(folder: Path) -> Path:
    """A manifest of 32 clips: 4 speakers, 4 classes that differ in pitch and loudness. Returns the CSV."""
    rng, lines = np.random.default_rng(0), ["file,speaker,label"]
    for speaker in range(4):
        for label, (pitch, loud) in zip(CLASSES, ((300, 0.9), (260, 0.5), (160, 0.3), (110, 0.1)), strict=True):
            for take in range(2):
                n = int(rng.integers(9_000, 16_000))
                phase = np.cumsum(np.full(n, (pitch + 10 * speaker + 5 * take) / 16_000)) * 2 * np.pi
                swell = np.exp(-(((np.arange(n) - n / 2) / (n / 5)) ** 2))
                wave = loud * swell * np.sign(np.sin(phase)) * 0.8 + 0.001 * rng.normal(size=n)
                name = f"{speaker}-{label}-{take}.wav"
                soundfile.write(folder / name, wave, 16_000)
                lines.append(f"{name},s{speaker},{label}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


def studied(root: Path, encoder: Path, csv: Path, recipe: str) -> workspace.Workspace:
    """A workspace with a finished study of two heads on the encoder's last layer."""
    space = workspace.init_workspace(root)
    (root / "embedkit.toml").write_text(f'[corpora]\nclips = "{csv}"\n')
    card = cards.read(cards.Recipe, space.card("cache", recipe))
    extract.extract_corpus(space, "clips", recipe=card, encoder=str(encoder), views=0, jobs=1, progress=False)
    flags = {"corpus": "clips", "recipe": recipe, "encoder": str(encoder), "folds": "speaker"}
    flags["heads"] = ["logistic", "lightgbm"]
    study.run_single_study(space, flags=flags, settings={"folds.k": 4}, name="made")
    return space
