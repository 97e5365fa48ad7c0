"""Confusion matrices by speaker, and scores as functions of confusion matrices [..., truth, predicted]. Only numpy.

Scores take any number of matrices at once, so a resampling of speakers is one call. They give NaN where they are not
defined (a class that is neither present nor predicted).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from embedkit.classes import CLASSES, ClassLabels

Array = npt.NDArray[np.float64]
Score = Callable[[Array], Array]  # confusion matrices [..., truth, predicted] -> [...]


def confusion_by_cluster(y: ClassLabels, predicted: npt.ArrayLike, clusters: npt.ArrayLike) -> Array:
    """One confusion matrix per cluster (speaker), [cluster, truth, predicted], classes in the order of CLASSES.

    y and clusters [row]; predicted [row], or [seed, row]: then the mean of the seeds' matrices, so that all seeds weigh
    the same and heads with different numbers of seeds can be compared. Clusters are in sorted order.
    Raises ValueError for no rows, unequal lengths, or a label that is no class.
    """
    cluster_of_row, predicted_labels = np.asarray(clusters), np.atleast_2d(np.asarray(predicted))
    if not len(y) or not len(y) == len(cluster_of_row) == predicted_labels.shape[-1]:
        lengths = f"{len(y)}, {predicted_labels.shape[-1]}, {len(cluster_of_row)}"
        raise ValueError(f"expected as many labels, predictions and clusters, at least one; got {lengths}")
    names, group = np.unique(cluster_of_row, return_inverse=True)
    k = len(CLASSES)
    cell = (group * k + _encode_classes(y)) * k + _encode_classes(predicted_labels)  # [seed, row]
    counts = np.bincount(cell.ravel(), minlength=len(names) * k * k) / len(predicted_labels)
    return counts.reshape(len(names), k, k)


def _encode_classes(class_names: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """The index in CLASSES of each name, in the shape of class_names."""
    labels = np.asarray(class_names)
    names, where = np.unique(labels, return_inverse=True)
    if unknown := sorted({str(name) for name in names} - set(CLASSES)):
        raise ValueError(f"expected the classes {', '.join(CLASSES)}; got {', '.join(unknown)}")
    return np.array([CLASSES.index(str(name)) for name in names], np.intp)[where].reshape(labels.shape)


def wa(t: Array) -> Array:
    """Weighted accuracy: the share of rows that are right, 0..1; NaN for an empty matrix."""
    return _divide_defined(_count_hits(t).sum(-1), t.sum((-1, -2)))


def ua(t: Array) -> Array:
    """Unweighted accuracy: the mean of the recalls of the classes present in the truth, 0..1."""
    return _average_defined(recalls(t))


def macro_f1(t: Array) -> Array:
    """Mean of the F1 of the classes that are present or predicted, 0..1."""
    return _average_defined(f1s(t))


def recalls(t: Array) -> Array:
    """[..., class]: hits / rows of the class; NaN where it has none."""
    return _divide_defined(_count_hits(t), t.sum(-1))


def precisions(t: Array) -> Array:
    """[..., class]: hits / predictions of the class; NaN where it has none."""
    return _divide_defined(_count_hits(t), t.sum(-2))


def f1s(t: Array) -> Array:
    """[..., class]: 2 hits / (rows of the class + predictions of it); NaN where both are 0."""
    return _divide_defined(2 * _count_hits(t), t.sum(-1) + t.sum(-2))


def select_class(score: Score, name: str) -> Score:
    """The score of one class, from `recalls`, `precisions` or `f1s`."""
    column = CLASSES.index(name)
    return lambda t: np.asarray(score(t)[..., column])


def _count_hits(t: Array) -> Array:
    return np.asarray(np.diagonal(t, axis1=-2, axis2=-1))


def _divide_defined(top: Array, bottom: Array) -> Array:
    return np.asarray(np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=bottom > 0))


def _average_defined(values: Array) -> Array:
    """Mean over the last axis of the values that are not NaN."""
    defined = ~np.isnan(values)
    return _divide_defined(np.where(defined, values, 0.0).sum(-1), defined.sum(-1).astype(float))
