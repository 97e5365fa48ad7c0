"""How sure a figure is: intervals and tests by speaker, variance by fold and seed. Only numpy; scipy inside functions.

Clips of one speaker resemble each other, so the speaker, not the clip, is the unit that is drawn. Everything starts
from `tables`: one confusion matrix a speaker, [speaker, truth, said]. A score is a function of confusion matrices
[..., truth, said], and every resampling is a product of weights with the tables, so nothing here is slow.

An interval tells how the score would vary over other speakers for heads trained as these were. It does not tell what
other training speakers would do: the folds of one corpus share theirs.
"""

from __future__ import annotations

from embedkit.stats.comparison import holm, permutation, scored, wording
from embedkit.stats.intervals import BOOTSTRAP_FROM, Interval, every_interval, interval
from embedkit.stats.scores import Array, Score, f1s, macro_f1, of_class, precisions, recalls, tables, ua, wa
from embedkit.stats.variance import compare_variance, components, welch

__all__ = [
    "BOOTSTRAP_FROM",
    "Array",
    "Interval",
    "Score",
    "compare_variance",
    "components",
    "every_interval",
    "f1s",
    "holm",
    "interval",
    "macro_f1",
    "of_class",
    "permutation",
    "precisions",
    "recalls",
    "scored",
    "tables",
    "ua",
    "wa",
    "welch",
    "wording",
]
