"""Profiles: the same graph, smaller or faster. Each is one function from the float graph to the final one.

profiles.py   all four by name: float (the reference), size (every large weight in 8 bits), speed and small
speed.py      the products in 8-bit integers, convolutions as products
small.py      weights in 4 bits
"""

from __future__ import annotations

from embedkit.export.quantize._graph import SMALLEST, compute_tensors, quantize_to_8_bits, quantize_weight
from embedkit.export.quantize._promises import check_profile, count_weights
from embedkit.export.quantize.profiles import PROFILES

__all__ = [
    "PROFILES",
    "SMALLEST",
    "check_profile",
    "compute_tensors",
    "count_weights",
    "quantize_to_8_bits",
    "quantize_weight",
]
