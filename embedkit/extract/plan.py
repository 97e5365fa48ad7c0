"""What a pass will do, decided before it does anything."""

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
    """What a cache file holds before the pass."""

    identity: Identity
    rows: list[Utterance]
    done: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, file: Cache) -> CacheState:
        return cls(file.identity, file.read_utterances(), file.done)


@dataclass(frozen=True)
class ExtractPlan:
    """What a pass will do, as a value."""

    identity: Identity  # of the file that is filled; it may hold more views or labels than were asked for
    rows: list[Utterance]  # of the file
    todo: list[int]  # rows never tried
    retry: list[int]  # rows skipped before, to be tried again if their sound has changed


def plan_pass(
    path: Path,
    wanted: Identity,
    utterances: Sequence[Utterance],
    label_map: Mapping[str, Sequence[str]],
    limit: int | None = None,
    state: CacheState | None = None,
) -> ExtractPlan:
    """Decide what to do; state: None lays a new file out.

    Raises CacheError where the file at path is of other settings or other rows, CorpusError where there are no rows.
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
