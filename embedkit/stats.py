"""How sure a figure is: intervals and tests by speaker, variance by fold and seed. Only numpy; scipy inside functions.

Clips of one speaker resemble each other, so the speaker, not the clip, is the unit that is drawn. Everything starts
from `tables`: one confusion matrix a speaker, [speaker, truth, said]. A score is a function of confusion matrices
[..., truth, said], and every resampling is a product of weights with the tables, so nothing here is slow.

An interval tells how the score would vary over other speakers for heads trained as these were. It does not tell what
other training speakers would do: the folds of one corpus share theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.cards import CLASSES

Array = npt.NDArray[np.float64]
Words = Sequence[str] | npt.NDArray[np.str_]
Score = Callable[[Array], Array]  # confusion matrices [..., truth, said] -> [...]

BOOTSTRAP_FROM = 40  # speakers; below, a percentile bootstrap is too narrow (89 % instead of 95 % at 10 speakers)
EXACT_UP_TO = 14  # speakers whose 2^G swaps are all tried
RESAMPLES = 2_000  # of a bootstrap
DRAWS = 9_999  # swaps of a permutation test that cannot be exact


# ---------------------------------------------------------------- scores of confusion matrices


def tables(y: Words, predicted: npt.ArrayLike, clusters: npt.ArrayLike) -> Array:
    """One confusion matrix a cluster (speaker), [cluster, truth, said], classes in the order of CLASSES.

    y and clusters [row]; predicted [row], or [seed, row]: then the mean of the seeds' matrices, so that seeds weigh
    alike and two heads with unlike numbers of seeds can be compared. Clusters are in sorted order.
    Raises ValueError for no rows, unequal lengths, or a label that is no class.
    """
    who, said = np.asarray(clusters), np.atleast_2d(np.asarray(predicted))
    if not len(y) or not len(y) == len(who) == said.shape[-1]:
        got = f"{len(y)}, {said.shape[-1]}, {len(who)}"
        raise ValueError(f"expected as many labels, predictions and clusters, at least one; got {got}")
    names, group = np.unique(who, return_inverse=True)
    k = len(CLASSES)
    cell = (group * k + _codes(y)) * k + _codes(said)  # [seed, row]
    counts = np.bincount(cell.ravel(), minlength=len(names) * k * k) / len(said)
    return counts.reshape(len(names), k, k)


def _codes(words: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Index of each word in CLASSES, in the words' shape."""
    asked = np.asarray(words)
    names, where = np.unique(asked, return_inverse=True)
    if unknown := sorted({str(name) for name in names} - set(CLASSES)):
        raise ValueError(f"expected the classes {', '.join(CLASSES)}; got {', '.join(unknown)}")
    return np.array([CLASSES.index(str(name)) for name in names], np.intp)[where].reshape(asked.shape)


def wa(t: Array) -> Array:
    """Share of rows that are right; NaN for an empty matrix."""
    return _ratio(_hits(t).sum(-1), t.sum((-1, -2)))


def ua(t: Array) -> Array:
    """Mean of the recalls of the classes present in the truth."""
    return _mean(recalls(t))


def macro_f1(t: Array) -> Array:
    """Mean of the F1 of the classes present or predicted."""
    return _mean(f1s(t))


def recalls(t: Array) -> Array:
    """[..., class]: hits / rows of the class; NaN where it has none."""
    return _ratio(_hits(t), t.sum(-1))


def precisions(t: Array) -> Array:
    """[..., class]: hits / predictions of the class; NaN where it has none."""
    return _ratio(_hits(t), t.sum(-2))


def f1s(t: Array) -> Array:
    """[..., class]: 2 hits / (rows of the class + predictions of it); NaN where both are 0."""
    return _ratio(2 * _hits(t), t.sum(-1) + t.sum(-2))


def of_class(score: Score, name: str) -> Score:
    """One class of `recalls`, `precisions` or `f1s` as a score of its own."""
    column = CLASSES.index(name)
    return lambda t: np.asarray(score(t)[..., column])


def _hits(t: Array) -> Array:
    return np.asarray(np.diagonal(t, axis1=-2, axis2=-1))


def _ratio(top: Array, bottom: Array) -> Array:
    return np.asarray(np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=bottom > 0))


