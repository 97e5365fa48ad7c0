"""Intervals and tests by speaker: against independent implementations, and against what they promise in simulation."""

from __future__ import annotations

import itertools
from functools import partial

import audmetric
import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sk

from embedkit import metrics, stats
from embedkit.classes import CLASSES
from embedkit.stats import comparison

NAMES = np.array(CLASSES)
# What a head says (columns) of each class (rows), on average over speakers.
TYPICAL = np.array(
    [[0.70, 0.15, 0.10, 0.05], [0.20, 0.50, 0.20, 0.10], [0.08, 0.12, 0.60, 0.20], [0.03, 0.07, 0.25, 0.65]]
)
SCORES = {
    "wa": stats.wa,
    "ua": stats.ua,
    "macro F1": stats.macro_f1,
    "recall happiness": stats.select_class(stats.recalls, "happiness"),
    "F1 sadness": stats.select_class(stats.f1s, "sadness"),
}


def rows(seed: int, count: int = 300, speakers: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, predictions (right two times in five) and speakers, [row]."""
    random = np.random.default_rng(seed)
    y = random.choice(NAMES, count, p=[0.1, 0.2, 0.3, 0.4])
    said = np.where(random.random(count) < 0.4, y, random.choice(NAMES, count))
    return y, said, random.choice([f"speaker{i}" for i in range(speakers)], count)


def simulated(
    random: np.random.Generator, count: int, speakers: int, clips: np.ndarray, spread: float = 0.5
) -> np.ndarray:
    """Tables [count, speaker, 4, 4]: each speaker has confusions (log-normal odds) and a number of clips of its own."""
    odds = TYPICAL * np.exp(spread * random.standard_normal((count, speakers, 4, 4)))
    numbers = random.poisson(clips * np.exp(0.4 * random.standard_normal((count, speakers, 1))))
    return random.multinomial(numbers, odds / odds.sum(-1, keepdims=True)).astype(float)


# ---------------------------------------------------------------- scores


@pytest.mark.parametrize("seed", range(10))
def test_scores_of_tables_equal_other_implementations(seed):
    """WA, UA, macro F1, F1, recall and precision from summed tables: scikit-learn, audmetric and our own, to 1e-12."""
    y, said, speakers = rows(seed)
    total = stats.confusion_by_cluster(y, said, speakers).sum(0)
    near = partial(pytest.approx, abs=1e-12)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(y, said, labels=list(CLASSES))
    assert stats.wa(total) == near(sk.accuracy_score(y, said))
    assert stats.ua(total) == near(audmetric.unweighted_average_recall(y, said))
    assert stats.ua(total) == near(metrics.ua(y, said))
    assert stats.macro_f1(total) == near(audmetric.unweighted_average_fscore(y, said))
    assert stats.macro_f1(total) == near(metrics.macro_f1(y, said))
    assert stats.recalls(total) == near(recall)
    assert stats.precisions(total) == near(precision)
    assert stats.f1s(total) == near(f1)


def test_absent_classes_are_left_out():
    """As metrics.py has it: UA over the classes present, F1 over those present or predicted, else NaN."""
    y, said = ["anger", "anger", "sadness"], ["anger", "neutral", "sadness"]
    total = stats.confusion_by_cluster(y, said, [1, 1, 2]).sum(0)
    assert stats.ua(total) == 0.75
    assert stats.macro_f1(total) == pytest.approx(metrics.macro_f1(y, said), abs=1e-12)
    assert np.isnan(stats.recalls(total)[CLASSES.index("happiness")])


def test_tables_are_the_confusions_of_each_speaker_and_average_seeds():
    """[speaker, truth, said] equals a confusion matrix a speaker; two seeds' tables are the mean of theirs."""
    y, said, speakers = rows(0)
    found = stats.confusion_by_cluster(y, said, speakers)
    for i, name in enumerate(np.unique(speakers)):
        mask = speakers == name
        assert (found[i] == sk.confusion_matrix(y[mask], said[mask], labels=list(CLASSES))).all()
    other = np.roll(said, 1)
    both = stats.confusion_by_cluster(y, np.stack([said, other]), speakers)
    assert np.allclose(both, (found + stats.confusion_by_cluster(y, other, speakers)) / 2, atol=1e-12)


def test_tables_refuse_what_does_not_fit():
    """Unequal lengths, no rows, and a label that is no class end in one line."""
    for y, said, speakers in (([], [], []), (["anger"], ["anger", "anger"], [1]), (["anger"], ["anger"], [1, 2])):
        with pytest.raises(ValueError, match="at least one"):
            stats.confusion_by_cluster(y, said, speakers)
    with pytest.raises(ValueError, match="got disgust"):
        stats.confusion_by_cluster(["anger"], ["disgust"], [1])


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("name", SCORES)
def test_the_t_interval_equals_a_slow_jackknife(name):
    """Against leaving out each speaker's rows and scoring anew, with scipy's t and the logit by hand, to 1e-9."""
    y, said, speakers = rows(1)
    score = SCORES[name]
    found = stats.compute_interval(stats.confusion_by_cluster(y, said, speakers), score)
    left = [speakers != s for s in np.unique(speakers)]
    values = np.array([score(sk.confusion_matrix(y[m], said[m], labels=list(CLASSES)).astype(float)) for m in left])
    estimate = float(score(sk.confusion_matrix(y, said, labels=list(CLASSES)).astype(float)))
    error = np.sqrt(11 / 12 * ((values - values.mean()) ** 2).sum())
    half = scipy.stats.t(11).ppf(0.975) * error / (estimate * (1 - estimate))
    ends = [1 / (1 + np.exp(-(np.log(estimate / (1 - estimate)) + sign * half))) for sign in (-1, 1)]
    assert (found.estimate, found.low, found.high) == pytest.approx((estimate, *ends), abs=1e-9)
    assert (found.method, found.clusters) == ("t", 12)


def test_the_bootstrap_agrees_with_scipys():
    """At 60 speakers: the ends against scipy's percentile bootstrap of whole speakers, to a tenth of the width."""
    y, said, speakers = rows(2, 1500, 60)
    tables = stats.confusion_by_cluster(y, said, speakers)
    found = stats.compute_interval(tables)
    drawn = scipy.stats.bootstrap(
        (np.arange(60),),
        lambda i: stats.ua(tables[i].sum(0)),
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert found.method == "bootstrap"
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), abs=(drawn.high - drawn.low) / 10)
    assert found == stats.compute_interval(tables), "the same seed gives the same ends"


