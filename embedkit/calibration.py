"""Calibration of probabilities: ECE, NLL, Brier score, the reliability curve, and temperature scaling.

Everywhere y [row] are class names and probabilities [row, class] are in the order of CLASSES, each row's sum 1.
ValueError is raised for no rows, another shape, a label that is no class, and NaN.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import numpy.typing as npt

from embedkit.classes import CLASSES, ClassLabels

Array = npt.NDArray[np.float64]

BINS = 15
PROBABILITY_FLOOR = 1e-12  # logarithms are taken of at least this, so that a wrong 0 does not make the NLL infinite
TEMPERATURE_RANGE = (0.05, 20.0)  # of `fit_temperature`


class CalibrationScores(TypedDict):
    """Expected calibration error (0..1), negative log likelihood (nats), Brier score (0..2)."""

    ece: float
    nll: float
    brier: float


class ReliabilityBin(TypedDict):
    """The rows whose top probability lies in (low, high]: its mean, the share that is right, and their number."""

    low: float
    high: float
    confidence: float
    accuracy: float
    count: int


def compute_scores(y: ClassLabels, probabilities: npt.ArrayLike) -> CalibrationScores:
    """ECE, NLL and Brier score of predictions."""
    return {"ece": ece(y, probabilities), "nll": nll(y, probabilities), "brier": brier(y, probabilities)}


def ece(y: ClassLabels, probabilities: npt.ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error of the top class, 0..1: mean |accuracy - confidence| over bins, weighted by rows.

    Equal-width bins, closed on the right (Guo et al., ICML 2017, equation 3).
    """
    curve = reliability_curve(y, probabilities, bins)
    return float(sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in curve) / len(y))


def reliability_curve(y: ClassLabels, probabilities: npt.ArrayLike, bins: int = BINS) -> list[ReliabilityBin]:
    """The curve of a reliability diagram: each bin of equal width that has rows."""
    truth, p = _check_probabilities(y, probabilities)
    top, right = p.max(1), p.argmax(1) == truth
    edges = np.linspace(0.0, 1.0, bins + 1)
    where = np.clip(np.searchsorted(edges, top, side="left") - 1, 0, bins - 1)
    return [
        {
            "low": float(edges[b]),
            "high": float(edges[b + 1]),
            "confidence": float(top[where == b].mean()),
            "accuracy": float(right[where == b].mean()),
            "count": int((where == b).sum()),
        }
        for b in np.unique(where)
    ]


def nll(y: ClassLabels, probabilities: npt.ArrayLike) -> float:
    """Mean of -log p(truth), in nats; a p below 1e-12 counts as 1e-12."""
    truth, p = _check_probabilities(y, probabilities)
    return float(-np.log(np.maximum(p[np.arange(len(p)), truth], PROBABILITY_FLOOR)).mean())


def brier(y: ClassLabels, probabilities: npt.ArrayLike) -> float:
    """Mean over rows of the sum over classes of (p - truth)^2, 0..2 (Brier 1950)."""
    truth, p = _check_probabilities(y, probabilities)
    return float(((p - np.eye(len(CLASSES))[truth]) ** 2).sum(1).mean())


def fit_temperature(y: ClassLabels, probabilities: npt.ArrayLike) -> float:
    """The temperature with the least NLL on these rows (a study's validation part), 0.05..20.

    A temperature above 1 means that the head is overconfident. NLL is convex in 1/T, so the search over log T finds the
    only minimum.
    """
    from scipy import optimize

    truth, p = _check_probabilities(y, probabilities)
    logits, rows = np.log(np.maximum(p, PROBABILITY_FLOOR)), np.arange(len(p))

    def loss(log_t: float) -> float:
        scaled = logits * np.exp(-log_t)
        top = scaled.max(1)
        return float((top + np.log(np.exp(scaled - top[:, None]).sum(1)) - scaled[rows, truth]).mean())

    low, high = np.log(TEMPERATURE_RANGE)
    return float(
        np.exp(optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-9}).x)
    )


def apply_temperature(probabilities: npt.ArrayLike, temperature: float) -> Array:
    """softmax(log p / T), which is the same as dividing the logits by T; the predicted label never changes.

    Raises ValueError for a temperature that is not above 0.

    >>> apply_temperature([[0.8, 0.2, 0.0, 0.0]], 2.0).round(3).tolist()
    [[0.667, 0.333, 0.0, 0.0]]
    """
    if not temperature > 0:
        raise ValueError(f"expected a temperature above 0, got {temperature}")
    scaled = np.log(np.maximum(np.asarray(probabilities, float), PROBABILITY_FLOOR)) / temperature
    grown = np.exp(scaled - scaled.max(-1, keepdims=True))
    return np.asarray(grown / grown.sum(-1, keepdims=True))


def _check_probabilities(y: ClassLabels, probabilities: npt.ArrayLike) -> tuple[npt.NDArray[np.intp], Array]:
    """The index of each label in CLASSES, and the probabilities; ValueError where something is wrong with them."""
    p, labels = np.asarray(probabilities, float), np.asarray(y)
    if not len(labels) or p.shape != (len(labels), len(CLASSES)):
        raise ValueError(f"expected probabilities [{len(labels)}, {len(CLASSES)}], at least one row; got {p.shape}")
    if not np.allclose(p.sum(1), 1, atol=1e-3) or p.min() < 0:
        raise ValueError("expected probabilities, at least 0 and with sum 1 in each row")
    names, where = np.unique(labels, return_inverse=True)
    if unknown := sorted({str(name) for name in names} - set(CLASSES)):
        raise ValueError(f"expected the classes {', '.join(CLASSES)}; got {', '.join(unknown)}")
    return np.array([CLASSES.index(str(name)) for name in names], np.intp)[where], p
