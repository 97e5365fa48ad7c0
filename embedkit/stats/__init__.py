"""How sure a figure is: intervals and tests by speaker, variance by fold and seed. Only numpy; scipy inside functions.

Clips of one speaker resemble each other, so speakers are resampled, not clips. Everything starts from one confusion
matrix per speaker, [speaker, truth, predicted] (`confusion_by_cluster`). A score is a function of confusion matrices
[..., truth, predicted], and every resampling is a product of weights with these matrices, so nothing here is slow.

An interval tells how the score would vary over other test speakers for heads trained as these were. It does not tell
what other training speakers would change: the folds of one corpus share theirs.
"""

from __future__ import annotations

from embedkit.stats.comparison import (
    WayComparison,
    WayDocument,
    WaysDocument,
    compare_pairs,
    compare_ways,
    holm,
    permutation_test,
    verdict,
)
from embedkit.stats.intervals import BOOTSTRAP_FROM, Interval, IntervalDocument, compute_interval, compute_intervals
from embedkit.stats.scores import (
    Array,
    Score,
    confusion_by_cluster,
    f1s,
    macro_f1,
    precisions,
    recalls,
    select_class,
    ua,
    wa,
)
from embedkit.stats.variance import compare_variance, estimate_components, welch_test

__all__ = [
    "BOOTSTRAP_FROM",
    "Array",
    "Interval",
    "IntervalDocument",
    "Score",
    "WayComparison",
    "WayDocument",
    "WaysDocument",
    "compare_pairs",
    "compare_variance",
    "compare_ways",
    "compute_interval",
    "compute_intervals",
    "confusion_by_cluster",
    "estimate_components",
    "f1s",
    "holm",
    "macro_f1",
    "permutation_test",
    "precisions",
    "recalls",
    "select_class",
    "ua",
    "verdict",
    "wa",
    "welch_test",
]
