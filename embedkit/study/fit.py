"""One fit: features from the cache, a head trained on a fold, its predictions."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from embedkit import heads, metrics
from embedkit.cache import Cache
from embedkit.classes import CLASSES, PROBABILITIES
from embedkit.encoders import STATS
from embedkit.errors import FitError
from embedkit.report.document import RowDigests
from embedkit.study import adapt
from embedkit.study.document import FitFacts
from embedkit.study.folder import Column, head_folder, part_path, write_part
from embedkit.study.folds import Rows
from embedkit.study.plan import Fit, Layer, ResultKey, StudyPlan
from embedkit.study.source import Source
from embedkit.threads import one_thread


class FoldTrainer:
    """Trains heads in one process, on one thread. It reads features from the caches and keeps the last two layers."""

    def __init__(self, planned: StudyPlan) -> None:
        """Nothing is read before it is needed."""
        self.plan = planned
        # The features read last, by (hidden states, views).
        self._features: dict[tuple[tuple[int, ...], int], npt.NDArray[np.float16]] = {}
        self._adaptations: dict[tuple[str, Layer, int], adapt.Adaptation] = {}

    def features(self, layer: Layer, views: int) -> npt.NDArray[np.float16]:
        """Features [row, 1 + views, dim] of every row of the study.

        Along dim, the statistics of a hidden state are concatenated, then the hidden states of the layer.
        """
        hidden = tuple(self.plan.hidden(layer))
        if (hidden, views) not in self._features:
            if len(self._features) > 1:
                self._features.pop(next(iter(self._features)))
            self._features[hidden, views] = np.concatenate(
                [self._read(source, hidden, views) for source in self.plan.sources.values()]
            )
        return self._features[hidden, views]

    def _read(self, source: Source, hidden: Sequence[int], views: int) -> npt.NDArray[np.float16]:
        stats = [STATS.index(name) for name in self.plan.study.stats]
        cached_views = min(views, source.identity.views)  # a corpus that only tests may have fewer
        with Cache.open(source.path) as cache:
            read = cache.features(source.rows, views=range(cached_views + 1), layers=hidden, stats=stats)
        read = read.reshape(len(read), cached_views + 1, -1)
        block = np.full((len(read), 1 + views, read.shape[2]), np.nan, np.float16)
        block[:, : cached_views + 1] = read
        return block

    def inputs(self, fit: Fit, rows: Rows, views: int = 0) -> npt.NDArray[np.float32]:
        """What the head of a fit is given: features [row, 1 + views, dim], normalised and aligned as the card says."""
        x, study = self.features(fit.layer, views), self.plan.study
        if (study.normalise, study.align) == ("none", "none"):
            return x[rows].astype(np.float32)
        corpora, speakers = (self.plan.columns[name] for name in ("corpus", "speaker"))
        if (key := (fit.arm, fit.layer, fit.fold)) not in self._adaptations:
            self._adaptations = {k: kept for k, kept in self._adaptations.items() if k[:2] == key[:2]}
            train = self.plan.training_rows(fit.fold, fit.arm)
            self._adaptations[key] = adapt.fit(
                x[:, 0],
                train,
                corpora,
                speakers,
                normalise=study.normalise,
                align=study.align,
                study_corpus=study.corpus,
            )
        groups = adapt.assign_scale_groups(study.normalise, corpora, speakers)[rows]
        return self._adaptations[key].apply(x[rows], groups, corpora[rows])

    def fit(self, fit: Fit, params: Mapping[str, object], validate: Rows | None) -> heads.Estimator:
        """Train the head of a fit. params: win over those of its card. validate: rows to stop early by.

        Raises FitError that names the fit where the estimator fails.
        """
        card, y, train = self.plan.heads[fit.head], self.plan.y, self.plan.training_rows(fit.fold, fit.arm)
        layers = {"layers": len(self.plan.hidden(fit.layer))} if fit.layer == "weighted" else {}
        card = card.model_copy(update={"fixed": {**card.fixed, **params, **layers}})
        views = self.plan.views if card.views != "clean" else 0
        estimator = heads.build(card, fit.seed)
        x = self.inputs(fit, train, views)
        validation = None if validate is None else (self.inputs(fit, validate, views)[:, 0], y[validate])
        try:
            with one_thread(torch=False):  # an MLP keeps torch to one thread itself
                estimator.fit(x[:, 0], y[train], views=x[:, 1:] if views else None, validation=validation)
        except (ValueError, ArithmeticError, RuntimeError) as error:
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise FitError(f"{fit.folder()}, seed {fit.seed}, fold {fit.fold + 1}: {message}") from error
        return estimator

    def probabilities(self, estimator: heads.Estimator, fit: Fit, rows: Rows) -> npt.NDArray[np.float64]:
        """[row, class] in the order of CLASSES, of the clean view; 0 for a class that no training row has."""
        hidden = tuple(self.plan.hidden(fit.layer))
        views = next((v for kept, v in self._features if kept == hidden), 0)  # features with views have the clean one
        x = np.ascontiguousarray(self.inputs(fit, rows, views)[:, 0])
        result = np.zeros((len(rows), len(CLASSES)))
        with one_thread(torch=False):
            result[:, heads.class_columns(estimator)] = estimator.predict_proba(x)
        return result

    def validation_ua(self, fit: Fit, params: Mapping[str, object]) -> float:
        """The validation UA of a fit, 0..1; no test row is used for it."""
        fold = self.plan.folds[fit.fold]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=UserWarning)
            estimator = self.fit(fit, params, fold.validate)
        p = self.probabilities(estimator, fit, fold.validate)
        return metrics.ua(self.plan.y[fold.validate], np.array(CLASSES)[p.argmax(1)])

    def train(self, fit: Fit, params: Mapping[str, object]) -> None:
        """Train a head, keep it (of the first seed), and write the predictions of its validation and test rows."""
        fold, train = self.plan.folds[fit.fold], self.plan.training_rows(fit.fold, fit.arm)
        begin = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", category=UserWarning)  # scikit-learn's ConvergenceWarning is one
            estimator = self.fit(fit, params, fold.validate)
        best_round = getattr(estimator, "best_epoch_", getattr(estimator, "best_iteration_", None))
        facts: FitFacts = {
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

    def digest_fit_rows(self, train: Rows, validate: Rows) -> RowDigests:
        """The digests of the rows that a fit was given, which the audit compares with the plan."""
        return {"train": self.plan.digest_utterances(train), "validate": self.plan.digest_utterances(validate)}

    def digest_search_rows(self, key: ResultKey) -> dict[str, RowDigests]:
        """The digests of the rows that a search was given, by fold: those of `validation_ua`."""
        arm, _, _ = key
        return {
            fold.name: self.digest_fit_rows(self.plan.training_rows(i, arm), fold.validate)
            for i, fold in enumerate(self.plan.folds)
        }

    def _build_prediction_columns(self, fit: Fit, rows: Rows, p: npt.NDArray[np.float64]) -> dict[str, Column]:
        """A fit's rows of predictions.parquet, by column. rows: of validation, then of test; p: [row, class]."""
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
