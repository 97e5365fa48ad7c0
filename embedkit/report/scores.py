"""From predictions to results: scores by fold and pooled, their intervals by speaker, calibration, variance.

Everything starts from confusion matrices [truth, predicted], one for each fold and seed, and one for each speaker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedkit import calibration, stats
from embedkit.classes import CLASSES, PROBABILITIES
from embedkit.report.document import Arousal, Calibration, CalibrationStage, FoldValues, Metric, Result, Variance
from embedkit.stats import IntervalDocument

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]
RecordKey = tuple[str, str, str]  # (arm, layer, head), as in predictions.parquet
Predictions = tuple[npt.NDArray[np.str_], Array]  # labels [row], probabilities [row, class]

AROUSAL = {"high": ("anger", "happiness"), "low": ("neutral", "sadness")}


def compute_results(predictions: pd.DataFrame, encoder: str) -> list[Result]:
    """One result for each (arm, layer, head) of predictions.parquet, in its order."""
    return [_compute_result(key, encoder, rows) for key, rows in _group_results(predictions)]


def build_speaker_tables(predictions: pd.DataFrame) -> dict[tuple[str, ...], Array]:
    """Of each (arm, layer, head) the confusion matrices [speaker, truth, predicted] of its test rows."""
    return {key: _tabulate_speakers(_select_test_rows(rows)) for key, rows in _group_results(predictions)}


def pick_labels(predictions: pd.DataFrame) -> npt.NDArray[np.str_]:
    """The class with the highest probability in each row."""
    best: npt.NDArray[np.str_] = np.array(CLASSES)[predictions[PROBABILITIES].to_numpy().argmax(1)]
    return best


def _group_results(predictions: pd.DataFrame) -> list[tuple[RecordKey, pd.DataFrame]]:
    groups = predictions.groupby(["arm", "layer", "head"], sort=False, observed=True)
    return [((str(arm), str(layer), str(head)), rows) for (arm, layer, head), rows in groups]


def _parse_layer(layer: str) -> int | str:
    return int(layer) if layer.isdecimal() else layer


def _select_test_rows(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["split"] == "test"]


def _tabulate_speakers(rows: pd.DataFrame) -> Array:
    return stats.confusion_by_cluster(rows["label"].to_numpy(str), pick_labels(rows), rows["speaker"].to_numpy(str))


def _compute_result(key: RecordKey, encoder: str, rows: pd.DataFrame) -> Result:
    """All figures of one (arm, layer, head)."""
    arm, layer, head = key
    test, validate = _select_test_rows(rows), rows[rows["split"] == "validate"]
    by_speaker, matrices = _tabulate_speakers(test), _build_matrices(test)

    def summarise(score: stats.Score) -> Metric:
        interval = stats.compute_interval(by_speaker, score).to_document()
        return {**_summarise_score(matrices, score), "interval": interval}

    def summarise_classes(score: stats.Score) -> dict[str, Metric]:
        return {name: summarise(stats.select_class(score, name)) for name in CLASSES}

    return {
        "arm": arm,
        "head": head,
        "layer": _parse_layer(layer),
        "encoder": encoder,
        "wa": summarise(stats.wa),
        "ua": summarise(stats.ua),
        "macro_f1": summarise(stats.macro_f1),
        "f1": summarise_classes(stats.f1s),
        "recall": summarise_classes(stats.recalls),
        "precision": summarise_classes(stats.precisions),
        "validation_ua": _summarise_score(_build_matrices(validate), stats.ua),
        "confusion": by_speaker.sum(0).tolist(),
        "arousal": _compute_arousal(by_speaker),
        "calibration": _compare_calibration(test, validate),
        "variance": _compute_variance(matrices),
    }


def _build_matrices(rows: pd.DataFrame) -> list[list[Array]]:
    """[fold][seed] confusion matrices."""
    folds = rows.groupby("fold", sort=False, observed=True)
    return [[_build_matrix(each) for _, each in fold.groupby("seed", sort=False)] for _, fold in folds]


def _build_matrix(rows: pd.DataFrame) -> Array:
    matrix: Array = stats.confusion_by_cluster(rows["label"].to_numpy(str), pick_labels(rows), np.zeros(len(rows)))[0]
    return matrix


def _summarise_score(matrices: Sequence[Sequence[Array]], score: stats.Score) -> FoldValues:
    """A score of confusion matrices [fold][seed]."""
    folds = [_average_defined(score(np.stack(seeds))) for seeds in matrices]
    pooled = _average_defined(score(np.sum([matrix for seeds in matrices for matrix in seeds], axis=0)[None]))
    return _summarise_folds(folds, pooled)


def _summarise_folds(folds: Sequence[float | None], pooled: float | None) -> FoldValues:
    defined = [value for value in folds if value is not None]
    return {
        "mean": float(np.mean(defined)) if defined else None,
        "sd": float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        "folds": list(folds),
        "pooled": pooled,
    }


def _average_defined(values: Array) -> float | None:
    """The mean of what is defined; None where nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


