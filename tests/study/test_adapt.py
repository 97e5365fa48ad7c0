"""Normalisation and CORAL against slow formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg
from sklearn.preprocessing import StandardScaler

from embedkit.study import adapt


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """80 rows of 5 features: 50 of corpus a (5 speakers), 30 of b (3 speakers), of unlike scale and correlation."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 5)) @ rng.normal(size=(5, 5)) + 3
    x[50:] = x[50:] @ rng.normal(size=(5, 5)) * 4 - 1
    speakers = np.array([f"{'a' if i < 50 else 'b'}:{i // 10}" for i in range(80)])
    return x, np.where(np.arange(80) < 50, "a", "b"), speakers, np.r_[10:80]


def test_coral_is_the_papers_formula(data) -> None:
    """scipy's matrix powers on scikit-learn's standardised rows, put back on the target's scale: equal to 1e-6."""
    x, corpora, *_ = data
    source, target = x[corpora == "b"], x[corpora == "a"]
    one, two = StandardScaler().fit(source), StandardScaler().fit(target)
    covariance = [np.cov(s.transform(part).T) + np.eye(5) for s, part in ((one, source), (two, target))]
    a = linalg.fractional_matrix_power(covariance[0], -0.5) @ linalg.sqrtm(covariance[1])
    slow = two.inverse_transform(one.transform(source) @ a)
    matrix, shift = adapt.coral(source, target)
    np.testing.assert_allclose(source @ matrix + shift, slow, rtol=0, atol=1e-6)


def test_coral_brings_covariances_near() -> None:
    """With many rows and the target's scale far above 1 the covariances come within a third of what they were apart."""
    rng = np.random.default_rng(1)
    source = rng.normal(size=(4000, 4)) @ rng.normal(size=(4, 4)) * 9
    target = rng.normal(size=(4000, 4)) @ rng.normal(size=(4, 4)) * 2 + 1
    matrix, shift = adapt.coral(source, target)
    moved = source @ matrix + shift
    before, after = (np.abs(np.cov(s.T) - np.cov(target.T)).max() for s in (source, moved))
    assert after < before / 3
    np.testing.assert_allclose(moved.mean(0), target.mean(0), atol=1e-9)


def test_normalisation_is_fitted_on_training_rows(data) -> None:
    """global and corpus are scikit-learn's scalers of the training rows (1e-5), speaker that of all of a speaker's."""
    x, corpora, speakers, train = data
    for how, key in (("global", np.full(80, "")), ("corpus", corpora), ("speaker", speakers)):
        found = adapt.fit(x, train, corpora, speakers, normalise=how, align="none", study_corpus="a")
        given = found.apply(x[:, None], adapt.assign_scale_groups(how, corpora, speakers), corpora)[:, 0]
        for group in np.unique(key):
            rows = np.flatnonzero(key == group)
            fitted = rows if how == "speaker" else np.intersect1d(rows, train)
            slow = StandardScaler().fit(x[fitted]).transform(x[rows])
            np.testing.assert_allclose(given[rows], slow, rtol=0, atol=1e-5)


def test_rows_that_do_not_train_change_nothing(data) -> None:
    """But by speaker, which looks at the tested speaker's own rows: that is what its name says."""
    x, corpora, speakers, train = data
    other = x.copy()
    other[:10] += 100.0
    for how, same in (("global", True), ("corpus", True), ("speaker", False)):
        one, two = (
            adapt.fit(a, train, corpora, speakers, normalise=how, align="coral", study_corpus="a").apply(
                x[:, None], adapt.assign_scale_groups(how, corpora, speakers), corpora
            )
            for a in (x, other)
        )
        assert np.array_equal(one, two) == same


def test_a_corpus_that_does_not_train_is_scaled_as_all_training_rows(data) -> None:
    """By corpus, b is only tested: it gets the statistics of what trains."""
    x, corpora, speakers, _ = data
    found = adapt.fit(x, np.r_[0:50], corpora, speakers, normalise="corpus", align="none", study_corpus="a")
    given = found.apply(x[50:, None], corpora[50:], corpora[50:])[:, 0]
    np.testing.assert_allclose(given, StandardScaler().fit(x[:50]).transform(x[50:]), rtol=0, atol=1e-4)


def test_only_what_is_mixed_in_is_turned(data) -> None:
    """CORAL leaves the study's own rows, and a corpus that is only tested, bit by bit as they were."""
    x, corpora, speakers, train = data
    found = adapt.fit(x, train, corpora, speakers, normalise="none", align="coral", study_corpus="a")
    given = found.apply(x[:, None], np.full(80, ""), corpora)[:, 0]
    assert np.array_equal(given[:50], x[:50].astype(np.float32)) and not np.allclose(given[50:], x[50:])
    assert not adapt.fit(x, np.r_[0:50], corpora, speakers, normalise="none", align="coral", study_corpus="a").alignment