def _mean(values: Array) -> Array:
    """Mean over the last axis of what is not NaN."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0.0).sum(-1), there.sum(-1).astype(float))


# ---------------------------------------------------------------- intervals


@dataclass(frozen=True)
class Interval:
    """A score, 0..1, and its interval by cluster; None where there is none.

    method: "t" (cluster-robust), "bootstrap" (of clusters), "bound" (all clusters at 0 or at 1), "none" (fewer than 2).
    clusters: how many have rows that bear on the score.
    """

    estimate: float | None
    low: float | None
    high: float | None
    method: str
    clusters: int


def interval(by_cluster: Array, score: Score = ua, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of a score from `tables` [cluster, truth, said].

    Below 40 clusters: delete-one-cluster jackknife, t with G - 1 degrees of freedom, on the logit scale (so it stays
    inside 0..1 and fits near the ends). From 40: bootstrap of clusters, percentiles widened as for t (Hesterberg, The
    American Statistician 69(4), 2015). Where every cluster is at 0 (or at 1) there is no spread to go by: the other
    end then is 1 - ((1 - level) / 2)^(1/G) (or its mirror). A true recall beyond it would give G such clusters more
    rarely than (1 - level) / 2, whatever the clips of one speaker have in common; for F1 and precision it is a rough
    guide.
    """
    used = by_cluster[~np.isnan(score(by_cluster))]  # a speaker without the class says nothing about its recall
    count, total = len(used), used.sum(0)
    if not count:
        return Interval(None, None, None, "none", 0)
    estimate = float(score(total))
    if count < 2:
        return Interval(estimate, None, None, "none", count)
    without = score(total - used)  # [cluster]
    error = float(np.sqrt((count - 1) * np.var(without)))
    if not 0.0 < estimate < 1.0:
        rest = ((1 - level) / 2) ** (1 / count)
        low, high = (rest, 1.0) if estimate >= 1.0 else (0.0, 1 - rest)
        return Interval(estimate, low, high, "bound", count)
    if count < BOOTSTRAP_FROM:
        return Interval(estimate, *_t_ends(estimate, error, count, level), "t", count)
    return Interval(estimate, *_bootstrap_ends(used, score, level, seed), "bootstrap", count)


def _t_ends(estimate: float, error: float, count: int, level: float) -> tuple[float, float]:
    """Ends of the t interval on the logit scale (the delta method carries the standard error over)."""
    from scipy import special

    middle = special.logit(estimate)
    half = special.stdtrit(count - 1, (1 + level) / 2) * error / (estimate * (1 - estimate))
    return float(special.expit(middle - half)), float(special.expit(middle + half))


def _bootstrap_ends(used: Array, score: Score, level: float, seed: int) -> tuple[float, float]:
    from scipy import special

    count = len(used)
    tail = special.ndtr(-np.sqrt(count / (count - 1)) * special.stdtrit(count - 1, (1 + level) / 2))
    drawn = score((_resamples(count, seed) @ used.reshape(count, -1)).reshape(-1, *used.shape[1:]))
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


