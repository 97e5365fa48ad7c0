"""LightGBM on the raw features, with settings that cost a tenth of its defaults (heads/lightgbm.toml).

Trained with LightGBM's own `train`: always deterministic, one thread, softmax over the classes. Linear trees are not
offered: the ONNX converter accepts them, but its probabilities are then wrong by up to 0.37.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import lightgbm as lgb
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted, validate_data

from embedkit.heads._base import (
    Array,
    ClassWeight,
    HeadMeta,
    RandomState,
    Validation,
    check_views,
    construct,
    find_classes,
    index_labels,
    stack_views,
)
from embedkit.heads._onnx import convert_with_skl2onnx
from embedkit.heads._parameters import Range, Rule, check_parameters

if TYPE_CHECKING:
    import onnx

VIEWS = ("clean", "all")
ROUNDS = "n_estimators"
EXTRA_PARAMETERS = ()
RULES: Mapping[str, list[Rule]] = {
    "n_estimators": [Range(1, whole=True)],
    "learning_rate": [Range(0, bounds="()")],
    "num_leaves": [Range(2, 131072, "[]", whole=True)],
    "max_depth": [Range(-1, whole=True)],
    "max_bin": [Range(2, whole=True)],
    "min_child_samples": [Range(0, whole=True)],
    "feature_fraction": [Range(0, 1, "(]")],
    "bagging_fraction": [Range(0, 1, "(]")],
    "bagging_freq": [Range(0, whole=True)],
    "lambda_l1": [Range(0)],
    "lambda_l2": [Range(0)],
    "class_weight": ["balanced", dict, None],
    "patience": [Range(1, whole=True)],
}


class Meta(HeadMeta):
    """meta.json of a LightGBM head's folder."""

    parameters: dict[str, object]  # of the constructor
    features: int  # dim
    best_iteration: int


class LightGBM(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Gradient-boosted trees. Parameters have LightGBM's own names, but `patience` is its early_stopping_rounds.

    With validation, training ends after `patience` iterations without a better log loss there (rows weighted by
    class_weight as in training), and the trees up to the best iteration are kept: `best_iteration_`, from 1.
    """

    boosting_type = "gbdt"  # the ONNX converter reads it

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
        class_weight: ClassWeight = "balanced",
        patience: int = 20,
        random_state: RandomState = None,
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
        check_parameters(self, RULES)
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_views(X, views)
        self.classes_, index = find_classes(y)
        everything, index, weight, _ = stack_views(X, index, views)
        train = self._build_dataset(everything, index, weight)
        validation_sets: list[lgb.Dataset] = []
        callbacks: list[Callable[..., object]] = []
        if validation is not None:
            validation_sets = [self._build_validation_set(validation, train)]
            callbacks = [lgb.early_stopping(self.patience, verbose=False)]
        booster = lgb.train(self._settings(), train, self.n_estimators, valid_sets=validation_sets, callbacks=callbacks)
        self.best_iteration_ = booster.best_iteration if booster.best_iteration > 0 else self.n_estimators
        self.booster_ = lgb.Booster(model_str=booster.model_to_string(num_iteration=self.best_iteration_))
        return self

    def _settings(self) -> dict[str, object]:
        """LightGBM's parameters."""
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


def constructor(fixed: Mapping[str, object]) -> type[LightGBM]:
    """`LightGBM`: a card may set its parameters. Raises ValueError for linear trees."""
    if "linear_tree" in fixed:
        raise ValueError("fixed.linear_tree is refused: its ONNX conversion is wrong without a word; take it out")
    return LightGBM


def make(parameters: Mapping[str, object], seed: int) -> LightGBM:
    """A LightGBM head that is not fitted. Raises ValueError for a value out of range."""
    estimator = construct(LightGBM, parameters, random_state=seed)
    check_parameters(estimator, RULES)
    return estimator


def save(estimator: LightGBM, folder: Path) -> dict[str, object]:
    """Write the trees as LightGBM's text, head.txt. See `Meta` for what is returned."""
    estimator.booster_.save_model(folder / "head.txt")
    return {
        "parameters": estimator.get_params(),
        "features": estimator.n_features_in_,
        "best_iteration": estimator.best_iteration_,
    }


def load(folder: Path, meta: Meta) -> LightGBM:
    """The head that `save` wrote."""
    estimator = construct(LightGBM, meta["parameters"])
    estimator.classes_ = np.array(meta["classes"])
    estimator.n_features_in_ = meta["features"]
    estimator.best_iteration_ = meta["best_iteration"]
    estimator.booster_ = lgb.Booster(model_file=folder / "head.txt")
    return estimator


def to_onnx(estimator: LightGBM, temperature: float) -> onnx.ModelProto:
    """One TreeEnsembleClassifier. onnxmltools' own function stops at opset 15, so skl2onnx calls its converter."""
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
