"""What a kind of head offers, and what the kinds share.

A kind is one module of this folder, and its name is the `kind` of cards (heads/*.toml): being in the folder is the
registration. The module has the names of `HeadModule`, and what its `make` returns is an `Estimator`. tests/heads holds
every module of the folder to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from embedkit.classes import CLASSES

if TYPE_CHECKING:
    import onnx


Array = npt.NDArray[Any]  # of numbers or names, as the function says
Validation = tuple[Array, Array]  # X [row, dim], y [row]
ClassWeight = str | dict[str, float] | None  # "balanced", a weight by class, or all alike
RandomState = int | np.random.RandomState | None  # what scikit-learn takes as a seed
AnyEstimator = TypeVar("AnyEstimator")


class Estimator(Protocol):
    """A head as a study uses it: a scikit-learn classifier (`clone` and `get_params` work) whose `fit` takes more.

    A fitted head, and one that was loaded, has the two attributes below. It may have more, which are used where they
    exist:

    - `best_epoch_` or `best_iteration_`, from 1: the round whose state was kept. In a refit on all rows, the parameter
      that `HeadModule.ROUNDS` names is the median of these over the folds.
    - `mean_` and `scale_` [dim]: how the features are standardised. The audit compares `mean_` with the training rows,
      unless the head has a parameter `standardize` that is False.
    - `layer_weights_` [layer], of a head with a parameter `layers`: the weight that it learned for each hidden state.
      A study's layer "weighted" needs it.
    """

    classes_: Array  # [class], the names of the classes in training, sorted
    n_features_in_: int  # dim

    def fit(self, X: Array, y: Array, *, views: Array | None = None, validation: Validation | None = None) -> Estimator:
        """Train on X [row, dim] (float32) and the class names y [row]; returns the head itself.

        views: [row, K, dim], augmented views of the same rows, or None; what becomes of them is the card's `views`.
        validation: rows to stop early by. They must not be trained on, and may be ignored.

        The same seed must give the same bits, and the global random generators must stay as they were. Raises
        ValueError where y holds one class only, or views are not of these rows.
        """
        ...

    def predict(self, X: Array) -> Array:
        """The most probable class of each row [row]."""
        ...

    def predict_proba(self, X: Array) -> Array:
        """Probabilities [row, class], columns in the order of `classes_`."""
        ...


class HeadMeta(TypedDict):
    """meta.json of a head's folder, as far as it is the same for every kind."""

    format: int
    kind: str
    classes: list[str]


class HeadModule(Protocol):
    """What a module of this folder offers."""

    VIEWS: tuple[str, ...]  # what a card of this kind may say under `views`: "clean" and one of "draw", "all"
    ROUNDS: str  # the parameter that repeats an early stop on all rows ("epochs"), "" where nothing stops early
    EXTRA_PARAMETERS: tuple[str, ...]  # what a card may set beside the parameters of `constructor`

    def constructor(self, fixed: Mapping[str, object]) -> Callable[..., object]:
        """The class or function whose parameters a card may set, but `random_state`, which is the study's.

        fixed: the card's. Raises ValueError where the card names none.
        """
        ...

    def make(self, parameters: Mapping[str, object], seed: int) -> Estimator:
        """An estimator that is not fitted. Raises ValueError or TypeError for a value out of range."""
        ...

    def save(self, estimator: Estimator, folder: Path) -> Mapping[str, object]:
        """Write the arrays of a fitted head as files named head.*, no pickle among them.

        Returns what goes into meta.json beside the keys of `HeadMeta`.
        """
        ...

    def load(self, folder: Path, meta: HeadMeta) -> Estimator:
        """The head that `save` wrote: it must predict as the saved one did, and have `classes_`, `n_features_in_` and
        whatever else of `Estimator` the saved one had. meta: meta.json, with the keys that `save` returned."""
        ...

    def to_onnx(self, estimator: Estimator, temperature: float) -> onnx.ModelProto:
        """A fitted or loaded head as a graph of opset 21, which `_onnx.py` helps to make.

        Input "embedding" [batch, dim] float32. Outputs "logits" [batch, class], divided by the temperature, and their
        softmax "probabilities" [batch, class], both float32: at temperature 1 those of `predict_proba`.
        """
        ...


def construct(kind: Callable[..., AnyEstimator], parameters: Mapping[str, object], **more: object) -> AnyEstimator:
    """kind(**parameters, **more). TypeError for a parameter that it does not have; types are checked by `kind`."""
    return kind(**parameters, **more)


def class_columns(estimator: Estimator) -> list[int]:
    """For each column of a head's probabilities, the place of its class in CLASSES."""
    return [CLASSES.index(name) for name in estimator.classes_]


def compute_mean_and_scale(X: Array, enabled: bool = True) -> tuple[Array, Array]:
    """Mean and standard deviation of each column [dim] (1 where it is constant), float64; 0 and 1 if not enabled."""
    if not enabled:
        return np.zeros(X.shape[1]), np.ones(X.shape[1])
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(X.astype(np.float64, copy=False))
    return scaler.mean_, scaler.scale_


def stack_views(X: Array, y: Array, views: Array | None) -> tuple[Array, Array, Array, Array]:
    """Each row followed by its K views: X [row * (1 + K), dim], y, the weight 1 / (1 + K) of each, and its row."""
    rows = np.arange(len(X))
    if views is None:
        return X, y, np.ones(len(X)), rows
    copies = 1 + views.shape[1]
    everything = np.concatenate([X[:, None], views], axis=1).reshape(-1, X.shape[1])
    return everything, np.repeat(y, copies), np.full(len(everything), 1 / copies), np.repeat(rows, copies)


def check_views(X: Array, views: Array | None) -> None:
    """Raise ValueError unless views are [row, K, dim] of the same rows."""
    if views is not None and (views.ndim != 3 or views.shape[::2] != X.shape):
        raise ValueError(f"views have shape {views.shape}, expected ({len(X)}, K, {X.shape[1]})")


def index_labels(classes: Array, y: Array) -> npt.NDArray[np.int64]:
    """The place of each label in `classes` (sorted). ValueError for a label that training does not have."""
    unknown = np.setdiff1d(y, classes)
    if len(unknown):
        raise ValueError(f"validation holds class '{unknown[0]}', which the training rows do not")
    return np.searchsorted(classes, y)


def find_classes(y: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """The sorted classes of y, and the place of each label among them. ValueError where there is only one class."""
    from sklearn.utils.multiclass import check_classification_targets

    check_classification_targets(y)
    classes, index = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"a classifier needs two classes, the training rows hold only one class: '{classes[0]}'")
    return classes, index
