"""Scores of predictions: WA, UA, F1, and the weights that balance classes. Only numpy.

Labels are class names. WA (weighted accuracy) is plain accuracy; UA (unweighted accuracy, unweighted average recall) is
the mean of the recalls of the classes that are present in the truth; macro F1 is over every class that is present or
predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from embedkit.classes import ClassLabels


class Scores(TypedDict):
    """WA, UA, macro F1, and the F1 of each class that is present or predicted, all 0..1."""

    wa: float
    ua: float
    macro_f1: float
    f1: dict[str, float]


def wa(y: ClassLabels, predicted: ClassLabels) -> float:
    """Weighted accuracy: the share of rows that are right, 0..1."""
    return float(np.mean(np.asarray(y) == np.asarray(predicted)))


def ua(y: ClassLabels, predicted: ClassLabels) -> float:
    """Unweighted accuracy: the mean of the recalls of the classes present in y, 0..1."""
    truth, right = np.asarray(y), np.asarray(y) == np.asarray(predicted)
    return float(np.mean([right[truth == name].mean() for name in np.unique(truth)]))


def f1(y: ClassLabels, predicted: ClassLabels) -> dict[str, float]:
    """F1 of each class that is present or predicted: 2 hits / (rows of it + predictions of it), 0..1."""
    truth, predicted_labels = np.asarray(y), np.asarray(predicted)
    return {
        str(name): float(
            2
            * np.sum((truth == name) & (predicted_labels == name))
            / (np.sum(truth == name) + np.sum(predicted_labels == name))
        )
        for name in np.union1d(truth, predicted_labels)
    }


def macro_f1(y: ClassLabels, predicted: ClassLabels) -> float:
    """Mean of the F1 of the classes that are present or predicted, 0..1."""
    return float(np.mean(list(f1(y, predicted).values())))


def compute_scores(y: ClassLabels, predicted: ClassLabels) -> Scores:
    """All scores of predictions. Raises ValueError for no rows or unequal lengths."""
    if not len(y) or len(y) != len(predicted):
        raise ValueError(f"expected as many labels as predictions, at least one; got {len(y)} and {len(predicted)}")
    by_class = f1(y, predicted)
    return {
        "wa": wa(y, predicted),
        "ua": ua(y, predicted),
        "macro_f1": float(np.mean(list(by_class.values()))),
        "f1": by_class,
    }


def confusion_matrix(y: ClassLabels, predicted: ClassLabels, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Counts [truth, predicted] in the order of classes."""
    truth, predicted_labels = np.asarray(y), np.asarray(predicted)
    return np.array([[np.sum((truth == a) & (predicted_labels == b)) for b in classes] for a in classes], np.int64)


def balanced_weights(y: ClassLabels) -> dict[str, float]:
    """Weight n / (k n_c) of each of the k classes present: the more rows a class has, the less each of them weighs.

    >>> balanced_weights(["anger", "anger", "anger", "sadness"])
    {'anger': 0.6666666666666666, 'sadness': 2.0}
    """
    names, counts = np.unique(np.asarray(y), return_counts=True)
    return {str(name): len(y) / (len(names) * int(count)) for name, count in zip(names, counts, strict=True)}
