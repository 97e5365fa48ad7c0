"""What a head offers, and what the kinds share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from embedkit.classes import CLASSES

if TYPE_CHECKING:
    import onnx


Array = npt.NDArray[Any]
Validation = tuple[Array, Array]


class Estimator(Protocol):
    """What a study asks of a head. `best_epoch_` or `best_iteration_` says where early stopping ended, where it did."""

    classes_: Array

    def fit(
        self, X: Array, y: Array, *, views: Array | None = None, validation: Validation | None = None
    ) -> Estimator: ...

    def predict(self, X: Array) -> Array: ...

    def predict_proba(self, X: Array) -> Array:
        """Probabilities [row, class], columns as in `classes_` (sorted, so the four names lie in CLASSES' order)."""
        ...


class HeadModule(Protocol):
    """What a module of this folder offers."""

    VIEWS: tuple[str, ...]  # what a card of this kind may say under `views`
    ROUNDS: str  # the parameter that repeats an early stop on all rows ("epochs"), "" where there is none

    def constructor(self, fixed: Mapping[str, Any]) -> Callable[..., Any]:
        """The class or function whose parameters a card may set; ValueError where the card names none."""
        ...

    def make(self, parameters: dict[str, Any], seed: int) -> Any:
        """An estimator that is not fitted; ValueError or TypeError for a value out of range."""
        ...

    def save(self, estimator: Any, folder: Path) -> dict[str, Any]:
        """Write the fitted arrays; returns what goes into meta.json beside them."""
        ...

    def load(self, folder: Path, meta: dict[str, Any]) -> Any: ...

    def to_onnx(self, estimator: Any, temperature: float) -> onnx.ModelProto: ...


def class_columns(estimator: Estimator) -> list[int]:
    """Of each column of its probabilities, the place of the class in CLASSES."""
    return [CLASSES.index(name) for name in estimator.classes_]


def compute_mean_and_scale(X: Array, enabled: bool = True) -> tuple[Array, Array]:
    """Mean and standard deviation of each column (1 where it is constant), float64; 0 and 1 where not `on`."""
    if not enabled:
        return np.zeros(X.shape[1]), np.ones(X.shape[1])
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(X.astype(np.float64, copy=False))
    return scaler.mean_, scaler.scale_


def stack_views(X: Array, y: Array, views: Array | None) -> tuple[Array, Array, Array, Array]:
    """Rows and their K views below each other: X [row * (1 + K), dim], y, weights 1 / (1 + K), the row of each."""
    rows = np.arange(len(X))
    if views is None:
        return X, y, np.ones(len(X)), rows
    copies = 1 + views.shape[1]
    everything = np.concatenate([X[:, None], views], axis=1).reshape(-1, X.shape[1])
    return everything, np.repeat(y, copies), np.full(len(everything), 1 / copies), np.repeat(rows, copies)


def check_views(X: Array, views: Array | None) -> None:
    """ValueError unless views are [row, K, dim] of the same rows."""
    if views is not None and (views.ndim != 3 or views.shape[::2] != X.shape):
        raise ValueError(f"views have shape {views.shape}, expected ({len(X)}, K, {X.shape[1]})")


def index_labels(classes: Array, y: Array) -> npt.NDArray[np.int64]:
    """The place of each label in `classes` (sorted). ValueError for a label that training does not have."""
    unknown = np.setdiff1d(y, classes)
    if len(unknown):
        raise ValueError(f"validation holds class '{unknown[0]}', which the training rows do not")
    return np.searchsorted(classes, y)


def find_classes(y: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """The sorted classes of y, and the place of each label in them. ValueError where there is only one."""
    from sklearn.utils.multiclass import check_classification_targets

    check_classification_targets(y)
    classes, index = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"a classifier needs two classes, the training rows hold only one class: '{classes[0]}'")
    return classes, index
