"""Encoders: each module of this folder reads one family; being in the folder is the registration.

What is known of an encoder before torch is imported is its `Spec` (`resolve`); `load` makes it ready to pool clips.
Weights come from safetensors only, and a checkpoint's own code is never run.
"""

from __future__ import annotations

from embedkit.encoders._base import STATS, Encoder, Spec
from embedkit.encoders._checkpoint import PREPROCESSOR, RANDOM_MARKER, WEIGHTS, load_pretrained
from embedkit.encoders._random_weights import DISTILHUBERT, write_random_distilhubert, write_random_hubert
from embedkit.encoders._registry import load, load_encoder, resolve, slug

__all__ = [
    "DISTILHUBERT",
    "PREPROCESSOR",
    "RANDOM_MARKER",
    "STATS",
    "WEIGHTS",
    "Encoder",
    "Spec",
    "load",
    "load_encoder",
    "load_pretrained",
    "resolve",
    "slug",
    "write_random_distilhubert",
    "write_random_hubert",
]
