"""An exported file on a whole corpus: clip by clip, or on long recordings composed of its clips.

clips.py        clip by clip, without voice activity detection: the paper's RAVDESS test
long.py         long recordings, classified in four ways, and how many of them are called neutral
composition.py  how the recordings are composed
fold_heads.py   the heads of a study's folds as predictors, each for the clips that it was not trained on
document.py     the documents of both
table.py        the document of long recordings as text
"""

from __future__ import annotations

from embedkit.evaluation.clips import evaluate_clips
from embedkit.evaluation.document import ClipEvaluation, LongEvaluation

__all__ = ["ClipEvaluation", "LongEvaluation", "evaluate_clips"]
