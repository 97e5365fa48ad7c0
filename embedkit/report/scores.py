"""From a record to results: scores by fold and pooled, their intervals by speaker, calibration, variance.

Everything starts from confusion matrices [truth, said], one for each fold and seed, and one for each speaker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedkit import calibration, stats
from embedkit.classes import CLASSES, PROBABILITIES

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]
RecordKey = tuple[str, ...]  # (arm, layer, head), as the record has them

SCORES: dict[str, stats.Score] = {"wa": stats.wa, "ua": stats.ua, "macro_f1": stats.macro_f1}
CLASS_SCORES: dict[str, stats.Score] = {"f1": stats.f1s, "recall": stats.recalls, "precision": stats.precisions}
AROUSAL = {"high": ("anger", "happiness"), "low": ("neutral", "sadness")}


def compute_results(predictions: pd.DataFrame, encoder: str) -> list[dict[str, Any]]:
    """One result for each (arm, layer, head) of the record, in its order.

    Each is {arm, head, layer, encoder, wa, ua, macro_f1, f1, recall, precision: {class: ...}, validation_ua, confusion,
    arousal, calibration, variance}. A metric is {mean, sd, folds, pooled, interval}: `folds` the folds' values (each
    the mean over seeds), their mean and standard deviation (ddof 1; None for one fold), the value over all predictions
    taken together, and its 95 % interval by speaker. None: a class that a fold does not have.
    """
    computed = []
    for (arm, layer, head), rows in _group_results(predictions):
        names = {"arm": arm, "head": head, "layer": _parse_layer(layer), "encoder": encoder}
        computed.append({**names, **_compute_result(rows)})
    return computed


def build_speaker_tables(predictions: pd.DataFrame) -> dict[RecordKey, Array]:
    """Of each result one confusion matrix a speaker over its test rows, [speaker, truth, said]."""
    return {key: _tabulate_speakers(_select_test_rows(rows)) for key, rows in _group_results(predictions)}


def pick_labels(predictions: pd.DataFrame) -> npt.NDArray[np.str_]:
    """The class with the highest probability of each row."""
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


def _compute_result(rows: pd.DataFrame) -> dict[str, Any]:
    """The metrics of one (arm, layer, head)."""
    test, validate = _select_test_rows(rows), rows[rows["split"] == "validate"]
    by_speaker, matrices = _tabulate_speakers(test), _build_matrices(test)
    result: dict[str, Any] = {
        name: _summarise_metric(matrices, score, stats.compute_interval(by_speaker, score))
        for name, score in SCORES.items()
    }
    for name, score in CLASS_SCORES.items():
        each = {c: stats.select_class(score, c) for c in CLASSES}
        result[name] = {
            c: _summarise_metric(matrices, one, stats.compute_interval(by_speaker, one)) for c, one in each.items()
        }
    return {
        **result,
        "validation_ua": _summarise_metric(_build_matrices(validate), stats.ua),
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


def _summarise_metric(
    matrices: Sequence[Sequence[Array]], score: stats.Score, interval: stats.Interval | None = None
) -> Any:
    """A score of confusion matrices [fold][seed]."""
    folds = [_average_defined(score(np.stack(seeds))) for seeds in matrices]
    pooled = _average_defined(score(np.sum([matrix for seeds in matrices for matrix in seeds], axis=0)[None]))
    return _summarise_folds(folds, pooled) | ({"interval": asdict(interval)} if interval else {})


def _summarise_folds(folds: Sequence[float | None], pooled: float | None) -> dict[str, Any]:
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


def _compute_arousal(by_speaker: Array) -> dict[str, Any]:
    """Anger and happiness against neutral and sadness: a 2x2 [truth, said], recall and precision of each side."""
    halves = np.array([[name in names for name in CLASSES] for names in AROUSAL.values()], float)  # [side, class]
    folded = halves @ by_speaker @ halves.T

    def score_side(score: stats.Score, i: int) -> dict[str, Any]:
        return asdict(stats.compute_interval(folded, lambda t: np.asarray(score(t)[..., i])))

    names = {"recall": stats.recalls, "precision": stats.precisions}
    sides = {name: {at: score_side(score, i) for i, at in enumerate(AROUSAL)} for name, score in names.items()}
    return {"table": folded.sum(0).tolist(), **sides}


def _compare_calibration(test: pd.DataFrame, validate: pd.DataFrame) -> dict[str, Any]:
    """ECE, NLL and Brier as they are and after a temperature, which each fit's own validation rows give."""
    before, after, seed_temperatures = [], [], []
    for fold, rows in test.groupby("fold", sort=False, observed=True):
        fold_validation = validate[validate["fold"] == fold]
        pairs = [
            (each, fold_validation[fold_validation["seed"] == seed]) for seed, each in rows.groupby("seed", sort=False)
        ]
        seed_temperatures.append([calibration.fit_temperature(*_read_probabilities(held)) for _, held in pairs])
        scored = [(_read_probabilities(each), t) for (each, _), t in zip(pairs, seed_temperatures[-1], strict=True)]
        before.append([(y, p) for (y, p), _ in scored])
        after.append([(y, calibration.apply_temperature(p, t)) for (y, p), t in scored])
    stages = {"before": _measure_calibration(before), "after": _measure_calibration(after)}
    temperatures = [float(np.exp(np.mean(np.log(seeds)))) for seeds in seed_temperatures]
    return {**stages, "temperature": {"median": float(np.median(temperatures)), "folds": temperatures}}


def _read_probabilities(rows: pd.DataFrame) -> tuple[npt.NDArray[np.str_], Array]:
    return rows["label"].to_numpy(str), rows[PROBABILITIES].to_numpy(float)


def _measure_calibration(folds: Sequence[Sequence[tuple[npt.NDArray[np.str_], Array]]]) -> dict[str, Any]:
    """{ece, nll, brier: {mean, sd, folds, pooled}, reliability} of (labels, probabilities) [fold][seed]."""
    everything = [pair for seeds in folds for pair in seeds]
    y, p = np.concatenate([y for y, _ in everything]), np.concatenate([p for _, p in everything])
    measures: dict[str, Callable[..., float]] = {
        "ece": calibration.ece, "nll": calibration.nll, "brier": calibration.brier
    }  # fmt: skip
    summaries: dict[str, Any] = {
        name: _summarise_folds([float(np.mean([measure(*pair) for pair in seeds])) for seeds in folds], measure(y, p))
        for name, measure in measures.items()
    }
    return {**summaries, "reliability": calibration.reliability_curve(y, p)}


def _compute_variance(matrices: Sequence[Sequence[Array]]) -> dict[str, Any] | None:
    """How much of the variance of UA is due to folds, to seeds, to the rest; None unless there are 2 of both."""
    seeds = min(len(fold) for fold in matrices)
    if len(matrices) < 2 or seeds < 2:
        return None
    components = stats.estimate_components([[float(stats.ua(matrix)) for matrix in fold] for fold in matrices])
    return {**asdict(components), "shares": components.shares}
