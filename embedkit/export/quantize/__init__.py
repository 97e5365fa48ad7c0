"""Profiles: the same graph, smaller or faster. Each is one function from a float graph to its final one.

float      the reference
size       every large weight in 8 bits
speed.py   the products in 8-bit integers, convolutions as products
small.py   weights in 4 bits
"""

from __future__ import annotations

from embedkit.export.quantize._graph import SMALLEST, in_8_bits, outputs_of, quantized
from embedkit.export.quantize._promises import check, counts
from embedkit.export.quantize.profiles import PROFILES

__all__ = ["PROFILES", "SMALLEST", "check", "counts", "in_8_bits", "outputs_of", "quantized"]
