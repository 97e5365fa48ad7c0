"""Confidence intervals by speaker: cluster-robust t, or a bootstrap of speakers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict

import numpy as np

from embedkit.classes import CLASSES
from embedkit.stats.scores import Array, Score, f1s, macro_f1, precisions, recalls, select_class, ua, wa

BOOTSTRAP_FROM = 40  # speakers; below, a percentile bootstrap is too narrow (89 % instead of 95 % at 10 speakers)
RESAMPLES = 2_000  # of a bootstrap


class IntervalDocument(TypedDict):
    """An `Interval` in results.json, in a certificate and in evaluations."""

    estimate: float | None
    low: float | None
    high: float | None
    method: str
    clusters: int


@dataclass(frozen=True)
class Interval:
    """A score, 0..1, and its interval by cluster; None where there is none.

    method: "t" (cluster-robust), "bootstrap" (of clusters), "bound" (all clusters at 0 or at 1), "none" (fewer than 2).
    clusters: how many clusters define the score (a speaker without the class does not define its recall).
    """

    estimate: float | None
    low: float | None
    high: float | None
    method: str
    clusters: int

    def to_document(self) -> IntervalDocument:
        """The fields, as they are written to JSON."""
        return {
            "estimate": self.estimate,
            "low": self.low,
            "high": self.high,
            "method": self.method,
            "clusters": self.clusters,
        }


class Intervals(TypedDict):
    """The intervals of every score: `f1`, `recall` and `precision` by class."""

    wa: Interval
    ua: Interval
    macro_f1: Interval
    f1: dict[str, Interval]
    recall: dict[str, Interval]
    precision: dict[str, Interval]


def compute_interval(by_cluster: Array, score: Score = ua, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of a score from confusion matrices [cluster, truth, predicted].

    Below 40 clusters: delete-one-cluster jackknife, t with G - 1 degrees of freedom, on the logit scale (so it stays
    inside 0..1 and fits near the ends). From 40: bootstrap of clusters, percentiles widened as for t (Hesterberg, The
    American Statistician 69(4), 2015). Where every cluster is at 0 (or at 1), the clusters do not vary; the other end
    then is 1 - ((1 - level) / 2)^(1/G) (or its mirror). With a true recall beyond it, G such clusters would be rarer
    than (1 - level) / 2, however much the clips of one speaker resemble each other; for F1 and precision it is a rough
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
        return Interval(estimate, *_compute_t_interval(estimate, error, count, level), "t", count)
    return Interval(estimate, *_bootstrap_interval(used, score, level, seed), "bootstrap", count)


def _compute_t_interval(estimate: float, error: float, count: int, level: float) -> tuple[float, float]:
    """Ends of the t interval on the logit scale (the delta method carries the standard error over)."""
    from scipy import special

    middle = special.logit(estimate)
    half = special.stdtrit(count - 1, (1 + level) / 2) * error / (estimate * (1 - estimate))
    return float(special.expit(middle - half)), float(special.expit(middle + half))


def _bootstrap_interval(used: Array, score: Score, level: float, seed: int) -> tuple[float, float]:
    from scipy import special

    count = len(used)
    tail = special.ndtr(-np.sqrt(count / (count - 1)) * special.stdtrit(count - 1, (1 + level) / 2))
    drawn = score((_draw_resamples(count, seed) @ used.reshape(count, -1)).reshape(-1, *used.shape[1:]))
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


@lru_cache(maxsize=8)
def _draw_resamples(count: int, seed: int) -> Array:
    """How often each of `count` clusters was drawn, [resample, cluster]; the same for every score."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(float)
    drawn.flags.writeable = False
    return drawn


def compute_intervals(by_cluster: Array, level: float = 0.95, seed: int = 0) -> Intervals:
    """The intervals of every score of confusion matrices [cluster, truth, predicted]."""

    def interval(score: Score) -> Interval:
        return compute_interval(by_cluster, score, level, seed)

    def intervals_by_class(score: Score) -> dict[str, Interval]:
        return {name: interval(select_class(score, name)) for name in CLASSES}

    return {
        "wa": interval(wa),
        "ua": interval(ua),
        "macro_f1": interval(macro_f1),
        "f1": intervals_by_class(f1s),
        "recall": intervals_by_class(recalls),
        "precision": intervals_by_class(precisions),
    }
