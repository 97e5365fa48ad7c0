"""Two results on the same utterances: paired permutation tests over speakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from embedkit.stats.intervals import IntervalDocument, compute_interval
from embedkit.stats.scores import Array, Score, ua, wa

EXACT_UP_TO = 14  # speakers: up to so many, all 2^G swaps are tried
MAX_SWAPS = 9_999  # random swaps of a permutation test with more speakers


@dataclass(frozen=True)
class Comparison:
    """A paired permutation test over clusters.

    difference: score of a minus score of b. p: two-sided. smallest: the least p that the test could have given.
    exact: whether all swaps were tried. n: how many swaps were tried.
    """

    difference: float
    p: float
    smallest: float
    clusters: int
    exact: bool
    n: int


def permutation_test(a: Array, b: Array, score: Score = ua, draws: int = MAX_SWAPS, seed: int = 0) -> Comparison:
    """Test whether a and b, two arms, heads or encoders on the same utterances, are exchangeable.

    a and b: confusion matrices [cluster, truth, predicted]. If they are exchangeable, swapping the predictions of a
    whole speaker changes nothing systematically; so speakers are swapped, and the absolute difference of the two scores
    is compared with the observed one. With at most 14 speakers every swap is tried, and p is at least 2 / 2^G; with
    more, `draws` random ones, and p = (1 + hits) / (1 + draws) (Phipson & Smyth, Statistical Applications in Genetics
    and Molecular Biology 9(1), 2010).
    Raises ValueError where the two do not have the same number of utterances of each class and speaker, or the score is
    not defined on them.
    """
    if a.shape != b.shape or not np.allclose(a.sum(-1), b.sum(-1)):
        raise ValueError("a paired test wants the same utterances of the same speakers on both sides")
    count, exact = len(a), len(a) <= EXACT_UP_TO
    observed = float(score(a.sum(0)) - score(b.sum(0)))
    if np.isnan(observed):
        raise ValueError("the score is not defined on these utterances: the class is neither present nor predicted")
    if exact:  # a swap and its complement differ only in sign, so the last speaker need not be swapped
        swaps = (np.arange(2 ** (count - 1))[:, None] >> np.arange(count)) & 1
    else:
        swaps = np.random.default_rng(seed).integers(0, 2, (draws, count))
    moved = (swaps.astype(float) @ (b - a).reshape(count, -1)).reshape(-1, *a.shape[1:])
    swapped = score(a.sum(0) + moved) - score(b.sum(0) - moved)
    # Ties are hits, and so is a swap where the score is undefined; 1e-10 allows for rounding, far below one clip.
    hits = int((~(np.abs(swapped) < abs(observed) - 1e-10)).sum())
    n, least = len(swaps), 2.0 ** (1 - count)
    if exact:
        return Comparison(observed, hits / n, least, count, True, 2 * n)
    return Comparison(observed, (1 + hits) / (1 + n), max(least, 1 / (1 + n)), count, False, n)


def holm(p: npt.ArrayLike) -> Array:
    """p values [test] adjusted for multiple tests, in the given order (Holm, Scand. J. Statistics 6, 1979).

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted


def verdict(test: Comparison, a: str = "A", b: str = "B", p: float | None = None, alpha: float = 0.05) -> str:
    """The outcome of a test in words. a, b: what the two are called. p: the adjusted p, where there is one.

    >>> verdict(Comparison(0.03, 0.008, 0.002, 10, True, 1024), "+ CREMA-D", "IEMOCAP")
    '+ CREMA-D above IEMOCAP (p = 0.008)'
    >>> verdict(Comparison(0.03, 0.25, 0.125, 4, True, 16))
    'not distinguishable (4 speakers: no p below 0.12)'
    """
    p = test.p if p is None else p
    if p <= alpha:
        above, below = (a, b) if test.difference > 0 else (b, a)
        return f"{above} above {below} (p = {p:.2g})"
    if test.smallest > alpha:
        return f"not distinguishable ({test.clusters} speakers: no p below {test.smallest:.2g})"
    return "not distinguishable"


class WayDocument(TypedDict):
    """The scores of one way to predict the same test rows."""

    wa: IntervalDocument
    ua: IntervalDocument


class WayComparison(TypedDict):
    """One way tested against another; see `Comparison`. `p` is adjusted (Holm)."""

    score: str
    way: str
    against: str
    difference: float
    p: float
    smallest: float
    clusters: int
    exact: bool
    n: int
    verdict: str


class WaysDocument(TypedDict):
    """Ways to predict the same test rows, their scores, and tests against one of them; part of a certificate."""

    ways: dict[str, WayDocument]
    comparisons: list[WayComparison]


def compare_ways(by_way: Mapping[str, Array], against: str) -> WaysDocument:
    """WA and UA of each way with their intervals, and each way's UA tested against the way `against`.

    by_way: confusion matrices [speaker, truth, predicted] of each way. Intervals are 95 %, by speaker; tests are paired
    permutations over speakers, their p adjusted (Holm).
    """
    ways: dict[str, WayDocument] = {
        name: {
            "wa": compute_interval(matrices, wa).to_document(),
            "ua": compute_interval(matrices, ua).to_document(),
        }
        for name, matrices in by_way.items()
    }
    pairs = [(name, against) for name in by_way if name != against]
    return {"ways": ways, "comparisons": compare_pairs(by_way, pairs, "ua", ua)}


def compare_pairs(
    by_way: Mapping[str, Array], pairs: Sequence[tuple[str, str]], name: str, score: Score
) -> list[WayComparison]:
    """Pairs of ways (one, the other it is tested against) by a paired permutation test over speakers.

    by_way: `confusion_by_cluster` of each way. name: of the score. p is adjusted over all pairs (Holm).
    """
    tests = [permutation_test(by_way[way], by_way[against], score) for way, against in pairs]
    adjusted: list[float] = holm([test.p for test in tests]).tolist()
    return [
        {
            "score": name,
            "way": way,
            "against": against,
            "difference": test.difference,
            "p": p,
            "smallest": test.smallest,
            "clusters": test.clusters,
            "exact": test.exact,
            "n": test.n,
            "verdict": verdict(test, way, against, p),
        }
        for (way, against), test, p in zip(pairs, tests, adjusted, strict=True)
    ]
