"""The classes that a study asks about, the scores of each, and label maps."""

from __future__ import annotations

CLASSES = ("anger", "happiness", "neutral", "sadness")  # everywhere in this order

# The names of scores, as in results: "ua", "f1.anger".
METRICS = ("wa", "ua", "macro_f1", *(f"{kind}.{name}" for kind in ("f1", "recall", "precision") for name in CLASSES))

# The columns of a study's record that hold the probability of each class.
PROBABILITIES = [f"p_{name}" for name in CLASSES]

LabelMap = dict[str, list[str]]  # class -> the corpus's own labels
