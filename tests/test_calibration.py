"""Calibration against torchmetrics, scikit-learn, scipy, and loops."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_calibration_error

from embedkit import calibration
from embedkit.classes import CLASSES

NAMES = np.array(CLASSES)


def drawn(seed: int, sharpness: float = 1.0, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Labels [row], and probabilities [row, 4] of a head that is `sharpness` times too sure of itself."""
    random = np.random.default_rng(seed)
    logits = 1.5 * random.standard_normal((count, 4))
    y = np.array([random.choice(NAMES, p=p) for p in scipy.special.softmax(logits, 1)])
    return y, scipy.special.softmax(sharpness * logits, 1)


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_other_implementations(seed):
    """ECE: torchmetrics' top-label error (L1, 15 bins); NLL: scikit-learn's log loss; Brier: a sum by hand; to 1e-6."""
    y, p = drawn(seed, 2.0)
    truth = np.array([CLASSES.index(name) for name in y])
    found = calibration.compute_scores(y, p)
    theirs = multiclass_calibration_error(torch.tensor(p), torch.tensor(truth), num_classes=4, n_bins=15, norm="l1")
    assert found["ece"] == pytest.approx(float(theirs), abs=1e-6)
    assert found["nll"] == pytest.approx(sk.log_loss(y, p, labels=list(CLASSES)), abs=1e-9)
    slow = np.mean([sum((p[i, c] - (truth[i] == c)) ** 2 for c in range(4)) for i in range(len(y))])
    assert found["brier"] == pytest.approx(slow, abs=1e-12)
    assert found["brier"] == pytest.approx(
        sk.brier_score_loss(y, p, labels=list(CLASSES), scale_by_half=False), abs=1e-9
    )


def test_the_curve_equals_a_loop_also_at_the_bins_edges():
    """Bins (low, high] row by row, with confidences on edges (as forests and trees give) and of 1; to 1e-12."""
    p = np.array(
        [[0.4, 0.3, 0.2, 0.1], [0.6, 0.4, 0, 0], [0.8, 0.2, 0, 0], [1, 0, 0, 0], [0.61, 0.39, 0, 0], [0.25] * 4]
    )
    y = np.array(["anger", "anger", "happiness", "anger", "happiness", "anger"])
    found = calibration.reliability_curve(y, p, bins=5)
    slow = []
    for k in range(5):
        inside = [i for i in range(6) if k / 5 < max(p[i]) <= (k + 1) / 5]
        if inside:
            right = [y[i] == CLASSES[int(np.argmax(p[i]))] for i in inside]
            slow.append((k / 5, (k + 1) / 5, np.mean([max(p[i]) for i in inside]), np.mean(right), len(inside)))
    keys = ("low", "high", "confidence", "accuracy", "count")
    assert [tuple(b[k] for k in keys) for b in found] == [pytest.approx(b, abs=1e-12) for b in slow]
    weighted = sum(n * abs(right - sure) for _, _, sure, right, n in slow) / 6
    assert calibration.ece(y, p, bins=5) == pytest.approx(weighted, abs=1e-12)


def test_nothing_to_correct_is_no_error():
    """All right and all sure: ECE, NLL and Brier are 0; all wrong and all sure: 1, finite, 2."""
    p = np.eye(4)
    assert calibration.compute_scores(list(CLASSES), p) == {"ece": 0.0, "nll": 0.0, "brier": 0.0}
    wrong = calibration.compute_scores(list(np.roll(NAMES, 1)), p)
    assert (wrong["ece"], wrong["brier"], np.isfinite(wrong["nll"])) == (1.0, 2.0, True)


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_is_where_the_slope_of_nll_is_0(sharpness):
    """Against the root of d NLL / d (1/T) by scipy, to 1e-6; near the sharpness that was put in; the label stays."""
    y, p = drawn(1, sharpness, 3_000)
    truth, logits = np.array([CLASSES.index(name) for name in y]), np.log(p)

    def slope(beta: float) -> float:
        return float(
            ((scipy.special.softmax(beta * logits, 1) * logits).sum(1) - logits[np.arange(len(y)), truth]).mean()
        )

    found = calibration.fit_temperature(y, p)
    assert found == pytest.approx(1 / scipy.optimize.brentq(slope, 0.05, 20, xtol=1e-14), abs=1e-6)
    assert found == pytest.approx(sharpness, rel=0.1)
    better = calibration.apply_temperature(p, found)
    assert (better.argmax(1) == p.argmax(1)).all()
    assert calibration.nll(y, better) <= calibration.nll(y, p)
    assert calibration.ece(y, better) < 0.03


def test_applying_a_temperature_divides_the_logits():
    """softmax(log p / T) against scipy's softmax of the logits / T, to 1e-12; T = 1 changes nothing; 0 is refused."""
    logits = np.random.default_rng(0).standard_normal((20, 4)) * 4
    p = scipy.special.softmax(logits, 1)
    assert np.allclose(calibration.apply_temperature(p, 2.5), scipy.special.softmax(logits / 2.5, 1), atol=1e-12)
    assert np.allclose(calibration.apply_temperature(p, 1.0), p, atol=1e-12)
    with pytest.raises(ValueError, match="above 0"):
        calibration.apply_temperature(p, 0.0)


def test_a_faultless_validation_part_keeps_the_temperature_in_its_range():
    """All right: the colder the better, so the fit ends near its lower end, where NLL is 0 to rounding."""
    p = np.full((4, 4), 0.1) + 0.6 * np.eye(4)
    assert calibration.fit_temperature(list(CLASSES), p) == pytest.approx(calibration.TEMPERATURE_RANGE[0], rel=0.1)


@pytest.mark.parametrize(
    ("y", "p", "words"),
    [
        ([], np.zeros((0, 4)), "at least one row"),
        (["anger"], [[0.5, 0.5]], r"got \(1, 2\)"),
        (["anger"], [[0.9, 0.9, 0.9, 0.9]], "sum 1"),
        (["anger"], [[np.nan, 0.5, 0.5, 0.0]], "sum 1"),
        (["disgust"], [[1.0, 0.0, 0.0, 0.0]], "got disgust"),
    ],
)
def test_what_does_not_fit_is_refused(y, p, words):
    """No rows, another shape, no probabilities, NaN, an unknown label: one line each."""
    with pytest.raises(ValueError, match=words):
        calibration.compute_scores(y, p)
