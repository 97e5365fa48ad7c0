"""One fit: features from the cache, a head trained on a fold, its part of the record."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit import heads, metrics
from embedkit.cache import Cache
from embedkit.classes import CLASSES, PROBABILITIES
from embedkit.encoders import STATS
from embedkit.errors import FitError
from embedkit.study import adapt
from embedkit.study.folder import head_folder, part_path, write_part
from embedkit.study.folds import Rows
from embedkit.study.plan import Fit, Layer, ResultKey, StudyPlan
from embedkit.study.source import Source
from embedkit.threads import one_thread


class FoldTrainer:
    """Fits heads in one process, on one thread; it reads from the caches what its units need and keeps the last two."""

    def __init__(self, planned: StudyPlan) -> None:
        self.plan = planned
        self._held: dict[tuple[tuple[int, ...], int], npt.NDArray[np.float16]] = {}
        self._adaptations: dict[tuple[str, Layer, int], adapt.Adaptation] = {}

    def features(self, layer: Layer, views: int) -> npt.NDArray[np.float16]:
        """[row, 1 + views, dim]: of every row of the study; in dim lie hidden states, and in each its statistics, one
        after the other."""
        hidden = tuple(self.plan.hidden(layer))
        if (hidden, views) not in self._held:
            if len(self._held) > 1:
                self._held.pop(next(iter(self._held)))
            self._held[hidden, views] = np.concatenate(
                [self._read(source, hidden, views) for source in self.plan.sources.values()]
            )
        return self._held[hidden, views]

    def _read(self, source: Source, hidden: Sequence[int], views: int) -> npt.NDArray[np.float16]:
        stats = [STATS.index(name) for name in self.plan.study.stats]
        cached_views = min(views, source.identity.views)  # a corpus that is only tested may have fewer
        with Cache.open(source.path) as cache:
            read = cache.features(source.rows, views=range(cached_views + 1), layers=hidden, stats=stats)
        read = read.reshape(len(read), cached_views + 1, -1)
        block = np.full((len(read), 1 + views, read.shape[2]), np.nan, np.float16)
        block[:, : cached_views + 1] = read
        return block

    def inputs(self, fit: Fit, rows: Rows, views: int = 0) -> npt.NDArray[np.float32]:
        """[row, 1 + views, dim]: what the unit's head is given, normalised and aligned as the study asks."""
        x, study = self.features(fit.layer, views), self.plan.study
        if (study.normalise, study.align) == ("none", "none"):
            return x[rows].astype(np.float32)
        corpora, speakers = (self.plan.columns[name] for name in ("corpus", "speaker"))
        if (place := (fit.arm, fit.layer, fit.fold)) not in self._adaptations:
            self._adaptations = {key: each for key, each in self._adaptations.items() if key[:2] == place[:2]}
            train = self.plan.training_rows(fit.fold, fit.arm)
            self._adaptations[place] = adapt.fit(
                x[:, 0],
                train,
                corpora,
                speakers,
                normalise=study.normalise,
                align=study.align,
                study_corpus=study.corpus,
            )
        groups = adapt.assign_scale_groups(study.normalise, corpora, speakers)[rows]
        return self._adaptations[place].apply(x[rows], groups, corpora[rows])

    def fit(self, fit: Fit, params: Mapping[str, Any], validate: Rows | None) -> heads.Estimator:
        """A head trained on the unit's rows; `validate` only says when to stop.

        Raises FitError that names the unit where the estimator fails.
        """
        card, y, train = self.plan.heads[fit.head], self.plan.y, self.plan.training_rows(fit.fold, fit.arm)
        layers = {"layers": len(self.plan.hidden(fit.layer))} if fit.layer == "weighted" else {}
        card = card.model_copy(update={"fixed": {**card.fixed, **params, **layers}})
        views = self.plan.views if card.views != "clean" else 0
        estimator = heads.build(card, fit.seed)
        x = self.inputs(fit, train, views)
        validation = None if validate is None else (self.inputs(fit, validate, views)[:, 0], y[validate])
        try:
            with one_thread():
                estimator.fit(x[:, 0], y[train], views=x[:, 1:] if views else None, validation=validation)
        except (ValueError, ArithmeticError, RuntimeError) as error:
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise FitError(f"{fit.folder()}, seed {fit.seed}, fold {fit.fold + 1}: {message}") from error
        return estimator

    def probabilities(self, estimator: heads.Estimator, fit: Fit, rows: Rows) -> npt.NDArray[np.float64]:
        """[row, class] in CLASSES' order, of the clean view; 0 for a class that training had not."""
        hidden = tuple(self.plan.hidden(fit.layer))
        views = next((v for held, v in self._held if held == hidden), 0)  # what is held has the clean view too
        x = np.ascontiguousarray(self.inputs(fit, rows, views)[:, 0])
        result = np.zeros((len(rows), len(CLASSES)))
        with one_thread():
            result[:, heads.class_columns(estimator)] = estimator.predict_proba(x)
        return result

    def validation_ua(self, fit: Fit, params: Mapping[str, Any]) -> float:
        """Validation UA of one fit; no test row is read for it."""
        fold = self.plan.folds[fit.fold]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=UserWarning)
            estimator = self.fit(fit, params, fold.validate)
        p = self.probabilities(estimator, fit, fold.validate)
        return metrics.ua(self.plan.y[fold.validate], np.array(CLASSES)[p.argmax(1)])

    def train(self, fit: Fit, params: Mapping[str, Any]) -> None:
        """Fit, predict validation and test rows, keep the head (first seed), and then the unit's part of the record."""
        fold, train = self.plan.folds[fit.fold], self.plan.training_rows(fit.fold, fit.arm)
        begin = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", category=UserWarning)  # scikit-learn's ConvergenceWarning is one
            estimator = self.fit(fit, params, fold.validate)
        best_round = getattr(estimator, "best_epoch_", getattr(estimator, "best_iteration_", None))
        facts = {
            "best": None if best_round is None else int(best_round),
            "seconds": round(time.perf_counter() - begin, 3),
            "rows": len(train),
            "saw": self.digest_fit_rows(train, fold.validate),
            "warnings": sorted(
                {str(w.message).strip().split("\n")[0] for w in caught if issubclass(w.category, UserWarning)}
            ),
        }
        if fit.layer == "weighted":
            facts["layer_weights"] = getattr(estimator, "layer_weights_")  # noqa: B009 (no head but the MLP has them)
        if fit.seed == 0:
            kind = self.plan.heads[fit.head].kind
            heads.save(kind, estimator, head_folder(self.plan.folder, fit, fold.name))
        rows = np.concatenate([fold.validate, fold.test])
        columns = self._build_prediction_columns(fit, rows, self.probabilities(estimator, fit, rows))
        write_part(part_path(self.plan, fit), columns, facts)

    def digest_fit_rows(self, train: Rows, validate: Rows) -> dict[str, str]:
        """What the record says of the rows that a fit was given; the audit holds it against the plan."""
        return {"train": self.plan.digest_utterances(train), "validate": self.plan.digest_utterances(validate)}

    def digest_search_rows(self, key: ResultKey) -> dict[str, dict[str, str]]:
        """The same of a search, by fold: what `judge` is given."""
        fits = [Fit(*key, 0, fold) for fold in range(len(self.plan.folds))]
        sides = [(self.plan.training_rows(unit.fold, unit.arm), self.plan.folds[unit.fold]) for unit in fits]
        return {fold.name: self.digest_fit_rows(train, fold.validate) for train, fold in sides}

    def _build_prediction_columns(self, fit: Fit, rows: Rows, p: npt.NDArray[np.float64]) -> dict[str, Any]:
        """The unit's rows of predictions.parquet, by column."""
        fold, n = self.plan.folds[fit.fold], len(rows)
        columns = {name: values[rows] for name, values in self.plan.columns.items()}
        return {
            "utterance": columns["ids"],
            **{name: columns[name] for name in ("corpus", "speaker", "session")},
            "arm": [fit.arm] * n,
            "layer": [str(fit.layer)] * n,
            "head": [fit.head] * n,
            "seed": [fit.seed] * n,
            "fold": [fold.name] * n,
            "split": ["validate"] * len(fold.validate) + ["test"] * len(fold.test),
            "label": self.plan.y[rows],
            **dict(zip(PROBABILITIES, p.T, strict=True)),
        }
