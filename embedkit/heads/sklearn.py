"""Any classifier of scikit-learn, named in a card: fixed.estimator = "sklearn.svm.SVC"; the rest are its parameters.

One that gives no probabilities (SVC, LinearSVC, ...) is calibrated by a sigmoid over inner folds of the training rows.
A head is stored as ONNX, so one that was loaded predicts through onnxruntime and cannot be fitted again.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data

from embedkit.errors import did_you_mean
from embedkit.heads._base import (
    Array,
    HeadMeta,
    RandomState,
    Validation,
    check_views,
    construct,
    find_classes,
    stack_views,
)
from embedkit.heads._onnx import convert_with_skl2onnx
from embedkit.heads._parameters import check_library_parameters

if TYPE_CHECKING:
    import onnx

VIEWS = ("clean", "all")
ROUNDS = ""
EXTRA_PARAMETERS = ("estimator", "standardize")


class Sklearn(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier on standardised features; the scaler sees the clean training rows only.

    estimator: a scikit-learn classifier, of which a clone is fitted (None: logistic regression); standardize: False
    leaves the scaler out. Validation rows are not used. An estimator that takes no sample weights gets the views
    unweighted, which is the same, as all their weights are equal.
    """

    def __init__(
        self, estimator: BaseEstimator | None = None, standardize: bool = True, random_state: RandomState = None
    ):
        self.estimator = estimator
        self.standardize = standardize
        self.random_state = random_state

    def fit(
        self,
        X: Array,
        y: Array,
        *,
        views: Array | None = None,
        validation: Validation | None = None,  # noqa: ARG002  every head takes it
    ) -> Sklearn:
        """X [row, dim], y [row]. With views [row, K, dim] all are trained on, each with weight 1 / (1 + K)."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_views(X, views)
        self.classes_, index = find_classes(y)
        scaler = StandardScaler().fit(X) if self.standardize else None
        everything, labels, weight, rows = stack_views(X, y, views)
        everything = everything if scaler is None else scaler.transform(everything)
        estimator = LogisticRegression() if self.estimator is None else clone(self.estimator)
        if "random_state" in estimator.get_params():
            estimator.set_params(random_state=check_random_state(self.random_state).randint(2**31 - 1))
        weights = (
            {"sample_weight": weight} if views is not None and has_fit_parameter(estimator, "sample_weight") else {}
        )
        if not hasattr(estimator, "predict_proba"):
            estimator = CalibratedClassifierCV(estimator, ensemble=False, cv=_make_inner_folds(X, index, rows))
        fitted = estimator.fit(everything, labels, **weights)
        self.pipeline_ = make_pipeline(*([scaler] if scaler else []), fitted)
        return self

    def predict_proba(self, X: Array) -> Array:
        """Probabilities [row, class], float64."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray(self.pipeline_.predict_proba(X))

    def predict(self, X: Array) -> Array:
        """The most probable class of each row."""
        best = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[best])


def _make_inner_folds(X: Array, index: Array, rows: Array) -> list[tuple[Array, Array]]:
    """scikit-learn's own five stratified folds of the training rows, as (train, test) places among the stacked views; a
    row's views stay together. rows: the row of each stacked view. ValueError for a class of one row."""
    k = min(5, np.bincount(index).min())
    if k < 2:
        raise ValueError("calibration needs two training rows of every class; one class has 1 sample")
    split = StratifiedKFold(k).split(X, index)
    return [(np.flatnonzero(np.isin(rows, train)), np.flatnonzero(np.isin(rows, test))) for train, test in split]


class OnnxHead:
    """A head that was stored as ONNX: `classes_`, `n_features_in_`, `predict_proba` and `predict`, nothing else."""

    def __init__(self, path: Path, classes: Array):
        import onnxruntime

        self.path = path
        self.classes_ = classes
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.n_features_in_: int = self.session.get_inputs()[0].shape[1]

    def predict_proba(self, X: Array) -> Array:
        """Probabilities [row, class], float32."""
        return np.asarray(self.session.run(["probabilities"], {"embedding": X.astype(np.float32)})[0])

    def predict(self, X: Array) -> Array:
        """The most probable class of each row."""
        best = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[best])


# ---------------------------------------------------------------- the kind


def constructor(fixed: Mapping[str, object]) -> Callable[..., ClassifierMixin]:
    """The class that fixed.estimator names. Raises ValueError where that is no classifier of scikit-learn."""
    name = fixed.get("estimator", "")
    example = 'expected a dotted name such as "sklearn.svm.SVC"'
    if not isinstance(name, str) or not re.fullmatch(r"sklearn(\.[a-z]\w*)+\.[A-Z]\w*", name):
        raise ValueError(f"fixed.estimator = {name!r}: {example}")
    module_name, _, class_name = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        raise ValueError(f"fixed.estimator = {name!r}: scikit-learn has no {module_name}; {example}") from None
    known = {key: value for key, value in vars(module).items() if _is_classifier(value)}
    if class_name not in known:
        raise ValueError(f"fixed.estimator = {name!r}: no classifier of {module_name}{did_you_mean(class_name, known)}")
    return known[class_name]


def _is_classifier(value: object) -> TypeGuard[type[ClassifierMixin]]:
    return inspect.isclass(value) and issubclass(value, ClassifierMixin) and value.__module__.startswith("sklearn.")


def make(parameters: Mapping[str, object], seed: int) -> Sklearn:
    """A head that is not fitted, of the estimator that is named and its parameters. Raises ValueError or TypeError for
    one that does not exist or is out of range."""
    remaining = dict(parameters)
    if remaining.pop("probability", False):
        raise ValueError("fixed.probability: take it out; what gives no probabilities is calibrated anyway")
    kind, standardize = constructor(remaining), remaining.pop("standardize", True)
    remaining.pop("estimator")
    if not isinstance(standardize, bool):
        raise ValueError(f"fixed.standardize = {standardize!r}: expected true or false")
    estimator = construct(kind, remaining)
    check_library_parameters(estimator)
    return Sklearn(estimator, standardize, random_state=seed)


def save(estimator: Sklearn | OnnxHead, folder: Path) -> dict[str, object]:
    """Write the head as ONNX, head.onnx. meta.json needs no more."""
    (folder / "head.onnx").write_bytes(to_onnx(estimator, 1.0).SerializeToString())
    return {}


def load(folder: Path, meta: HeadMeta) -> OnnxHead:
    """The head that `save` wrote, to predict with."""
    return OnnxHead(folder / "head.onnx", np.array(meta["classes"]))


def to_onnx(estimator: Sklearn | OnnxHead, temperature: float) -> onnx.ModelProto:
    """By skl2onnx; of a head that was loaded, the stored graph with another temperature."""
    if isinstance(estimator, Sklearn):
        return convert_with_skl2onnx(
            estimator.pipeline_, estimator.n_features_in_, len(estimator.classes_), temperature
        )
    import onnx

    model = onnx.load(estimator.path)
    tensor = next(t for t in model.graph.initializer if t.name == "temperature")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(temperature, dtype=np.float32), "temperature"))
    return model