def test_intervals_that_have_nothing_to_go_by():
    """One speaker: none. A class that is absent: None. Speakers without the class do not count."""
    one = stats.confusion_by_cluster(["anger", "anger"], ["anger", "neutral"], ["a", "a"])
    assert stats.compute_interval(one) == stats.Interval(0.5, None, None, "none", 1)
    assert stats.compute_interval(one, SCORES["F1 sadness"]) == stats.Interval(None, None, None, "none", 0)
    y, said = (
        ["anger", "happiness"] * 3 + ["anger"],
        ["anger", "anger", "anger", "happiness", "anger", "anger", "anger"],
    )
    three = stats.confusion_by_cluster(y, said, ["a", "a", "b", "b", "c", "c", "d"])
    assert stats.compute_interval(three, SCORES["recall happiness"]).clusters == 3


def test_a_recall_of_nothing_has_a_width():
    """24 speakers, none ever right: the end is where 24 speakers at 0 have p 0.025; mirrored when all are right."""
    y, speakers = ["happiness"] * 48, np.arange(48) // 2
    never = stats.compute_interval(stats.confusion_by_cluster(y, ["anger"] * 48, speakers), SCORES["recall happiness"])
    always = stats.compute_interval(stats.confusion_by_cluster(y, y, speakers), SCORES["recall happiness"])
    assert (never.low, never.method, always.high, always.method) == (0.0, "bound", 1.0, "bound")
    assert scipy.stats.binom(24, never.high).pmf(0) == pytest.approx(0.025, abs=1e-12)
    assert always.low == pytest.approx(1 - never.high, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("speakers", "clips"), [(10, [110, 160, 170, 108]), (24, [8, 8, 12, 8]), (91, [14, 14, 12, 14])], ids=str
)
def test_intervals_cover(speakers, clips):
    """IEMOCAP's, RAVDESS's and CREMA-D's numbers of speakers: 95 % intervals of every score cover 93 to 97 %.

    Corpora whose speakers have their own confusions and numbers of clips: 4,000 of them, 2,000 for the bootstrap; a
    coverage of 95 % then has a standard error of 0.35 and 0.5 points.
    """
    random = np.random.default_rng(speakers)
    whole = simulated(random, 1, 200_000, np.array(clips))[0].sum(0)
    corpora = simulated(random, 4_000 if speakers < stats.BOOTSTRAP_FROM else 2_000, speakers, np.array(clips))
    for name, score in SCORES.items():
        true = float(score(whole))
        found = [stats.compute_interval(tables, score) for tables in corpora]
        covered = np.mean([i.low <= true <= i.high for i in found])
        assert 0.93 <= covered <= 0.97, f"{name}: {covered:.3f} at {speakers} speakers"


