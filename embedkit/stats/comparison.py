"""Two results on the same utterances: paired permutation tests over speakers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.stats.intervals import compute_interval
from embedkit.stats.scores import Array, Score, ua, wa

EXACT_UP_TO = 14  # speakers whose 2^G swaps are all tried
MAX_SWAPS = 9_999  # swaps of a permutation test that cannot be exact


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


def permutation_test(a: Array, b: Array, score: Score = ua, draws: int = MAX_SWAPS, seed: int = 0) -> Comparison:
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
    observed = float(score(a.sum(0)) - score(b.sum(0)))
    if np.isnan(observed):
        raise ValueError("the score is not defined on these utterances: the class is neither present nor predicted")
    if exact:  # a swap and its complement differ in sign only: the last speaker can stay
        swaps = (np.arange(2 ** (count - 1))[:, None] >> np.arange(count)) & 1
    else:
        swaps = np.random.default_rng(seed).integers(0, 2, (draws, count))
    moved = (swaps.astype(float) @ (b - a).reshape(count, -1)).reshape(-1, *a.shape[1:])
    swapped = score(a.sum(0) + moved) - score(b.sum(0) - moved)
    # Ties are hits, and so is a swap without the class; the slack takes up rounding, far below what one clip moves.
    hits = int((~(np.abs(swapped) < abs(observed) - 1e-10)).sum())
    n, least = len(swaps), 2.0 ** (1 - count)
    if exact:
        return Comparison(observed, hits / n, least, count, True, 2 * n)
    return Comparison(observed, (1 + hits) / (1 + n), max(least, 1 / (1 + n)), count, False, n)


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


def verdict(test: Comparison, a: str = "A", b: str = "B", p: float | None = None, alpha: float = 0.05) -> str:
    """The verdict in words; p: the adjusted one, where there is one.

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


def compare_ways(by_way: Mapping[str, Array], against: str) -> dict[str, Any]:
    """{ways: {way: {wa, ua}}, comparisons: [...]} of confusion matrices by speaker, each way in UA with one of them.

    Intervals are 95 %, by speaker; tests are paired permutations over speakers, with Holm's p.
    """
    scores: dict[str, Score] = {"wa": wa, "ua": ua}
    ways = {
        name: {key: asdict(compute_interval(table, score)) for key, score in scores.items()}
        for name, table in by_way.items()
    }
    others = [name for name in by_way if name != against]
    tests = [permutation_test(by_way[name], by_way[against]) for name in others]
    comparisons = [
        {"score": "ua", "way": name, "against": against, **asdict(test), "p": float(p),
         "verdict": verdict(test, name, against, float(p))}
        for name, test, p in zip(others, tests, holm([test.p for test in tests]), strict=True)
    ]  # fmt: skip
    return {"ways": ways, "comparisons": comparisons}
