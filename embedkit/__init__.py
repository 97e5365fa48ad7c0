"""Speech emotion recognition on frozen encoders: encode once, then ask a thousand questions.

Features out of a cache, for scikit-learn or anything else (X [row, dim], y [row], the speakers [row] as groups):

>>> import embedkit
>>> X, y, groups = embedkit.load("ravdess", layer=2, classes=["anger", "sadness"])
>>> X.shape[0] == len(y) == len(groups), X.dtype.name
(True, 'float32')

Heads are scikit-learn estimators, so a speaker who is tested has trained no head:

>>> from sklearn.model_selection import GroupKFold, cross_val_predict
>>> predicted = cross_val_predict(embedkit.Logistic(), X, y, groups=groups, cv=GroupKFold(4))
>>> sorted(set(predicted.tolist()))
['anger', 'sadness']

`extract_corpus`, `run_study` and `stitch_export` are the verbs of the command line, and `Predictor` runs what the last
one wrote. Names are imported when they are first asked for: `import embedkit` loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedkit._lazy import import_lazily
from embedkit._version import __version__

if TYPE_CHECKING:
    from embedkit.cache import Cache
    from embedkit.encoders import load_encoder
    from embedkit.extract import extract_corpus
    from embedkit.features import load
    from embedkit.heads.lightgbm import LightGBM
    from embedkit.heads.logistic import Logistic
    from embedkit.heads.mlp import MLP
    from embedkit.refit import stitch_export
    from embedkit.runtime import Predictor
    from embedkit.study import run_study
else:
    __getattr__, __dir__ = import_lazily(
        {
            "Cache": "embedkit.cache",
            "LightGBM": "embedkit.heads.lightgbm",
            "Logistic": "embedkit.heads.logistic",
            "MLP": "embedkit.heads.mlp",
            "Predictor": "embedkit.runtime",
            "extract_corpus": "embedkit.extract",
            "load": "embedkit.features",
            "load_encoder": "embedkit.encoders",
            "run_study": "embedkit.study",
            "stitch_export": "embedkit.refit",
        }
    )

__all__ = [
    "MLP",
    "Cache",
    "LightGBM",
    "Logistic",
    "Predictor",
    "__version__",
    "extract_corpus",
    "load",
    "load_encoder",
    "run_study",
    "stitch_export",
]
