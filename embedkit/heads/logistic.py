"""Logistic regression on standardised features, in float64: scikit-learn's own, or the same optimum sooner.

Pooled features are correlated: a few directions vary a hundred times as much as most, and lbfgs needs some 150 steps
to follow the small ones. Where X is large, the features are first multiplied by a matrix ("turned") that makes an upper
bound of the loss's curvature (Boehning, Annals of the Institute of Statistical Mathematics 44, 1992) equal in all
directions: some 15 steps are then enough, and they end nearer to the optimum. With few rows the classes can be
separated and the bound is far from the curvature; scikit-learn is as fast there, and its own result to the bit.

Validation rows are not used: nothing stops early.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted, validate_data

from embedkit.heads._base import (
    Array,
    ClassWeight,
    HeadMeta,
    Validation,
    check_views,
    compute_mean_and_scale,
    construct,
    find_classes,
    stack_views,
)
from embedkit.heads._onnx import make_dense_onnx
from embedkit.heads._parameters import check_library_parameters

if TYPE_CHECKING:
    import onnx

VIEWS = ("clean", "all")
ROUNDS = ""
EXTRA_PARAMETERS = ()
ARRAYS = ("coef_", "intercept_", "mean_", "scale_")  # of head.npz
# Turning the features is faster from so many numbers in X, and so many rows for each feature.
MIN_TURNED_SIZE, MIN_ROWS_PER_FEATURE = 1_000_000, 4


class Meta(HeadMeta):
    """meta.json of a logistic head's folder."""

    parameters: dict[str, object]  # of the constructor


class Logistic(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """StandardScaler and multinomial logistic regression (lbfgs, L2). The scaler sees the clean training rows only.

    C: inverse strength of the penalty; class_weight: "balanced", None or a weight by class; max_iter, tol: of lbfgs.
    Fitted: `coef_` [class, dim] and `intercept_` [class] on standardised features, `mean_` and `scale_` [dim].
    """

    def __init__(
        self,
        C: float = 1.0,
        class_weight: ClassWeight = "balanced",
        max_iter: int = 1000,
        tol: float = 1e-4,
    ):
        self.C = C
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol

    def fit(
        self,
        X: Array,
        y: Array,
        *,
        views: Array | None = None,
        validation: Validation | None = None,  # noqa: ARG002  every head takes it
    ) -> Logistic:
        """X [row, dim], y [row]. With views [row, K, dim] all are trained on, each with weight 1 / (1 + K)."""
        regression = self._build_regression()
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_views(X, views)
        self.classes_, _ = find_classes(y)
        self.mean_, self.scale_ = compute_mean_and_scale(X)
        everything, labels, weight, _ = stack_views(X, y, views)
        everything = (everything - self.mean_) / self.scale_
        if len(self.classes_) > 2 and X.size >= MIN_TURNED_SIZE and len(X) >= MIN_ROWS_PER_FEATURE * X.shape[1]:
            return self._fit_preconditioned(everything, labels, weight)
        regression.fit(everything, labels, None if views is None else weight)
        coef, intercept = regression.coef_, regression.intercept_
        if len(self.classes_) == 2:  # scikit-learn keeps one row, the second class's
            coef, intercept = np.vstack([0 * coef, coef]), np.append(0, intercept)
        self.coef_, self.intercept_, self.n_iter_ = coef, intercept, regression.n_iter_
        return self

    def _fit_preconditioned(self, X: Array, y: Array, weight: Array) -> Logistic:
        """The optimum that scikit-learn looks for, found on turned features. X: [row, dim], standardised."""
        truth = (y[:, None] == self.classes_).astype(float)
        weight = weight * compute_sample_weight(self.class_weight, y)
        penalty = 1 / (self.C * weight.sum())
        weight = weight[:, None] / weight.sum()
        bound = (X * (weight / 4)).T @ X
        bound[np.diag_indices_from(bound)] += max(penalty, 1e-9)  # without a penalty it may be singular
        turn = solve_triangular(cholesky(bound, lower=True), np.eye(len(bound)), lower=True)  # [dim, dim]

        def loss_and_gradient(turned: Array) -> tuple[float, Array]:
            """Cross-entropy with its penalty, and its gradient, both by turned weights [(dim + 1) * class]; half the
            intercept is their last row."""
            turned = turned.reshape(-1, len(self.classes_))
            coef = turn.T @ turned[:-1]
            logits = X @ coef + 2 * turned[-1]
            logits -= logits.max(1, keepdims=True)
            p = np.exp(logits)
            total = p.sum(1, keepdims=True)
            value = (weight * (np.log(total) - (truth * logits).sum(1, keepdims=True))).sum()
            slope = (p / total - truth) * weight
            gradient = np.vstack([turn @ (X.T @ slope + penalty * coef), 2 * slope.sum(0)])
            return float(value + penalty / 2 * (coef**2).sum()), gradient.ravel()

        start = np.zeros((X.shape[1] + 1) * len(self.classes_))
        options = {"maxiter": self.max_iter, "maxfun": 2 * self.max_iter, "gtol": self.tol, "ftol": 0.0}
        result = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
        if not result.success and result.nit >= self.max_iter:
            warnings.warn(
                f"lbfgs did not converge in {result.nit} steps; raise max_iter", ConvergenceWarning, stacklevel=3
            )
        turned = result.x.reshape(-1, len(self.classes_))
        self.coef_, self.intercept_ = (turn.T @ turned[:-1]).T, 2 * (turned[-1] - turned[-1].mean())
        self.n_iter_ = np.array([result.nit])
        return self

    def _build_regression(self) -> LogisticRegression:
        """scikit-learn's. Raises ValueError for a parameter out of range."""
        regression = LogisticRegression(**self.get_params())
        check_library_parameters(regression)
        return regression

    def predict_proba(self, X: Array) -> Array:
        """Probabilities [row, class], float64."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        logits = ((X - self.mean_) / self.scale_) @ self.coef_.T + self.intercept_
        return np.asarray(softmax(logits, axis=1))

    def predict(self, X: Array) -> Array:
        """The most probable class of each row."""
        best = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[best])


def constructor(_: Mapping[str, object]) -> type[Logistic]:
    """`Logistic`: a card may set its parameters."""
    return Logistic


def make(parameters: Mapping[str, object], seed: int) -> Logistic:  # noqa: ARG001  nothing is random
    """A logistic head that is not fitted. Raises ValueError for a value out of range."""
    estimator = construct(Logistic, parameters)
    estimator._build_regression()
    return estimator


def save(estimator: Logistic, folder: Path) -> dict[str, object]:
    """Write the arrays to head.npz. See `Meta` for what is returned."""
    np.savez(folder / "head.npz", **{name: getattr(estimator, name) for name in ARRAYS})
    return {"parameters": estimator.get_params()}


def load(folder: Path, meta: Meta) -> Logistic:
    """The head that `save` wrote."""
    estimator = construct(Logistic, meta["parameters"])
    estimator.classes_ = np.array(meta["classes"])
    with np.load(folder / "head.npz", allow_pickle=False) as arrays:
        for name in ARRAYS:
            setattr(estimator, name, arrays[name])
    estimator.n_features_in_ = len(estimator.mean_)
    return estimator


def to_onnx(estimator: Logistic, temperature: float) -> onnx.ModelProto:
    """One Gemm, which standardises too, and a softmax."""
    layers = [(estimator.coef_.T, estimator.intercept_)]
    return make_dense_onnx(layers, "", estimator.mean_, estimator.scale_, temperature)
