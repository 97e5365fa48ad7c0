"""Everything that a study will do, as a value: rows, folds, arms, layers, heads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from embedkit import cards
from embedkit.cache import Identity
from embedkit.classes import LabelMap
from embedkit.study.folds import Fold, Rows
from embedkit.study.source import COLUMNS, Source

SAFE_CHARACTERS = "+= "  # characters that stay as they are where a name becomes that of a file

Layer = int | str  # hidden_states[N], "concat" or "weighted"
ResultKey = tuple[str, Layer, str]  # (arm, layer, head)
ALL_ROWS = -1  # in place of a fold: every row of the study's corpus


class Fit(NamedTuple):
    """One fit."""

    arm: str
    layer: Layer
    head: str
    seed: int
    fold: int  # its place among the plan's folds, or WHOLE

    def folder(self) -> Path:
        """<arm>/layer-<N>/<head>, relative; what cannot stand in a file's name is quoted."""
        return Path(
            quote(self.arm, safe=SAFE_CHARACTERS), f"layer-{self.layer}", quote(self.head, safe=SAFE_CHARACTERS)
        )


@dataclass(frozen=True)
class StudyPlan:
    """Everything that a study will do; nothing has been done yet. Rows count through all sources, one after another."""

    study: cards.Study
    folder: Path
    heads: Mapping[str, cards.Head]
    sources: Mapping[str, Source]  # the study's own corpus first
    folds: Sequence[Fold]  # `train` without what is mixed in
    arms: Mapping[str, Rows]  # arm -> the rows that join every training set
    layers: Sequence[Layer]
    views: int  # augmented views for the heads that want them
    labels: Mapping[str, LabelMap]
    place: str  # the encoder: a hub id, a folder or an exported file
    notes: list[str] = field(default_factory=list)

    @cached_property
    def y(self) -> npt.NDArray[np.str_]:
        return np.concatenate([source.y for source in self.sources.values()])

    @cached_property
    def columns(self) -> dict[str, npt.NDArray[np.str_]]:
        """[row] of every source's columns, and `corpus`."""
        sources = self.sources.values()
        columns = {name: np.concatenate([s.columns[name] for s in sources]) for name in COLUMNS}
        return {"corpus": np.repeat(list(self.sources), [len(s.rows) for s in sources]), **columns}

    def digest_utterances(self, rows: Rows) -> str:
        """A digest of which utterances the rows are, so that a record can say what a fit was given."""
        names = sorted(map("/".join, zip(self.columns["corpus"][rows], self.columns["ids"][rows], strict=True)))
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]

    @property
    def identity(self) -> Identity:
        """Of the study's own cache; the others' have the same encoder and recipe."""
        return self.sources[self.study.corpus].identity

    def hidden(self, layer: Layer) -> list[int]:
        """The hidden states whose features, one after the other, are those of a layer."""
        return [layer] if isinstance(layer, int) else list(range(self.sources[self.study.corpus].layers))

    def training_rows(self, fold: int, arm: str) -> Rows:
        """The rows that train in a fold (or WHOLE), with what the arm mixes in."""
        own_rows = np.arange(len(self.sources[self.study.corpus].rows)) if fold == ALL_ROWS else self.folds[fold].train
        return np.concatenate([own_rows, self.arms[arm]])

    def list_result_keys(self) -> list[ResultKey]:
        """(arm, layer, head) of every result. Layers come first, so that features are read once."""
        return [(arm, layer, head) for layer in self.layers for arm in self.arms for head in self.heads]

    def list_fits(self) -> list[Fit]:
        return [
            Fit(*triple, seed, fold)
            for triple in self.list_result_keys()
            for seed in range(self.study.seeds)
            for fold in range(len(self.folds))
        ]

    def settings(self) -> dict[str, Any]:
        """All that decides the predictions, as JSON: two runs with the same settings give the same record."""
        # Changes what is said, not what is done.
        descriptive = {"name", "summary", "compare", "paper", "parts", "equal", "certificate"}
        settings = self.study.model_dump(mode="json", exclude=descriptive | {"encoder", "labels", "layers", "views"})
        settings["search"].pop("storage")  # where trials are kept changes none of them; and it may hold a password
        return {
            **settings,
            "heads": {n: c.model_dump(mode="json", exclude={"name", "summary"}) for n, c in self.heads.items()},
            "labels": dict(self.labels),
            "layers": list(self.layers),
            "views": self.views,
            "recipe": {"name": self.study.recipe, **self.identity.recipe},
            "encoder": {
                "id": self.identity.encoder,
                "revision": self.identity.revision,
                "weights_digest": self.identity.weights_digest,
                "weights": "random" if self.identity.random else "pretrained",
            },
            "rows": {corpus: {"count": len(s.rows), "digest": s.digest} for corpus, s in self.sources.items()},
        }
