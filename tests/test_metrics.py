"""Scores against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score
from sklearn.utils.class_weight import compute_class_weight

from embedkit import metrics

CLASSES = np.array(["anger", "happiness", "neutral", "sadness"])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_scores_equal_scikit_learns(seed):
    """WA, UA, macro F1, F1 by class, confusion and balanced weights to 1e-12, also where classes are absent."""
    random = np.random.default_rng(seed)
    y = random.choice(CLASSES[: random.integers(2, 5)], random.integers(2, 60))
    said = random.choice(CLASSES[random.integers(0, 2) :], len(y))
    got = metrics.compute_scores(y, said)
    names = sorted(set(y) | set(said))
    assert got["wa"] == pytest.approx(accuracy_score(y, said), abs=1e-12)
    assert got["ua"] == pytest.approx(balanced_accuracy_score(y, said), abs=1e-12)
    assert got["macro_f1"] == pytest.approx(f1_score(y, said, average="macro"), abs=1e-12)
    assert got["macro_f1"] == pytest.approx(metrics.macro_f1(y, said), abs=1e-12)
    assert list(got["f1"].values()) == pytest.approx(f1_score(y, said, average=None, labels=names), abs=1e-12)
    assert (metrics.confusion_matrix(y, said, CLASSES) == confusion_matrix(y, said, labels=CLASSES)).all()
    present = np.unique(y)
    weights = compute_class_weight("balanced", classes=present, y=y)
    assert metrics.balanced_weights(y) == pytest.approx(dict(zip(present, weights, strict=True)), abs=1e-12)


def test_ua_is_over_the_classes_present():
    """By hand: recalls 1/2 and 1 of the two classes present; the class that is only predicted has no recall."""
    assert metrics.ua(["anger", "anger", "sadness"], ["anger", "neutral", "sadness"]) == 0.75


def test_no_rows_are_an_error():
    """A score of nothing is not 0 and not NaN."""
    with pytest.raises(ValueError, match="at least one"):
        metrics.compute_scores([], [])
