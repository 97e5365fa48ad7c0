"""Logistic regression, LightGBM and scikit-learn's estimators against the libraries' own interfaces."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_sample_weight

from embedkit.heads import sklearn as generic
from embedkit.heads import stack_views
from embedkit.heads.lightgbm import LightGBM
from embedkit.heads.logistic import Logistic
from embedkit.heads.sklearn import Sklearn


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """200 rows of 16 features, four unequal classes, and two noisy views of each row."""
    rng = np.random.default_rng(5)
    y = rng.choice(["anger", "happiness", "neutral", "sadness"], 200, p=[0.4, 0.3, 0.2, 0.1])
    X = 3 * rng.standard_normal((200, 16)) + 2 * np.eye(16)[np.searchsorted(np.unique(y), y)] + 7
    views = X[:, None] + rng.standard_normal((200, 2, 16)) + 4
    return X.astype(np.float32), y, views.astype(np.float32)


def twins(X: np.ndarray, y: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All views below each other, scaled by the clean rows, and their weights: by hand."""
    scaler = StandardScaler().fit(X.astype(np.float64))
    rows = [scaler.transform(block.astype(np.float64)) for block in (X, views[:, 0], views[:, 1])]
    return np.concatenate(rows), np.tile(y, 3), np.full(3 * len(X), 1 / 3)


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_equals_scikit_learn(classes: int, data: Any) -> None:
    """Probabilities equal StandardScaler + LogisticRegression in float64 to 1e-9, for two and four classes."""
    X, y = data[0], data[1]
    keep = np.isin(y, np.unique(y)[:classes])
    X, y = X[keep], y[keep]
    own = Logistic(C=0.05).fit(X, y, validation=(X + 9, y))
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, class_weight="balanced", max_iter=1000))
    reference.fit(X.astype(np.float64), y)
    np.testing.assert_allclose(own.predict_proba(X), reference.predict_proba(X.astype(np.float64)), rtol=0, atol=1e-9)


def test_logistic_on_all_views(data: Any) -> None:
    """Views "all": each row with weight 1 / (1 + K), scaler from the clean rows (1e-4: the solver's tolerance)."""
    X, y, views = data
    own = Logistic(C=0.5, tol=1e-8).fit(X, y, views=views)
    everything, labels, weight = twins(X, y, views)
    reference = LogisticRegression(C=0.5, class_weight="balanced", max_iter=1000, tol=1e-8)
    reference.fit(everything, labels, weight)
    np.testing.assert_allclose(own.predict_proba(X), reference.predict_proba(everything[:200]), rtol=0, atol=1e-4)
    assert np.abs(own.predict_proba(X) - Logistic(C=0.5).fit(X, y).predict_proba(X)).max() > 1e-2


@pytest.fixture(scope="module")
def large() -> tuple[np.ndarray, np.ndarray]:
    """4,200 rows of 240 features whose spread falls as that of an encoder's does, classes that overlap."""
    rng = np.random.default_rng(1)
    spread = np.arange(1, 241) ** -0.65
    turn = np.linalg.qr(rng.standard_normal((240, 240)))[0]
    y = rng.choice(["anger", "happiness", "neutral", "sadness"], 4_200, p=[0.4, 0.3, 0.2, 0.1])
    centres = 0.2 * rng.standard_normal((4, 240))[np.searchsorted(np.unique(y), y)]
    return ((rng.standard_normal((4_200, 240)) + centres) * spread @ turn + 3).astype(np.float32), y


