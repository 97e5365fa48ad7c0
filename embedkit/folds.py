"""Folds: which rows train, validate and test. Speakers never cross, but in `shuffle`, which says so.

A fold holds row numbers of one corpus; what a study mixes in only trains and is no part of a fold.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedkit.errors import StudyError

Rows = npt.NDArray[np.int64]
Words = Sequence[str] | npt.NDArray[np.str_]


@dataclass(frozen=True)
class Fold:
    """One split. `name` is the session for `loso`, "1".."k" for `speaker`, "shuffle" for `shuffle`."""

    name: str
    train: Rows
    validate: Rows
    test: Rows


def loso(sessions: Words) -> list[Fold]:
    """Leave one session out: each tests once, in natural order; the next one (cyclic) validates, the rest train.

    sessions: [row], "" where unknown. Raises StudyError without sessions and below 3 of them.
    """
    words = np.asarray(sessions)
    if not words.size or (words == "").any():
        raise StudyError("folds loso: the corpus has rows without a session; try: --folds speaker")
    names = natural(set(words.tolist()))
    if len(names) < 3:
        raise StudyError(
            f"folds loso: needs at least 3 sessions (train, validation, test), found {len(names)}; try: --folds speaker"
        )
    group = {name: i for i, name in enumerate(names)}
    return _cyclic(np.array([group[w] for w in words.tolist()]), names)


def speaker(speakers: Words, k: int) -> list[Fold]:
    """k groups of speakers, dealt round-robin in natural order ("2" before "10"); group i tests, i+1 validates.

    k is lowered to the number of speakers. Raises StudyError below 3 groups or 3 speakers.
    """
    words = np.asarray(speakers)
    if not words.size or (words == "").any():
        raise StudyError("folds speaker: the corpus has rows without a speaker")
    names = natural(set(words.tolist()))
    if min(k, len(names)) < 3:
        what = f"found {len(names)} speakers" if len(names) < 3 else f"got folds.k = {k}"
        raise StudyError(f"folds speaker: needs at least 3 folds of speakers (train, validation, test), {what}")
    k = min(k, len(names))
    group = {name: i % k for i, name in enumerate(names)}
    return _cyclic(np.array([group[w] for w in words.tolist()]), [str(i + 1) for i in range(k)])


def shuffle(y: Words, seed: int) -> list[Fold]:
    """One random split, 90 % train, 5 % validation, 5 % test, stratified by class; the same speakers on all sides.

    At least one row of each class validates and one tests. Raises StudyError where a class has fewer than 3 rows.
    """
    words, random = np.asarray(y), np.random.default_rng(seed)
    parts: list[list[Rows]] = [[], [], []]
    for name in np.unique(words):
        rows = random.permutation(np.flatnonzero(words == name))
        if len(rows) < 3:
            raise StudyError(f"folds shuffle: needs at least 3 rows of each class, found {len(rows)} of {name}")
        held = max(1, round(0.05 * len(rows)))
        for part, some in zip(parts, (rows[2 * held :], rows[:held], rows[held : 2 * held]), strict=True):
            part.append(some)
    return [Fold("shuffle", *(np.sort(np.concatenate(part)) for part in parts))]


def take(ids: Words, y: Words, fraction: float, seed: int = 0) -> Rows:
    """Rows of a fraction (0..1) of the utterances, each class in its own share; nested and independent of row order.

    Utterances are ranked within their class by a hash of (seed, id), so the 10 % lie in the 25 %, and a corpus that
    is read in another order gives the same utterances. Returns sorted row numbers.
    """
    words = np.asarray(y)
    rank = np.array([hashlib.blake2b(f"{seed}\0{i}".encode(), digest_size=8).hexdigest() for i in ids])
    chosen: list[Rows] = [np.empty(0, np.int64)]
    for name in np.unique(words):
        rows = np.flatnonzero(words == name)
        chosen.append(rows[np.argsort(rank[rows])][: round(fraction * len(rows))])
    return np.sort(np.concatenate(chosen))


def crossing(fold: Fold, groups: Words) -> list[str]:
    """The groups (speakers, recordings, ...) that have rows on more than one side of a fold; sorted."""
    words = np.asarray(groups)
    train, validate, test = (set(words[rows].tolist()) for rows in (fold.train, fold.validate, fold.test))
    return natural((train & validate) | (train & test) | (validate & test))


def natural(words: Iterable[str]) -> list[str]:
    """Sorted as people count.

    >>> natural(["s10", "s2", "s1"])
    ['s1', 's2', 's10']
    """
    return sorted(words, key=lambda w: ([_rank(p) for p in re.findall(r"[0-9]+|[^0-9]+", w)], w))


def _rank(part: str) -> tuple[bool, int, str]:
    number = part[0] in "0123456789"
    return not number, int(part) if number else 0, part


def _cyclic(group: Rows, names: Sequence[str]) -> list[Fold]:
    """Fold i: group i tests, the next one validates, the rest train."""
    k = len(names)
    return [
        Fold(
            name,
            train=np.flatnonzero((group != i) & (group != (i + 1) % k)),
            validate=np.flatnonzero(group == (i + 1) % k),
            test=np.flatnonzero(group == i),
        )
        for i, name in enumerate(names)
    ]
