"""Folds: which rows train, validate and test. A speaker is on one side only, except with `shuffle` and `clips`.

A fold has row numbers of one corpus; rows that a study mixes in only train and are no part of a fold.

The kinds loso, speaker, script and clips test every row once. The rule for validation rows can be chosen
(`choose_validation`), and all folds can be cut to one training size (`limit_training_rows`), so that the effect of
leakage can be measured with all else equal.
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
    """One split of the rows.

    Its name is the session for `loso`, "1".."k" for `speaker` and `clips`, "<session>.<part>" for `script`, and
    "shuffle" for `shuffle`.
    """

    name: str
    train: Rows
    validate: Rows
    test: Rows


def leave_one_session_out(sessions: Words) -> list[Fold]:
    """Leave one session out: each tests once, in natural order; the next one (cyclic) validates, the others train.

    sessions: [row], "" where unknown. Raises StudyError where a session is unknown, and for fewer than 3 sessions.
    """
    words = np.asarray(sessions)
    if not words.size or (words == "").any():
        raise StudyError("folds loso: the corpus has rows without a session; try: --folds speaker")
    names = sort_naturally(set(words.tolist()))
    if len(names) < 3:
        raise StudyError(
            f"folds loso: needs at least 3 sessions (train, validation, test), found {len(names)}; try: --folds speaker"
        )
    group = {name: i for i, name in enumerate(names)}
    return _make_cyclic_folds(np.array([group[w] for w in words.tolist()]), names)


def split_by_speaker(speakers: Words, k: int) -> list[Fold]:
    """k groups of speakers, dealt round-robin in natural order ("2" before "10"); group i tests, i+1 validates.

    k is at most the number of speakers. Raises StudyError for fewer than 3 groups or speakers.
    """
    words = np.asarray(speakers)
    if not words.size or (words == "").any():
        raise StudyError("folds speaker: the corpus has rows without a speaker")
    names = sort_naturally(set(words.tolist()))
    if min(k, len(names)) < 3:
        what = f"found {len(names)} speakers" if len(names) < 3 else f"got folds.k = {k}"
        raise StudyError(f"folds speaker: needs at least 3 folds of speakers (train, validation, test), {what}")
    k = min(k, len(names))
    group = {name: i % k for i, name in enumerate(names)}
    return _make_cyclic_folds(np.array([group[w] for w in words.tolist()]), [str(i + 1) for i in range(k)])


def split_at_random(y: Words, seed: int) -> list[Fold]:
    """One random split, 90 % training, 5 % validation, 5 % test, stratified by class; the same speakers on all sides.

    Of each class at least one row validates and one tests. Raises StudyError where a class has fewer than 3 rows.
    """
    words, random = np.asarray(y), np.random.default_rng(seed)
    parts: list[list[Rows]] = [[], [], []]
    for name in np.unique(words):
        rows = random.permutation(np.flatnonzero(words == name))
        if len(rows) < 3:
            raise StudyError(f"folds shuffle: needs at least 3 rows of each class, found {len(rows)} of {name}")
        held_out = max(1, round(0.05 * len(rows)))
        sides = (rows[2 * held_out :], rows[:held_out], rows[held_out : 2 * held_out])
        for part, of_class in zip(parts, sides, strict=True):
            part.append(of_class)
    return [Fold("shuffle", *(np.sort(np.concatenate(part)) for part in parts))]


def split_by_clip(y: Words, k: int, seed: int) -> list[Fold]:
    """k random parts of the clips, stratified by class; part i tests, i+1 validates. The same speakers on all sides.

    Raises StudyError where a class has fewer than k rows.
    """
    words, random = np.asarray(y), np.random.default_rng(seed)
    group = np.empty(len(words), np.int64)
    for name in np.unique(words):
        rows = random.permutation(np.flatnonzero(words == name))
        if len(rows) < k:
            raise StudyError(f"folds clips: needs at least {k} rows of each class, found {len(rows)} of {name}")
        group[rows] = np.arange(len(rows)) % k
    return _make_cyclic_folds(group, [str(i + 1) for i in range(k)])


def leave_scripts_out(sessions: Words, scripts: Words, parts: int) -> list[Fold]:
    """Leave out one session and one part of the scripts: neither the speakers nor the sentences tested are in training.

    scripts: [row], as `identify_scripts` gives them; they are dealt into `parts`, the most frequent first, each to the
    part with the fewest rows so far. A fold tests a session's rows of one part; the next session's rows of that part
    validate, the other sessions' rows of the other parts train. Raises StudyError as `leave_one_session_out`, and for
    unknown or too few scripts.
    """
    session_folds, words = leave_one_session_out(sessions), np.asarray(scripts)
    if (words == "").any():
        raise StudyError("folds script: the corpus has rows without a text or a dialogue; try: --folds loso")
    names, rows_of = np.unique(words, return_counts=True)
    if len(names) < parts:
        raise StudyError(f"folds script: needs at least {parts} scripts (folds.scripts), found {len(names)}")
    size, part = np.zeros(parts, np.int64), {}
    for i in np.argsort(-rows_of, kind="stable"):
        part[names[i]] = int(size.argmin())
        size[part[names[i]]] += rows_of[i]
    part_of_row = np.array([part[word] for word in words])
    folds = [
        Fold(
            f"{fold.name}.{p + 1}",
            fold.train[part_of_row[fold.train] != p],
            fold.validate[part_of_row[fold.validate] == p],
            fold.test[part_of_row[fold.test] == p],
        )
        for fold in session_folds
        for p in range(parts)
    ]
    for fold in folds:
        if not (len(fold.train) and len(fold.validate) and len(fold.test)):
            raise StudyError(f"folds script: fold {fold.name} has an empty side; lower folds.scripts")
    return folds


def identify_scripts(dialogues: Words, texts: Words) -> npt.NDArray[np.str_]:
    """[row]: the script or the improvised scene of an IEMOCAP dialogue, whoever plays it; else the text.

    >>> identify_scripts(["Ses01F_script01_2", "Ses05M_impro03", ""], ["", "", "Kids are talking by the door"]).tolist()
    ['script01', 'impro03', 'Kids are talking by the door']
    """
    matches = [re.search(r"(script|impro)\d+", dialogue) for dialogue in dialogues]
    return np.array([match[0] if match else text for match, text in zip(matches, texts, strict=True)])


def choose_validation(folds: Sequence[Fold], rule: str, y: Words, seed: int) -> list[Fold]:
    """The folds with validation rows chosen by another rule; the test rows of every fold stay.

    "next": as they are. "previous": the test rows of the previous fold, where folds test whole groups in turn.
    "random": a fifth of training and validation rows, stratified by class, so speakers are on both sides (as SUPERB
    does). "test": the test rows themselves, which is the mistake of choosing the epoch on the test fold; training rows
    stay as they are, except with a single fold (`shuffle`), where the former validation rows train too. Raises
    StudyError for "previous" where there is no such fold.
    """
    return [_replace_validation(folds, i, rule, np.asarray(y), seed) for i in range(len(folds))]


def _replace_validation(folds: Sequence[Fold], i: int, rule: str, y: npt.NDArray[np.str_], seed: int) -> Fold:
    fold = folds[i]
    rest = np.sort(np.concatenate([fold.train, fold.validate]))
    if rule == "test":
        return Fold(fold.name, fold.train if len(folds) > 1 else rest, fold.test, fold.test)
    if rule == "previous":
        previous = [f.test for f in folds if np.array_equal(f.validate, fold.test)]
        if not previous or len(np.setdiff1d(previous[0], rest)):
            raise StudyError('folds.validate = "previous": only for folds loso, speaker and clips')
        validate = previous[0]
    elif rule == "random":
        validate = rest[take_fraction(rest.astype(str), y[rest], 0.2, seed)]
    else:
        return fold
    return Fold(fold.name, np.setdiff1d(rest, validate), validate, fold.test)


def limit_training_rows(folds: Sequence[Fold], rows: int, y: Words, seed: int) -> list[Fold]:
    """The folds with at most about `rows` training rows each, stratified by class (rounded in each class)."""
    words = np.asarray(y)
    return [
        Fold(
            fold.name,
            fold.train[
                take_fraction(fold.train.astype(str), words[fold.train], min(1.0, rows / len(fold.train)), seed)
            ],
            fold.validate,
            fold.test,
        )
        for fold in folds
    ]


def take_fraction(ids: Words, y: Words, fraction: float, seed: int = 0) -> Rows:
    """Sorted row numbers of a fraction (0..1) of the utterances of each class.

    Utterances are ranked within their class by a hash of (seed, id). So a smaller fraction is a subset of a larger one,
    and a corpus that is read in another order gives the same utterances.
    """
    words = np.asarray(y)
    rank = np.array([hashlib.blake2b(f"{seed}\0{i}".encode(), digest_size=8).hexdigest() for i in ids])
    chosen: list[Rows] = [np.empty(0, np.int64)]
    for name in np.unique(words):
        rows = np.flatnonzero(words == name)
        chosen.append(rows[np.argsort(rank[rows])][: round(fraction * len(rows))])
    return np.sort(np.concatenate(chosen))


def find_crossing_groups(fold: Fold, groups: Words) -> list[str]:
    """The groups (speakers, recordings, ...) that have rows on more than one side of a fold; sorted."""
    words = np.asarray(groups)
    train, validate, test = (set(words[rows].tolist()) for rows in (fold.train, fold.validate, fold.test))
    return sort_naturally((train & validate) | (train & test) | (validate & test))


def sort_naturally(words: Iterable[str]) -> list[str]:
    """Sort words with their numbers by value.

    >>> sort_naturally(["s10", "s2", "s1"])
    ['s1', 's2', 's10']
    """
    return sorted(words, key=lambda w: ([_rank_part(p) for p in re.findall(r"[0-9]+|[^0-9]+", w)], w))


def _rank_part(part: str) -> tuple[bool, int, str]:
    number = part[0] in "0123456789"
    return not number, int(part) if number else 0, part


def _make_cyclic_folds(group: Rows, names: Sequence[str]) -> list[Fold]:
    """Fold i: group i tests, the next one validates, the others train."""
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
