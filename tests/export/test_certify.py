"""Certificates: every figure against one worked out by hand or by scipy, and no way past the limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from embedkit.cards import Certificate, Limits
from embedkit.classes import CLASSES
from embedkit.errors import ClipError, EmbedkitError
from embedkit.export import certify


def answers(probabilities: list[list[float]], embeddings: list[list[float]] | None = None) -> certify.Answers:
    return certify.Answers(np.array(probabilities), np.array(embeddings or [[0.0, 0.0]] * len(probabilities)))


def test_figures_are_those_of_a_small_example_by_hand() -> None:
    """Changes .1 .1 0 0 and .3 .3 0 0: largest .3, mean .1; one of two labels flips; z of the dimension that varies."""
    reference = answers([[0.5, 0.3, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1]], [[1.0, 5.0], [3.0, 5.0]])
    ours = answers([[0.6, 0.2, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1]], [[1.1, 5.0], [2.7, 5.0]])
    found = certify.compare_answers(ours, reference)
    assert found["largest_change"] == pytest.approx(0.3)
    assert found["mean_change"] == pytest.approx(0.8 / 8)
    assert found["flips"] == 1
    assert found["embedding_z"] == pytest.approx(0.2 / 1.0)


@pytest.mark.parametrize(("hits", "count"), [(0, 64), (1, 64), (5, 9), (1000, 1000)])
def test_the_interval_of_flips_is_wilsons(hits: int, count: int) -> None:
    """Against scipy, to 1e-6."""
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    np.testing.assert_allclose(certify.wilson_interval(hits, count), [expected.low, expected.high], atol=1e-6)


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_clip_that_the_ordinary_path_refuses_counts_for_none(jobs: int) -> None:
    """Five clips, one silent, one unreadable: three answers of each way, in the order of the clips, by any threads."""

    def torch(wave: np.ndarray) -> certify.Answer:
        if not wave.any():
            raise ClipError("silent")
        return np.full(4, wave[0]), wave[:2]

    def read(value: float) -> np.ndarray:
        if value < 0:
            raise ClipError("cut short")
        return np.full(3, value, np.float32)

    ways = {"torch": torch, "float": lambda wave: (np.full(4, wave[0]), wave[:2])}
    clips, found = certify.collect_answers(ways, [0.25, 0.0, 0.5, -1.0, 0.75], read, jobs)
    assert clips == [0.25, 0.5, 0.75]
    for way in found.values():
        np.testing.assert_array_equal(way.probabilities[:, 0], clips)
        assert way.embeddings.shape == (3, 2)


def test_without_clips_there_is_no_certificate() -> None:
    with pytest.raises(EmbedkitError, match="nothing is certified"):
        certify.collect_answers({"torch": lambda wave: (wave, wave)}, [], lambda clip: clip)


# ---------------------------------------------------------------- UA on test folds


class Nearest:
    """A head that says the class whose number, moved by its fold's, the embedding's first value is nearest to."""

    classes_ = np.array(CLASSES)

    def __init__(self, fold: str) -> None:
        self.moved = float(fold)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return -np.abs(X[:, :1] - self.moved - np.arange(4))


def judged(count: int, wrong: int) -> dict:
    """Clips of 8 speakers in 2 folds whose heads expect embeddings 10 apart; the file has `wrong` of them wrong."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, count)
    fold = np.arange(count) % 2
    exact = np.stack([truth + 10.0 * fold, np.zeros(count)], 1)
    file = exact.copy()
    file[:wrong, 0] += np.where(truth[:wrong] < 3, 1, -1)
    some = np.full((count, 4), 0.25)
    answers = {
        name: certify.Answers(some, embeddings)
        for name, embeddings in (("torch", exact), ("float", exact), ("file", file))
    }
    tested = [
        certify.TestedClip(i, str(10 * fold[i]), f"s{i % 8}", CLASSES[truth[i]]) for i in range(count) if i != count - 1
    ]
    return certify.score_test_folds(answers, tested, Nearest)


