"""What is measured on: synthetic speech, random encoders, made-up features and caches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedkit.audio import RATE

if TYPE_CHECKING:
    from embedkit.encoders import Spec
    from embedkit.workspace import Workspace


MEAN_SECONDS, SD_SECONDS, MAX_SECONDS = 4.5, 3.1, 8.0  # s: IEMOCAP's turns, and where a recipe cuts them

Wave = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Size:
    """How much is measured: the defaults take about 10 minutes on 2 idle cores."""

    repeats: int = 5
    full: bool = False  # what takes minutes more: 100 trials, 100,000 rows and a million
    clips: int = 16  # of the naive loop's batch
    views: int = 4
    passes: tuple[int, int] = (40, 120)  # clips of those whose memory is watched
    encoder: Mapping[str, Any] = field(default_factory=dict)  # keys of config.json that differ from DistilHuBERT's
    train: int = 8_200  # rows a fold
    dim: int = 768
    epochs: int = 2  # of the MLP's 25; each costs the same
    sessions: Sequence[int] = (1085, 1023, 1151, 1031, 1241)  # IEMOCAP's turns
    mixed: int = 4_900  # CREMA-D's
    axes: Mapping[str, Sequence[int]] = field(default_factory=lambda: AXES)


AXES: Mapping[str, Sequence[int]] = {
    "rows": (1_000, 3_000, 10_000, 30_000),
    "folds": (3, 6, 12, 24),
    "trials": (2, 4, 8),
    "views": (1, 4, 16),
}


def make_clip_lengths(count: int) -> list[int]:
    """Samples of clips as IEMOCAP has them: a lognormal's quantiles (mean 4.5 s, sd 3.1 s), cut at 8 s.

    >>> [round(n / RATE, 1) for n in make_clip_lengths(4)]
    [1.8, 3.0, 4.5, 7.5]
    """
    from statistics import NormalDist

    variance = np.log(1 + (SD_SECONDS / MEAN_SECONDS) ** 2)
    drawn = NormalDist(float(np.log(MEAN_SECONDS) - variance / 2), float(np.sqrt(variance)))
    seconds = [float(np.exp(drawn.inv_cdf((i + 0.5) / count))) for i in range(count)]
    return [round(RATE * min(s, MAX_SECONDS)) for s in seconds]


def make_speech(count: int) -> list[Wave]:
    """Synthetic speech, clips of `lengths`, one voice each."""
    from embedkit import synth
    from embedkit.classes import CLASSES

    rng = np.random.default_rng(0)
    voices = [synth.Speaker.draw(("female", "male")[i % 2], rng) for i in range(count)]
    return [
        synth.synthesise_utterance(CLASSES[i % 4], voice, samples / RATE, rng)
        for i, (voice, samples) in enumerate(zip(voices, make_clip_lengths(count), strict=True))
    ]


def make_encoder(folder: Path, size: Size) -> Spec:
    """DistilHuBERT's geometry with random weights: speed does not depend on what was learned."""
    from embedkit import encoders
    from embedkit.encoders import _random_weights as random_weights

    return encoders.resolve(
        str(random_weights.write_random_hubert(folder, 0, {**random_weights.DISTILHUBERT, **size.encoder}))
    )


def make_features(rows: int, dim: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.str_]]:
    """Pooled features as encoders give them, X [row, dim] and y [row]: an offset, a spread that falls as the real
    Whisper's does (the k-th direction's standard deviation as k^-0.65), classes that overlap."""
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
    """A cache of made-up features in a workspace, as if `extract` had filled it: one layer, so many rows a session."""
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


def _make_utterances(corpus: str, sessions: Sequence[int], classes: Iterable[str]) -> Iterator[Any]:
    """IEMOCAP's two speakers a session; any other corpus has one session less and 91 speakers."""
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
