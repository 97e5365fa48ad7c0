"""The four classes of every study, the names of scores, and label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CLASSES = ("anger", "happiness", "neutral", "sadness")  # in this order everywhere

# The names of scores, as in results: "ua", "f1.anger".
METRICS = ("wa", "ua", "macro_f1", *(f"{kind}.{name}" for kind in ("f1", "recall", "precision") for name in CLASSES))

# The columns of a table of predictions that hold the probability of each class.
PROBABILITIES = [f"p_{name}" for name in CLASSES]

LabelMap = dict[str, list[str]]  # class -> labels of the corpus
ClassLabels: TypeAlias = "Sequence[str] | npt.NDArray[np.str_]"  # [row], each one of the classes
