"""LightGBM on the raw features, with settings that cost a tenth of its defaults (heads/lightgbm.toml).

Trained with LightGBM's own `train`: always deterministic, one thread, softmax over the classes. Linear trees are not
offered: the ONNX converter takes them without a word and is wrong by 0.37.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import lightgbm as lgb
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted, validate_data

from embedkit.heads._base import Array, Validation, check_views, find_classes, index_labels, stack_views
from embedkit.heads._onnx import convert_with_skl2onnx

VIEWS = ("clean", "all")
ROUNDS = "n_estimators"


class LightGBM(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Gradient-boosted trees; parameters by LightGBM's own names, `patience` for early_stopping_rounds.

    With validation, training ends after `patience` iterations without a better log loss there (rows weighted by
    class_weight as in training), and the best iteration is kept: `best_iteration_`, from 1.
    """

    boosting_type = "gbdt"  # the ONNX converter asks

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "num_leaves": [Interval(Integral, 2, 131072, closed="both")],
        "max_depth": [Interval(Integral, -1, None, closed="left")],
        "max_bin": [Interval(Integral, 2, None, closed="left")],
        "min_child_samples": [Interval(Integral, 0, None, closed="left")],
        "feature_fraction": [Interval(Real, 0, 1, closed="right")],
        "bagging_fraction": [Interval(Real, 0, 1, closed="right")],
        "bagging_freq": [Interval(Integral, 0, None, closed="left")],
        "lambda_l1": [Interval(Real, 0, None, closed="left")],
        "lambda_l2": [Interval(Real, 0, None, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_estimators: int = 150,
        learning_rate: float = 0.1,
        num_leaves: int = 15,
        max_depth: int = -1,
        max_bin: int = 63,
        min_child_samples: int = 20,
        feature_fraction: float = 0.1,
        bagging_fraction: float = 1.0,
        bagging_freq: int = 0,
        lambda_l1: float = 0.0,
        lambda_l2: float = 0.0,
        class_weight: str | dict[Any, float] | None = "balanced",
        patience: int = 20,
        random_state: Any = None,
    ):
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.num_leaves = num_leaves
        self.max_depth = max_depth
        self.max_bin = max_bin
        self.min_child_samples = min_child_samples
        self.feature_fraction = feature_fraction
        self.bagging_fraction = bagging_fraction
        self.bagging_freq = bagging_freq
        self.lambda_l1 = lambda_l1
        self.lambda_l2 = lambda_l2
        self.class_weight = class_weight
        self.patience = patience
        self.random_state = random_state

    def fit(self, X: Array, y: Array, *, views: Array | None = None, validation: Validation | None = None) -> LightGBM:
        """X [row, dim], y [row]. With views [row, K, dim] all are trained on, each with weight 1 / (1 + K)."""
        self._validate_params()
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_views(X, views)
        self.classes_, index = find_classes(y)
        everything, index, weight, _ = stack_views(X, index, views)
        train = self._build_dataset(everything, index, weight)
        validation_sets: list[lgb.Dataset] = []
        callbacks: list[Callable[..., Any]] = []
        if validation is not None:
            validation_sets = [self._build_validation_set(validation, train)]
            callbacks = [lgb.early_stopping(self.patience, verbose=False)]
        booster = lgb.train(self._settings(), train, self.n_estimators, valid_sets=validation_sets, callbacks=callbacks)
        self.best_iteration_ = booster.best_iteration if booster.best_iteration > 0 else self.n_estimators
        self.booster_ = lgb.Booster(model_str=booster.model_to_string(num_iteration=self.best_iteration_))
        return self

    def _settings(self) -> dict[str, Any]:
        parameters = {
            k: v for k, v in self.get_params().items() if k not in ("n_estimators", "patience", "class_weight")
        }
        return parameters | {
            "random_state": int(check_random_state(self.random_state).randint(2**31 - 1)),
            "objective": "multiclass",
            "num_class": len(self.classes_),
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }

    def _build_dataset(
        self, X: Array, index: Array, weight: Array, reference: lgb.Dataset | None = None
    ) -> lgb.Dataset:
        weight = weight * compute_sample_weight(self.class_weight, self.classes_[index])
        return lgb.Dataset(X, index, weight=weight, reference=reference, params={"verbosity": -1})

    def _build_validation_set(self, validation: Validation, train: lgb.Dataset) -> lgb.Dataset:
        X = validate_data(self, validation[0], dtype=np.float32, reset=False)
        index = index_labels(self.classes_, np.asarray(validation[1]))
        return self._build_dataset(X, index, np.ones(len(X)), reference=train)

    def predict_proba(self, X: Array) -> Array:
        """Probabilities [row, class], float64."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return np.asarray(self.booster_.predict(X, num_threads=1))

    def predict(self, X: Array) -> Array:
        """The most probable class of each row."""
        best = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[best])


def constructor(fixed: Mapping[str, Any]) -> type[LightGBM]:
    if "linear_tree" in fixed:
        raise ValueError("fixed.linear_tree is refused: its ONNX conversion is wrong without a word; take it out")
    return LightGBM


def make(parameters: dict[str, Any], seed: int) -> LightGBM:
    estimator = LightGBM(**parameters, random_state=seed)
    estimator._validate_params()
    return estimator


def save(estimator: LightGBM, folder: Path) -> dict[str, Any]:
    estimator.booster_.save_model(folder / "head.txt")
    return {
        "parameters": estimator.get_params(),
        "features": estimator.n_features_in_,
        "best_iteration": estimator.best_iteration_,
    }


def load(folder: Path, meta: dict[str, Any]) -> LightGBM:
    estimator = LightGBM(**meta["parameters"])
    estimator.classes_ = np.array(meta["classes"])
    estimator.n_features_in_ = meta["features"]
    estimator.best_iteration_ = meta["best_iteration"]
    estimator.booster_ = lgb.Booster(model_file=folder / "head.txt")
    return estimator


def to_onnx(estimator: LightGBM, temperature: float) -> Any:
    """One TreeEnsembleClassifier. onnxmltools' own entry stops at opset 15, so its converter is lent to skl2onnx."""
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

    update_registered_converter(
        LightGBM,
        "EmbedkitLightGBM",
        calculate_linear_classifier_output_shapes,
        convert_lightgbm,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
    )
    return convert_with_skl2onnx(estimator, estimator.n_features_in_, len(estimator.classes_), temperature)
