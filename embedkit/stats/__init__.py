"""How sure a figure is: intervals and tests by speaker, variance by fold and seed. Only numpy; scipy inside functions.

Clips of one speaker resemble each other, so the speaker, not the clip, is the unit that is drawn. Everything starts
from `tables`: one confusion matrix a speaker, [speaker, truth, said]. A score is a function of confusion matrices
[..., truth, said], and every resampling is a product of weights with the tables, so nothing here is slow.

An interval tells how the score would vary over other speakers for heads trained as these were. It does not tell what
other training speakers would do: the folds of one corpus share theirs.
"""

from __future__ import annotations

from embedkit.stats.comparison import compare_ways, holm, permutation_test, verdict
from embedkit.stats.intervals import BOOTSTRAP_FROM, Interval, compute_interval, compute_intervals
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
    "Score",
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
