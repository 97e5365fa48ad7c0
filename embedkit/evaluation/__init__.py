"""A finished file on a whole corpus: clip by clip, or on long recordings composed of its clips.

clips.py        clip by clip, without voice activity detection: the paper's RAVDESS test
long.py         long recordings, judged in four ways, and what is called neutral
composition.py  how they are composed
fold_heads.py   a study's fold heads as predictors, so that nobody is judged by a head that has heard them
table.py        what was found, for people
"""

from __future__ import annotations

from embedkit.evaluation.clips import evaluate_clips

__all__ = ["evaluate_clips"]