@lru_cache(maxsize=8)
def _resamples(count: int, seed: int) -> Array:
    """How often each of count clusters was drawn, [resample, cluster]; the same for every score of a table."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(float)
    drawn.flags.writeable = False
    return drawn


# ---------------------------------------------------------------- comparisons


@dataclass(frozen=True)
class Comparison:
    """A paired permutation test over clusters.

    difference: score of a minus score of b. p: two-sided. smallest: the least p that the test could have given.
    exact: all swaps were tried; n: how many were.
    """

    difference: float
    p: float
    smallest: float
    clusters: int
    exact: bool
    n: int


def permutation(a: Array, b: Array, score: Score = ua, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Are a and b exchangeable? `tables` [cluster, truth, said] of two arms, heads or encoders on the same utterances.

    If they are, then whose predictions are whose is a coin's toss for each speaker; so whole speakers are swapped and
    the absolute difference of the two scores is compared with the one seen. With at most 14 speakers every swap is
    tried, and p is at least 2 / 2^G; with more, `draws` of them, and p = (1 + hits) / (1 + draws) (Phipson & Smyth,
    Statistical Applications in Genetics and Molecular Biology 9(1), 2010).
    Raises ValueError where the two do not hold as many utterances of each class and speaker, or the score is not
    defined on them.
    """
    if a.shape != b.shape or not np.allclose(a.sum(-1), b.sum(-1)):
        raise ValueError("a paired test wants the same utterances of the same speakers on both sides")
    count, exact = len(a), len(a) <= EXACT_UP_TO
    seen = float(score(a.sum(0)) - score(b.sum(0)))
    if np.isnan(seen):
        raise ValueError("the score is not defined on these utterances: the class is neither present nor predicted")
    if exact:  # a swap and its complement differ in sign only: the last speaker can stay
        swaps = (np.arange(2 ** (count - 1))[:, None] >> np.arange(count)) & 1
    else:
        swaps = np.random.default_rng(seed).integers(0, 2, (draws, count))
    moved = (swaps.astype(float) @ (b - a).reshape(count, -1)).reshape(-1, *a.shape[1:])
    swapped = score(a.sum(0) + moved) - score(b.sum(0) - moved)
    # Ties are hits, and so is a swap without the class; the slack takes up rounding, far below what one clip moves.
    hits = int((~(np.abs(swapped) < abs(seen) - 1e-10)).sum())
    n, least = len(swaps), 2.0 ** (1 - count)
    if exact:
        return Comparison(seen, hits / n, least, count, True, 2 * n)
    return Comparison(seen, (1 + hits) / (1 + n), max(least, 1 / (1 + n)), count, False, n)


def holm(p: npt.ArrayLike) -> Array:
    """p values [test] adjusted for their number, in their order (Holm, Scand. J. Statistics 6, 1979).

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted


def wording(test: Comparison, a: str = "A", b: str = "B", p: float | None = None, alpha: float = 0.05) -> str:
    """The verdict in words; p: the adjusted one, where there is one.

    >>> wording(Comparison(0.03, 0.008, 0.002, 10, True, 1024), "+ CREMA-D", "IEMOCAP")
    '+ CREMA-D above IEMOCAP (p = 0.008)'
    >>> wording(Comparison(0.03, 0.25, 0.125, 4, True, 16))
    'not distinguishable (4 speakers: no p below 0.12)'
    """
    p = test.p if p is None else p
    if p <= alpha:
        above, below = (a, b) if test.difference > 0 else (b, a)
        return f"{above} above {below} (p = {p:.2g})"
    if test.smallest > alpha:
        return f"not distinguishable ({test.clusters} speakers: no p below {test.smallest:.2g})"
    return "not distinguishable"


def scored(by_way: Mapping[str, Array], against: str) -> dict[str, Any]:
    """{ways: {way: {wa, ua}}, comparisons: [...]} of confusion matrices by speaker, each way in UA with one of them.

    Intervals are 95 %, by speaker; tests are paired permutations over speakers, with Holm's p.
    """
    scores: dict[str, Score] = {"wa": wa, "ua": ua}
    ways = {
        name: {key: asdict(interval(table, score)) for key, score in scores.items()} for name, table in by_way.items()
    }
    others = [name for name in by_way if name != against]
    tests = [permutation(by_way[name], by_way[against]) for name in others]
    made = [
        {"score": "ua", "way": name, "against": against, **asdict(test), "p": float(p),
         "verdict": wording(test, name, against, float(p))}
        for name, test, p in zip(others, tests, holm([test.p for test in tests]), strict=True)
    ]  # fmt: skip
    return {"ways": ways, "comparisons": made}


# ---------------------------------------------------------------- variance


@dataclass(frozen=True)
class Components:
    """Variance of a score that is due to the fold, to the seed, and to the rest (their interplay, and noise)."""

    fold: float
    seed: float
    rest: float

    @property
    def shares(self) -> dict[str, float]:
        """{fold, seed, rest}, of 1; all 0 where nothing varies."""
        total = self.fold + self.seed + self.rest
        parts = {"fold": self.fold, "seed": self.seed, "rest": self.rest}
        return {name: part / total if total else 0.0 for name, part in parts.items()}


def components(scores: npt.ArrayLike) -> Components:
    """Two-way random effects of scores [fold, seed], from the mean squares; estimates below 0 are 0.

    Raises ValueError for fewer than 2 folds or 2 seeds.
    """
    values = np.asarray(scores, float)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"expected scores [fold, seed], at least 2 x 2; got shape {values.shape}")
    folds, seeds = values.shape
    by_fold, by_seed = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    rest = float(((values - by_fold - by_seed + values.mean()) ** 2).sum() / ((folds - 1) * (seeds - 1)))
    fold = (seeds * float(np.var(by_fold, ddof=1)) - rest) / seeds
    seed = (folds * float(np.var(by_seed, ddof=1)) - rest) / folds
    return Components(max(fold, 0.0), max(seed, 0.0), rest)


@dataclass(frozen=True)
class Spread:
    """Two standard deviations compared: changes are relative to the first (-0.32: 32 % lower)."""

    sd_change: float
    variance_change: float
    f: float  # the larger variance over the smaller
    degrees: tuple[int, int]
    p: float  # two-sided

    def sentence(self, alpha: float = 0.05) -> str:
        """What changed, sd and variance apart, and whether chance explains it."""
        verdict = "not distinguishable" if self.p > alpha else "distinguishable"
        return (
            f"standard deviation {self.sd_change:+.0%}, variance {self.variance_change:+.0%}; "
            f"F({self.degrees[0]},{self.degrees[1]}) = {self.f:.2f}, p = {self.p:.2g}: {verdict}"
        )


def compare_variance(sd_a: float, n_a: int, sd_b: float, n_b: int) -> Spread:
    """F test of two standard deviations (ddof 1) over n values each. It takes the values as normal and independent.

    >>> compare_variance(0.031, 5, 0.021, 5).sentence()
    'standard deviation -32%, variance -54%; F(4,4) = 2.18, p = 0.47: not distinguishable'

    Raises ValueError for a standard deviation of 0 or fewer than 2 values.
    """
    from scipy import special

    if min(sd_a, sd_b) <= 0 or min(n_a, n_b) < 2:
        raise ValueError(
            f"expected standard deviations above 0 of at least 2 values; got {sd_a}, {sd_b} of {n_a}, {n_b}"
        )
    (large, top), (small, bottom) = sorted([(sd_a, n_a - 1), (sd_b, n_b - 1)], reverse=True)
    f = (large / small) ** 2
    p = min(1.0, 2 * float(special.fdtrc(top, bottom, f)))
    return Spread(sd_b / sd_a - 1, (sd_b / sd_a) ** 2 - 1, f, (top, bottom), p)


@dataclass(frozen=True)
class Welch:
    """Two means compared: difference b - a, and Welch's t."""

    difference: float
    t: float
    degrees: float
    p: float  # two-sided