def test_logistic_on_many_rows_finds_the_same_optimum(large: Any) -> None:
    """Turned features: 99.5 % of scikit-learn's labels on new rows, and nearer than it to the optimum that both seek
    (scikit-learn's at tolerance 1e-9); with a tolerance of 1e-8 there to 1e-5."""
    X, y = large[0][:4_180], large[1][:4_180]
    new = large[0][::3] + 0.1
    own = Logistic(C=0.05).fit(X, y)

    def reference(tol: float) -> Any:
        model = LogisticRegression(C=0.05, class_weight="balanced", max_iter=10_000, tol=tol)
        return make_pipeline(StandardScaler(), model).fit(X.astype(np.float64), y)

    usual, optimum = reference(1e-4), reference(1e-9).predict_proba(new.astype(np.float64))
    assert own.n_iter_[0] < usual[-1].n_iter_[0] / 3, "the rows are too few to be turned, or turning brings nothing"
    assert (own.predict(new) == usual.predict(new.astype(np.float64))).mean() >= 0.995
    distance = np.abs(own.predict_proba(new) - optimum).max()
    assert distance < np.abs(usual.predict_proba(new.astype(np.float64)) - optimum).max()
    exact = Logistic(C=0.05, tol=1e-8).fit(X, y)
    np.testing.assert_allclose(exact.predict_proba(new), optimum, rtol=0, atol=1e-5)
    np.testing.assert_allclose(exact.intercept_.sum(), 0, atol=1e-9)


def test_logistic_on_many_rows_takes_weights(large: Any) -> None:
    """All views, each with weight 1 / (1 + K), and weights by class, against scikit-learn's (1e-5)."""
    X, y = large
    views = np.stack([X + 0.2, X - 0.1], 1)
    weights = {"anger": 1.0, "happiness": 0.5, "neutral": 2.0, "sadness": 4.0}
    own = Logistic(C=0.01, tol=1e-8, class_weight=weights).fit(X, y, views=views)
    scaler = StandardScaler().fit(X.astype(np.float64))
    everything = np.concatenate([scaler.transform(x.astype(np.float64)) for x in (X, views[:, 0], views[:, 1])])
    reference = LogisticRegression(C=0.01, class_weight=weights, max_iter=10_000, tol=1e-8)
    reference.fit(everything, np.tile(y, 3), np.full(3 * len(X), 1 / 3))
    np.testing.assert_allclose(own.predict_proba(X), reference.predict_proba(everything[: len(X)]), rtol=0, atol=1e-5)


def test_logistic_on_many_rows_says_that_it_has_not_converged(large: Any) -> None:
    with pytest.warns(ConvergenceWarning, match="3 steps"):
        Logistic(max_iter=3).fit(*large)


def test_lightgbm_equals_its_own_classifier(data: Any) -> None:
    """Early stopping, class weights and settings equal LGBMClassifier's with the same parameters, to 1e-12."""
    X, y, _ = data
    index = np.unique(y, return_inverse=True)[1]
    train, held = (X[:140], y[:140]), (X[140:], y[140:])
    own = LightGBM(n_estimators=80, feature_fraction=0.5, patience=5, random_state=7).fit(*train, validation=held)
    reference = lightgbm.LGBMClassifier(
        objective="multiclass", n_estimators=80, num_leaves=15, max_bin=63, colsample_bytree=0.5, n_jobs=1,
        class_weight="balanced", verbosity=-1, deterministic=True, force_row_wise=True,
        random_state=own._settings()["random_state"],
    )  # fmt: skip
    reference.fit(
        X[:140],
        index[:140],  # as LGBMClassifier does not encode names in eval_y
        eval_X=X[140:],
        eval_y=index[140:],
        eval_sample_weight=[compute_sample_weight("balanced", held[1])],
        callbacks=[lightgbm.early_stopping(5, verbose=False)],
    )
    assert 1 <= own.best_iteration_ == reference.best_iteration_ < 80
    np.testing.assert_allclose(own.predict_proba(X), reference.predict_proba(X), rtol=0, atol=1e-12)


def test_lightgbm_refit_repeats_the_best_iteration(data: Any) -> None:
    """n_estimators = best_iteration_ without validation gives the trees that early stopping kept."""
    X, y, _ = data
    stopped = LightGBM(patience=5, random_state=0).fit(X[:140], y[:140], validation=(X[140:], y[140:]))
    refit = LightGBM(n_estimators=stopped.best_iteration_, random_state=0).fit(X[:140], y[:140])
    np.testing.assert_array_equal(refit.predict_proba(X), stopped.predict_proba(X))


