"""The plan of a study, as a value: rows, folds, arms, layers, heads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from embedkit import cards
from embedkit.cache import Identity
from embedkit.classes import LabelMap
from embedkit.study.folds import Fold, Rows
from embedkit.study.source import COLUMNS, Source

SAFE_CHARACTERS = "+= "  # not quoted where a name becomes part of a path

Layer = int | str  # a number (hidden_states[N]), "concat" or "weighted"
ResultKey = tuple[str, Layer, str]  # (arm, layer, head)
ALL_ROWS = -1  # in place of a fold: every row of the study's corpus


class Fit(NamedTuple):
    """One training of a head."""

    arm: str
    layer: Layer
    head: str
    seed: int
    fold: int  # index into the folds of the plan, or ALL_ROWS

    def folder(self) -> Path:
        """<arm>/layer-<N>/<head>, a relative path; characters that a path cannot have are quoted."""
        return Path(
            quote(self.arm, safe=SAFE_CHARACTERS), f"layer-{self.layer}", quote(self.head, safe=SAFE_CHARACTERS)
        )


@dataclass(frozen=True)
class StudyPlan:
    """Everything that a study will do. Rows are numbered through all sources, one source after another."""

    study: cards.Study
    folder: Path
    heads: Mapping[str, cards.Head]
    sources: Mapping[str, Source]  # the study's own corpus first
    folds: Sequence[Fold]  # `train` without the rows that an arm mixes in
    arms: Mapping[str, Rows]  # arm -> the rows that it mixes into every training set
    layers: Sequence[Layer]
    views: int  # augmented views, for the heads whose card asks for them
    labels: Mapping[str, LabelMap]
    place: str  # the encoder: a hub id, a folder or an exported file
    notes: list[str] = field(default_factory=list)

    @cached_property
    def y(self) -> npt.NDArray[np.str_]:
        """[row]: the class of each row."""
        return np.concatenate([source.y for source in self.sources.values()])

    @cached_property
    def columns(self) -> dict[str, npt.NDArray[np.str_]]:
        """[row]: the columns of all sources (COLUMNS), and `corpus`."""
        sources = self.sources.values()
        columns = {name: np.concatenate([s.columns[name] for s in sources]) for name in COLUMNS}
        return {"corpus": np.repeat(list(self.sources), [len(s.rows) for s in sources]), **columns}

    def digest_utterances(self, rows: Rows) -> str:
        """A digest of the utterances of rows, in any order, by which the audit knows what rows a fit was given."""
        names = sorted(map("/".join, zip(self.columns["corpus"][rows], self.columns["ids"][rows], strict=True)))
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]

    @property
    def identity(self) -> Identity:
        """The identity of the study's own cache; the other caches have the same encoder and recipe."""
        return self.sources[self.study.corpus].identity

    def hidden(self, layer: Layer) -> list[int]:
        """The hidden states whose features, concatenated, are those of a layer."""
        return [layer] if isinstance(layer, int) else list(range(self.sources[self.study.corpus].layers))

    def training_rows(self, fold: int, arm: str) -> Rows:
        """The training rows of a fold (or ALL_ROWS), with those that the arm mixes in."""
        own_rows = np.arange(len(self.sources[self.study.corpus].rows)) if fold == ALL_ROWS else self.folds[fold].train
        return np.concatenate([own_rows, self.arms[arm]])

    def list_result_keys(self) -> list[ResultKey]:
        """(arm, layer, head) of every result, layer by layer, so that features are read once."""
        return [(arm, layer, head) for layer in self.layers for arm in self.arms for head in self.heads]

    def list_fits(self) -> list[Fit]:
        """Every fit, in the order of `list_result_keys`, then by seed and fold."""
        return [
            Fit(*key, seed, fold)
            for key in self.list_result_keys()
            for seed in range(self.study.seeds)
            for fold in range(len(self.folds))
        ]

    def settings(self) -> dict[str, object]:
        """All that decides the predictions, as JSON: two runs with the same settings give the same predictions."""
        descriptive = ("name", "summary", "compare", "paper", "parts", "equal", "certificate")  # only change reports
        resolved = ("encoder", "labels", "layers", "views")  # below, as they were resolved
        excluded: dict[str, bool | set[str]] = dict.fromkeys((*descriptive, *resolved), True)
        excluded["search"] = {"storage"}  # it decides no prediction, and may contain a password
        return {
            **self.study.model_dump(mode="json", exclude=excluded),
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