def test_ua_on_test_folds_is_that_of_each_folds_own_head() -> None:
    """torch and float right everywhere, the file as often as worked out by hand; one clip was tested by no fold."""
    found = judged(241, 24)
    assert (found["clips"], found["left_out"], found["speakers"], found["judged"]) == (240, 1, 8, True)
    assert found["ways"]["torch"]["ua"]["estimate"] == found["ways"]["float"]["ua"]["estimate"] == 1
    assert found["ways"]["file"]["wa"]["estimate"] == pytest.approx(216 / 240)
    truth = np.random.default_rng(0).integers(0, 4, 241)[:240]
    recalls = [np.mean(np.arange(240)[truth == c] >= 24) for c in range(4)]
    assert found["ways"]["file"]["ua"]["estimate"] == pytest.approx(np.mean(recalls))
    same, lost = found["comparisons"]
    assert (same["way"], same["p"], same["verdict"]) == ("float", 1.0, "not distinguishable")
    assert lost["way"] == "file" and lost["p"] == pytest.approx(2 * 2 / 2**8), "every speaker lost: the least p, twice"
    assert lost["verdict"].startswith("torch above file")


def test_few_clips_are_not_held_to_the_limit_of_ua() -> None:
    limits = Limits(mean_change=1, flips=1, ua_loss=0.01)
    assert certify.list_past_ua(judged(241, 24), "file", limits) and not certify.list_past_ua(
        judged(241, 24), "float", limits
    )
    assert not certify.list_past_ua(judged(100, 24), "file", limits)
    assert not certify.list_past_ua(judged(241, 24), "file", Limits(mean_change=1, flips=1, ua_loss=0.2))


def test_clips_that_no_fold_was_tested_on_say_nothing_of_ua() -> None:
    some = answers([[0.25] * 4] * 3)
    found = certify.score_test_folds({"torch": some, "float": some, "file": some}, [], Nearest)
    assert (found["clips"], found["left_out"], found["judged"], found["ways"]) == (0, 3, False, {})


# ---------------------------------------------------------------- limits


def certified(file: list[list[float]], plain: list[list[float]] | None = None) -> dict:
    torch = [[0.7, 0.1, 0.1, 0.1]] * len(file)
    ways = {"torch": answers(torch), "float": answers(plain or torch), "file": answers(file)}
    folds = certify.score_test_folds(ways, [], Nearest)
    return certify.build_certificate(ways, folds, {"float": Certificate().float, "file": Certificate().size})


def test_within_the_limits_the_certificate_holds_all_three_comparisons() -> None:
    made = certified([[0.68, 0.12, 0.1, 0.1]] * 20)
    assert made["clips"] == 20 and made["past_limits"] == []
    assert made["float_against_torch"]["mean_change"] == 0
    assert made["file_against_torch"]["mean_change"] == pytest.approx(0.01)
    assert made["file_against_float"]["mean_change"] == pytest.approx(0.01)
    assert made["limits"]["file"] == {"mean_change": 0.05, "flips": 0.1, "ua_loss": 0.01}


@pytest.mark.parametrize(
    ("file", "plain", "said"),
    [
        ([[0.5, 0.3, 0.1, 0.1]] * 20, None, "file against torch: probabilities change by 0.1000"),
        ([[0.7, 0.1, 0.1, 0.1]] * 17 + [[0.39, 0.4, 0.11, 0.1]] * 3, None, "file against torch: 3 of 20 labels flip"),
        ([[math.nan] * 4] * 20, None, "file against torch: probabilities change by nan"),
        ([[0.7, 0.1, 0.1, 0.1]] * 20, [[0.69, 0.11, 0.1, 0.1]] * 20, "float against torch: probabilities change"),
    ],
)
def test_past_the_limits_it_is_said_where(file: list[list[float]], plain: list[list[float]] | None, said: str) -> None:
    past = certified(file, plain)["past_limits"]
    assert past and past[0].startswith(said) and "limit" in past[0]