# ---------------------------------------------------------------- more than scores


def _compute_arousal(by_speaker: Array) -> Arousal:
    """The scores when only arousal counts: anger and happiness against neutral and sadness."""
    halves = np.array([[name in names for name in CLASSES] for names in AROUSAL.values()], float)  # [side, class]
    folded = halves @ by_speaker @ halves.T  # [speaker, truth, predicted]

    def interval(score: stats.Score, side: int) -> IntervalDocument:
        return stats.compute_interval(folded, lambda t: np.asarray(score(t)[..., side])).to_document()

    return {
        "table": folded.sum(0).tolist(),
        "recall": {name: interval(stats.recalls, side) for side, name in enumerate(AROUSAL)},
        "precision": {name: interval(stats.precisions, side) for side, name in enumerate(AROUSAL)},
    }


def _compare_calibration(test: pd.DataFrame, validate: pd.DataFrame) -> Calibration:
    """ECE, NLL and Brier as trained, and with the temperature that the validation rows of each fit give."""
    before: list[list[Predictions]] = []  # [fold][seed]
    after: list[list[Predictions]] = []
    temperatures: list[float] = []  # [fold]
    for fold, rows in test.groupby("fold", sort=False, observed=True):
        of_fold = validate[validate["fold"] == fold]
        predictions = [(seed, _read_probabilities(of_seed)) for seed, of_seed in rows.groupby("seed", sort=False)]
        seed_temperatures = [
            calibration.fit_temperature(*_read_probabilities(of_fold[of_fold["seed"] == seed]))
            for seed, _ in predictions
        ]
        before.append([each for _, each in predictions])
        after.append(
            [
                (y, calibration.apply_temperature(p, temperature))
                for (y, p), temperature in zip(before[-1], seed_temperatures, strict=True)
            ]
        )
        temperatures.append(float(np.exp(np.mean(np.log(seed_temperatures)))))
    return {
        "before": _measure_calibration(before),
        "after": _measure_calibration(after),
        "temperature": {"median": float(np.median(temperatures)), "folds": temperatures},
    }


def _read_probabilities(rows: pd.DataFrame) -> Predictions:
    return rows["label"].to_numpy(str), rows[PROBABILITIES].to_numpy(float)


def _measure_calibration(folds: Sequence[Sequence[Predictions]]) -> CalibrationStage:
    """The measures of (labels, probabilities) [fold][seed]."""
    everything = [each for seeds in folds for each in seeds]
    y, p = np.concatenate([y for y, _ in everything]), np.concatenate([p for _, p in everything])

    def summarise(measure: Callable[[npt.NDArray[np.str_], Array], float]) -> FoldValues:
        return _summarise_folds([float(np.mean([measure(*each) for each in seeds])) for seeds in folds], measure(y, p))

    return {
        "ece": summarise(calibration.ece),
        "nll": summarise(calibration.nll),
        "brier": summarise(calibration.brier),
        "reliability": calibration.reliability_curve(y, p),
    }


def _compute_variance(matrices: Sequence[Sequence[Array]]) -> Variance | None:
    """How much of the variance of UA is due to folds, to seeds and to the rest; None unless there are 2 of both."""
    seeds = min(len(fold) for fold in matrices)
    if len(matrices) < 2 or seeds < 2:
        return None
    components = stats.estimate_components([[float(stats.ua(matrix)) for matrix in fold] for fold in matrices])
    return {
        "fold": components.fold,
        "seed": components.seed,
        "rest": components.rest,
        "shares": components.shares,
    }