# ---------------------------------------------------------------- paired permutation


def pair(seed: int, speakers: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, two arms' predictions and speakers, [row]; every speaker has every class."""
    y = np.tile(np.repeat(NAMES, 3), speakers)
    random = np.random.default_rng(seed)
    a, b = (np.where(random.random(len(y)) < right, y, random.choice(NAMES, len(y))) for right in (0.6, 0.4))
    return y, a, b, np.repeat(np.arange(speakers), 12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("score", "slow"), [(stats.ua, metrics.ua), (stats.macro_f1, metrics.macro_f1)])
def test_the_exact_test_equals_swapping_rows_one_by_one(seed, score, slow):
    """All 2^6 swaps of whole speakers' predictions, each scored from its rows: the same difference and p to 1e-12."""
    y, a, b, speakers = pair(seed)
    found = stats.permutation_test(
        stats.confusion_by_cluster(y, a, speakers), stats.confusion_by_cluster(y, b, speakers), score
    )
    seen = slow(y, a) - slow(y, b)
    hits = 0
    for swap in itertools.product([False, True], repeat=6):
        mask = np.array(swap)[speakers]
        hits += abs(slow(y, np.where(mask, b, a)) - slow(y, np.where(mask, a, b))) >= abs(seen) - 1e-10
    assert (found.difference, found.p) == pytest.approx((seen, hits / 64), abs=1e-12)
    assert (found.exact, found.n, found.clusters, found.smallest) == (True, 64, 6, 2 / 64)


def test_ua_of_balanced_speakers_is_scipys_sign_flip_test():
    """Where all speakers have the same clips, UA's difference is the mean of theirs: scipy's paired test, 1e-12."""
    y, a, b, speakers = pair(7, 9)
    first, second = stats.confusion_by_cluster(y, a, speakers), stats.confusion_by_cluster(y, b, speakers)
    each = scipy.stats.permutation_test(
        (stats.ua(first), stats.ua(second)), lambda x, z: np.mean(x - z), permutation_type="samples", n_resamples=np.inf
    )
    found = stats.permutation_test(first, second)
    assert (found.difference, found.p) == pytest.approx((each.statistic, each.pvalue), abs=1e-12)


def test_drawn_swaps_come_near_the_exact_p(monkeypatch):
    """The same 14 speakers exactly and by 9,999 drawn swaps: p within 4 standard errors."""
    y, a, b, speakers = pair(3, 14)
    a = np.where(np.arange(len(y)) % 4 == 0, b, a)
    both = stats.confusion_by_cluster(y, a, speakers), stats.confusion_by_cluster(y, b, speakers)
    exact = stats.permutation_test(*both)
    monkeypatch.setattr(comparison, "EXACT_UP_TO", 0)
    drawn = stats.permutation_test(*both)
    assert (exact.exact, drawn.exact, drawn.n, drawn.smallest) == (True, False, 9_999, 2 / 2**14)
    assert abs(exact.p - drawn.p) < 4 * np.sqrt(exact.p * (1 - exact.p) / 9_999) + 1e-4


@pytest.mark.parametrize("speakers", [4, 10, 24])
def test_identical_predictions_have_p_1(speakers):
    """Exact and drawn alike, and however small the p that the test could give."""
    y, a, _, who = pair(0, speakers)
    tables = stats.confusion_by_cluster(y, a, who)
    found = stats.permutation_test(tables, tables)
    assert (found.p, found.difference) == (1.0, 0.0)
    assert found.smallest == (2 / 2**speakers if speakers < 15 else 1e-4)
    assert stats.verdict(found).startswith("not distinguishable")


def test_one_sided_speakers_reach_the_smallest_p():
    """Where every speaker is better under one arm, only the two full swaps are as far: p = 2 / 2^G."""
    y, a, _, who = pair(0, 10)
    worse = np.where(np.arange(len(y)) % 12 < 3, "neutral", y)
    found = stats.permutation_test(stats.confusion_by_cluster(y, y, who), stats.confusion_by_cluster(y, worse, who))
    assert found.p == found.smallest == 2 / 2**10
    assert stats.verdict(found, "all right", "no anger") == "all right above no anger (p = 0.002)"
    back = stats.permutation_test(stats.confusion_by_cluster(y, worse, who), stats.confusion_by_cluster(y, y, who))
    assert stats.verdict(back, "no anger", "all right") == "all right above no anger (p = 0.002)"
    assert stats.verdict(found, p=0.2) == "not distinguishable"
    with pytest.raises(ValueError, match="same utterances"):
        stats.permutation_test(
            stats.confusion_by_cluster(y, a, who), stats.confusion_by_cluster(np.where(who == 3, "anger", y), a, who)
        )


@pytest.mark.parametrize("speakers", [6, 10, 24])
def test_exchangeable_heads_are_rarely_told_apart(speakers):
    """Two heads that share each speaker's odds, 2,000 corpora: P(p <= a) is at most a, within 3 standard errors.

    And it is not far below either (but for ties at 6 speakers): a test that never rejects would be no test.
    """
    random = np.random.default_rng(speakers)
    p = []
    for _ in range(2_000):
        odds = TYPICAL * np.exp(0.5 * random.standard_normal((speakers, 4, 4)))
        odds /= odds.sum(-1, keepdims=True)
        clips = 1 + random.poisson(10, (speakers, 4))
        a, b = (random.multinomial(clips, odds).astype(float) for _ in "ab")
        p.append(stats.permutation_test(a, b, draws=499, seed=int(random.integers(2**31))).p)
    for alpha in (0.05, 0.1, 0.2):
        error = np.sqrt(alpha * (1 - alpha) / len(p))
        share = np.mean(np.array(p) <= alpha)
        assert share <= alpha + 3 * error, f"P(p <= {alpha}) = {share}"
        assert share >= alpha - 3 * error - 2 / 2**speakers, f"P(p <= {alpha}) = {share}"


def test_holm_equals_a_slow_one():
    """Step down by hand: the i-th smallest times (m - i), never below an earlier one, at most 1; to 1e-12."""
    random = np.random.default_rng(0)
    for m in (1, 2, 7):
        p = random.random(m) ** 3
        slow, running = np.empty(m), 0.0
        for i, where in enumerate(sorted(range(m), key=lambda j: p[j])):
            running = max(running, (m - i) * p[where])
            slow[where] = min(1.0, running)
        assert stats.holm(p) == pytest.approx(slow, abs=1e-12)


# ---------------------------------------------------------------- variance


def test_components_equal_a_regression_on_dummies():
    """The mean squares against least squares with fold and seed dummies, entered one after the other; to 1e-12."""
    random = np.random.default_rng(0)
    scores = 0.6 + 0.03 * random.standard_normal((5, 1)) + 0.01 * random.standard_normal((5, 4))
    fold, seed = (i.ravel() for i in np.indices(scores.shape))
    left = []
    for columns in ([np.ones(20)], [np.eye(5)[fold]], [np.eye(5)[fold], np.eye(4)[seed]]):
        design = np.column_stack(columns)
        left.append(((scores.ravel() - design @ np.linalg.lstsq(design, scores.ravel())[0]) ** 2).sum())
    squares = (left[0] - left[1]) / 4, (left[1] - left[2]) / 3, left[2] / 12
    found = stats.estimate_components(scores)
    slow = max((squares[0] - squares[2]) / 4, 0), max((squares[1] - squares[2]) / 5, 0), squares[2]
    assert (found.fold, found.seed, found.rest) == pytest.approx(slow, abs=1e-12)
    assert sum(found.shares.values()) == pytest.approx(1, abs=1e-12)


def test_components_recover_what_was_put_in():
    """Folds' sd 3, seeds' 2, rest 1 points: the mean of 4,000 estimates is 9, 4, 1 within 4 standard errors."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(4_000):
        scores = (
            3 * random.standard_normal((8, 1)) + 2 * random.standard_normal((1, 6)) + random.standard_normal((8, 6))
        )
        found.append(stats.estimate_components(scores))
    for name, true in (("fold", 9), ("seed", 4), ("rest", 1)):
        values = np.array([getattr(c, name) for c in found])
        assert abs(values.mean() - true) < 4 * values.std() / np.sqrt(len(values)) + 0.01


def test_components_of_a_head_without_a_seed():
    """A head that ignores its seed: all variance is the folds'. Nothing that varies: no share. One seed: an error."""
    scores = np.repeat([[0.5], [0.6], [0.7]], 3, axis=1)
    assert stats.estimate_components(scores).shares == pytest.approx({"fold": 1, "seed": 0, "rest": 0}, abs=1e-12)
    assert set(stats.estimate_components(np.full((3, 3), 0.5)).shares.values()) == {0.0}
    with pytest.raises(ValueError, match="at least 2 x 2"):
        stats.estimate_components([[0.5], [0.6]])


def test_the_papers_spread_is_no_finding():
    """WA 0.031 to 0.021 over five folds: "32 % lower" is the sd, the variance falls by 54 %; F(4,4) = 2.18, p 0.47."""
    found = stats.compare_variance(0.031, 5, 0.021, 5)
    assert found.sd_change == pytest.approx(-0.32, abs=0.005)
    assert found.variance_change == pytest.approx(-0.54, abs=0.005)
    assert found.p == pytest.approx(0.47, abs=0.005)
    assert "standard deviation -32%, variance -54%; F(4,4) = 2.18, p = 0.47: not dist" in found.format_sentence()
    slow = 2 * scipy.stats.f(4, 4).sf((0.031 / 0.021) ** 2)
    assert found.p == pytest.approx(slow, abs=1e-12)
    assert stats.compare_variance(0.01, 4, 0.05, 9).p == pytest.approx(2 * scipy.stats.f(8, 3).sf(25), abs=1e-12)
    assert stats.compare_variance(0.01, 4, 0.05, 9).format_sentence().endswith(": distinguishable")
    with pytest.raises(ValueError, match="above 0"):
        stats.compare_variance(0.0, 5, 0.1, 5)


def test_the_papers_gains_are_no_findings():
    """WA +1.2 points: p about 0.5; F1 of neutral +5.4: p about 0.12. Against scipy's Welch test to 1e-12."""
    wa, neutral = (0.595, 0.031, 5, 0.607, 0.021, 5), (0.512, 0.059, 5, 0.566, 0.029, 5)
    assert stats.welch_test(*wa).p == pytest.approx(0.5, abs=0.01)
    assert stats.welch_test(*neutral).p == pytest.approx(0.12, abs=0.005)
    for figures in (wa, neutral, (0.5, 0.1, 3, 0.7, 0.0, 8)):
        slow = scipy.stats.ttest_ind_from_stats(*figures, equal_var=False)
        found = stats.welch_test(*figures)
        assert (-found.t, found.p) == pytest.approx((slow.statistic, slow.pvalue), abs=1e-12)
        assert found.difference == pytest.approx(figures[3] - figures[0], abs=1e-12)


def test_every_interval_holds_its_estimate():
    """One call gives WA, UA, macro F1, and F1, recall and precision by class; each estimate lies in its interval."""
    found = stats.compute_intervals(stats.confusion_by_cluster(*rows(4)))
    flat = [found[n] for n in ("wa", "ua", "macro_f1")] + [
        found[n][c] for n in ("f1", "recall", "precision") for c in CLASSES
    ]
    assert all(i.low < i.estimate < i.high for i in flat)
    assert found["ua"] == stats.compute_interval(stats.confusion_by_cluster(*rows(4)))