def welch(mean_a: float, sd_a: float, n_a: int, mean_b: float, sd_b: float, n_b: int) -> Welch:
    """Welch's t test of two means from printed figures (sd with ddof 1), as for a paper that shows no more.

    Not paired and over folds that share training rows, so a rough guide; `permutation` is the test of our own figures.
    Raises ValueError where neither side varies or has fewer than 2 values.
    """
    from scipy import special

    if min(sd_a, sd_b) < 0 or sd_a == sd_b == 0 or min(n_a, n_b) < 2:
        raise ValueError(
            f"expected standard deviations above 0 of at least 2 values; got {sd_a}, {sd_b} of {n_a}, {n_b}"
        )
    a, b = sd_a**2 / n_a, sd_b**2 / n_b
    t = (mean_b - mean_a) / np.sqrt(a + b)
    degrees = (a + b) ** 2 / (a**2 / (n_a - 1) + b**2 / (n_b - 1))
    return Welch(mean_b - mean_a, float(t), float(degrees), 2 * float(special.stdtr(degrees, -abs(t))))


def every_interval(by_cluster: Array, level: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """{wa, ua, macro_f1: Interval, f1, recall, precision: {class: Interval}} of `tables`."""
    whole: dict[str, Any] = {
        name: interval(by_cluster, score, level, seed)
        for name, score in (("wa", wa), ("ua", ua), ("macro_f1", macro_f1))
    }
    for name, score in (("f1", f1s), ("recall", recalls), ("precision", precisions)):
        whole[name] = {c: interval(by_cluster, of_class(score, c), level, seed) for c in CLASSES}
    return whole
