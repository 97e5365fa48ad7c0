"""What the tables measure with: synthetic speech, a random encoder, made-up features and caches."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from embedkit.audio import RATE, Wave

if TYPE_CHECKING:
    from embedkit.corpora import Utterance
    from embedkit.encoders import Spec
    from embedkit.encoders._random_weights import HubertConfig
    from embedkit.workspace import Workspace


MEAN_SECONDS, SD_SECONDS, MAX_SECONDS = 4.5, 3.1, 8.0  # s: IEMOCAP's turns, and where a recipe cuts them


@dataclass(frozen=True)
class Size:
    """How much is measured: the defaults take about 10 minutes on 2 idle cores."""

    repeats: int = 5
    full: bool = False  # measure what takes minutes more too: 100 trials, 100,000 rows and a million
    clips: int = 16  # in the naive loop's batch
    views: int = 4
    passes: tuple[int, int] = (40, 120)  # clips of the two passes whose memory is measured
    encoder: Mapping[str, object] = field(default_factory=dict)  # keys of config.json that differ from DistilHuBERT's
    train: int = 8_200  # training rows of a fold
    dim: int = 768
    epochs: int = 2  # of the MLP's 25; each costs the same
    sessions: Sequence[int] = (1085, 1023, 1151, 1031, 1241)  # turns in each of IEMOCAP's sessions
    mixed: int = 4_900  # clips of CREMA-D
    axes: Mapping[str, Sequence[int]] = field(default_factory=lambda: AXES)


AXES: Mapping[str, Sequence[int]] = {
    "rows": (1_000, 3_000, 10_000, 30_000),
    "folds": (3, 6, 12, 24),
    "trials": (2, 4, 8),
    "views": (1, 4, 16),
}


def make_clip_lengths(count: int) -> list[int]:
    """The lengths (samples) of so many clips as IEMOCAP has them: quantiles of a lognormal distribution (mean 4.5 s, sd
    3.1 s), cut at 8 s.

    >>> [round(n / RATE, 1) for n in make_clip_lengths(4)]
    [1.8, 3.0, 4.5, 7.6]
    """
    from statistics import NormalDist

    variance = np.log(1 + (SD_SECONDS / MEAN_SECONDS) ** 2)
    drawn = NormalDist(float(np.log(MEAN_SECONDS) - variance / 2), float(np.sqrt(variance)))
    seconds = [float(np.exp(drawn.inv_cdf((i + 0.5) / count))) for i in range(count)]
    return [round(RATE * min(s, MAX_SECONDS)) for s in seconds]


def make_speech(count: int) -> list[Wave]:
    """So many clips of synthetic speech, of the lengths by `make_clip_lengths`, each by another voice."""
    from embedkit import synth
    from embedkit.classes import CLASSES

    rng = np.random.default_rng(0)
    voices = [synth.Speaker.draw(("female", "male")[i % 2], rng) for i in range(count)]
    return [
        synth.synthesise_utterance(CLASSES[i % 4], voice, samples / RATE, rng)
        for i, (voice, samples) in enumerate(zip(voices, make_clip_lengths(count), strict=True))
    ]


def write_manifest(folder: Path, clips: Sequence[Wave]) -> Path:
    """Write the clips as WAV files, and a manifest of them, whose path is returned."""
    import soundfile

    from embedkit.classes import CLASSES

    folder.mkdir(parents=True)
    with (folder / "made.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "speaker", "label"])
        for i, clip in enumerate(clips):
            soundfile.write(folder / f"{i}.wav", clip, RATE, subtype="PCM_16")
            table.writerow([f"{i}.wav", i % 2, CLASSES[i % 4]])
    return folder / "made.csv"


def make_encoder(folder: Path, size: Size) -> Spec:
    """DistilHuBERT's geometry with random weights: speed does not depend on what was learned."""
    from embedkit import encoders

    return encoders.resolve(str(encoders.write_random_hubert(folder, 0, choose_config(size))))


def choose_config(size: Size) -> HubertConfig:
    """config.json of the encoder that is measured."""
    from embedkit.encoders import DISTILHUBERT

    return cast("HubertConfig", {**DISTILHUBERT, **size.encoder})


def make_features(rows: int, dim: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.str_]]:
    """Made-up pooled features X [row, dim] and classes y [row], similar to an encoder's: with an offset, with standard
    deviations that fall as the real Whisper's (in the k-th direction as k^-0.65), and with classes that overlap."""
    from embedkit.classes import CLASSES

    rng, world = np.random.default_rng([seed, rows]), np.random.default_rng(0)
    turn = np.linalg.qr(world.standard_normal((dim, dim)))[0] * (np.arange(1, dim + 1) ** -0.65)[:, None]
    centres = 0.35 * world.standard_normal((4, dim)) * (np.arange(dim) < 30)
    y = rng.integers(0, 4, rows)
    X = np.empty((rows, dim), np.float32)
    for part in np.array_split(np.arange(rows), -(-rows // 10_000)):
        X[part] = (rng.standard_normal((len(part), dim), np.float32) + centres[y[part]]) @ turn
    return X + world.standard_normal(dim).astype(np.float32), np.array(CLASSES)[y]


def make_cache(workspace: Workspace, corpus: str, sessions: Sequence[int], dim: int, views: int = 0) -> None:
    """Write a cache of made-up features into a workspace, as if by `extract`. sessions: rows of each; one layer."""
    from embedkit import cards
    from embedkit.cache import Cache, Identity, create_cache

    rows = list(_make_utterances(corpus, sessions, make_features(sum(sessions), 1)[1]))
    recipe = cards.read(cards.Recipe, workspace.card("cache", "exact")).model_dump(
        mode="json", include={"precision", "sound", "augment"}
    )
    identity = Identity(corpus, recipe, "ntu-spml/distilhubert", "0" * 40, "1" * 64, True, views=views)
    path = workspace.cache_file("exact", "ntu-spml--distilhubert", corpus)
    create_cache(path, identity, rows, 1, dim)
    with Cache.open(path, write=True) as file:
        rng = np.random.default_rng(len(rows))
        X, _ = make_features(len(rows), dim)
        for part in np.array_split(np.arange(len(rows)), -(-len(rows) // 1_000)):
            block = np.zeros((len(part), 1 + views, 1, 2, dim), np.float16)
            block[..., 0, :] = X[part, None, None] + 0.03 * rng.standard_normal(
                (len(part), 1 + views, 1, dim), np.float32
            )
            file.fill_rows(part.tolist(), block, [MEAN_SECONDS] * len(part), [f"{corpus}{i}" for i in part])


def _make_utterances(corpus: str, sessions: Sequence[int], classes: Iterable[str]) -> Iterator[Utterance]:
    """Of IEMOCAP with two speakers in each session; of any other corpus with 91 speakers and no sessions."""
    from embedkit import corpora
    from embedkit.corpora import Utterance

    labels = {name: of[0] for name, of in corpora.find_reader(corpus).LABELS.items()}
    session = np.repeat(np.arange(len(sessions)), sessions)
    for i, (s, name) in enumerate(zip(session, classes, strict=True)):
        in_session = corpus == "iemocap"
        speaker = f"{corpus}:{s}{'FM'[i % 2]}" if in_session else f"{corpus}:{i % 91}"
        yield Utterance(
            f"{corpus}-{i}", f"{i}.wav", labels[name], speaker, session=f"Ses{s + 1:02}" if in_session else ""
        )
