"""Heads: small classifiers on pooled features, each a scikit-learn estimator; being in the folder is the registration.

A head is fitted to features X [row, dim] and class names y [row]. `views` [row, K, dim] are augmented views of the same
rows; `validation` (X, y) is there to stop early by and is never trained on. `_base.py` says what a new kind must offer.
"""

from __future__ import annotations

from embedkit.heads._base import Estimator, class_columns, stack_views
from embedkit.heads._registry import build, check_card, find_rounds_parameter, list_kinds, load, save, to_onnx

__all__ = [
    "Estimator",
    "build",
    "check_card",
    "class_columns",
    "find_rounds_parameter",
    "list_kinds",
    "load",
    "save",
    "stack_views",
    "to_onnx",
]
