"""The plan of a pass: which rows it will encode, decided before anything is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from embedkit import cache
from embedkit.cache import MISSING, SKIPPED, Cache, Identity
from embedkit.corpora import Utterance, pick_balanced_rows, select_rows
from embedkit.errors import CacheError

Labels = Literal["mapped", "all"]


@dataclass(frozen=True)
class CacheState:
    """The state of a cache file before the pass."""

    identity: Identity
    rows: list[Utterance]
    done: npt.NDArray[np.uint8]  # [row]: see `Cache.done`

    @classmethod
    def of(cls, file: Cache) -> CacheState:
        """The state of an open file."""
        return cls(file.identity, file.read_utterances(), file.done)


@dataclass(frozen=True)
class ExtractPlan:
    """The rows of a file, and which of them a pass encodes."""

    identity: Identity  # of the file that is filled; it may hold more views or labels than were asked for
    rows: list[Utterance]  # of the file
    todo: list[int]  # rows that were not tried yet
    retry: list[int]  # rows that were skipped before, to be encoded if their sound has changed


def plan_pass(
    path: Path,
    wanted: Identity,
    utterances: Sequence[Utterance],
    label_map: Mapping[str, Sequence[str]],
    limit: int | None = None,
    state: CacheState | None = None,
) -> ExtractPlan:
    """Decide which rows a pass encodes. state: of the file at path; None: there is none, or a new one is begun.

    Raises CacheError where the file at path has other settings or other rows, CorpusError where there are no rows.
    """
    if state is None:
        rows = select_rows(wanted.corpus, utterances, label_map, wanted.labels)
        return ExtractPlan(wanted, rows, pick_balanced_rows(rows, limit), [])
    if differences := wanted.list_differences(state.identity):
        raise CacheError(
            f"{path}: made with other settings: {', '.join(differences)}; --fresh begins anew, a recipe of another name"
            " keeps both"
        )
    rows = select_rows(wanted.corpus, utterances, label_map, state.identity.labels)
    if changed := cache.describe_changes(state.rows, rows):
        raise CacheError(f"{path}: the corpus has changed since, its rows: {changed}; --fresh begins anew")
    chosen = pick_balanced_rows(state.rows, limit)
    todo = [row for row in chosen if state.done[row] == MISSING]
    return ExtractPlan(state.identity, state.rows, todo, [row for row in chosen if state.done[row] == SKIPPED])