def test_lightgbm_on_all_views(data: Any) -> None:
    """Views "all" equals LightGBM's own training on the stacked rows with weights class / (1 + K)."""
    X, y, views = data
    own = LightGBM(n_estimators=10, feature_fraction=1.0, random_state=0).fit(X, y, views=views)
    everything, labels, weight, _ = stack_views(X, y, views)
    reference = lightgbm.LGBMClassifier(
        objective="multiclass", n_estimators=10, num_leaves=15, max_bin=63, n_jobs=1, verbosity=-1
    ).fit(everything, labels, sample_weight=weight * compute_sample_weight("balanced", labels))
    np.testing.assert_allclose(own.predict_proba(X), reference.predict_proba(X), rtol=0, atol=1e-12)


def test_stack_keeps_rows_together(data: Any) -> None:
    """A row's copies lie below each other, clean first, each with weight 1 / 3."""
    X, y, views = data
    everything, labels, weight, rows = stack_views(X, y, views)
    assert (everything[0::3] == X).all()
    assert (everything[2::3] == views[:, 1]).all()
    assert (labels == np.repeat(y, 3)).all()
    assert (rows == np.repeat(np.arange(200), 3)).all()
    np.testing.assert_allclose(weight, 1 / 3)


def test_svc_equals_scikit_learn(data: Any) -> None:
    """The calibrated SVC equals scikit-learn's own calibration (five stratified folds) to 1e-9."""
    X, y, _ = data
    own = Sklearn(SVC(C=2.0, class_weight="balanced")).fit(X, y)
    scaled = StandardScaler().fit_transform(X.astype(np.float64))
    reference = CalibratedClassifierCV(SVC(C=2.0, class_weight="balanced"), ensemble=False).fit(scaled, y)
    np.testing.assert_allclose(own.predict_proba(X), reference.predict_proba(scaled), rtol=0, atol=1e-9)


def test_inner_folds_keep_a_rows_views_together(data: Any) -> None:
    """Calibration holds out whole rows: no view of a held row is trained on, and every row is held once."""
    X, y, views = data
    index = np.unique(y, return_inverse=True)[1]
    everything, _, _, rows = stack_views(X, y, views)
    folds = generic._make_inner_folds(X, index, rows)
    assert len(folds) == 5
    for train, held in folds:
        assert not set(rows[train]) & set(rows[held])
        assert len(train) + len(held) == len(everything)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(len(everything)))


def test_calibration_needs_two_rows_of_a_class(data: Any) -> None:
    """One row of a class cannot be held out and trained on: said before anything is fitted."""
    X, y, _ = data
    keep = np.append(np.flatnonzero(y != "sadness"), np.flatnonzero(y == "sadness")[0])
    with pytest.raises(ValueError, match="calibration needs two training rows of every class"):
        Sklearn(SVC()).fit(X[keep], y[keep])


@pytest.mark.parametrize(
    "estimator",
    [LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"), KNeighborsClassifier(), LogisticRegression(tol=1e-8)],
    ids=lambda e: type(e).__name__,
)
def test_generic_on_all_views(estimator: Any, data: Any) -> None:
    """Any estimator on all views equals itself on the stacked, scaled rows, with weights where it takes them (1e-4)."""
    X, y, views = data
    own = Sklearn(estimator).fit(X, y, views=views)
    everything, labels, weight = twins(X, y, views)
    weights = (weight,) if isinstance(estimator, LogisticRegression) else ()
    reference = estimator.fit(everything, labels, *weights)
    np.testing.assert_allclose(own.predict_proba(X), reference.predict_proba(everything[:200]), rtol=0, atol=1e-4)


def test_svc_on_all_views_learns(data: Any) -> None:
    """The calibrated SVC trains on all views and gives probabilities that separate the classes."""
    X, y, views = data
    head = Sklearn(SVC(), random_state=0).fit(X, y, views=views)
    assert head.predict_proba(X).shape == (200, 4)
    assert (head.predict(X) == y).mean() > 0.5  # the largest class has 0.4
