"""Profiles: the same graph, smaller or faster. Each is one function from a float graph to its final one.

float      the reference
size       every large weight in 8 bits
speed.py   the products in 8-bit integers, convolutions as products
small.py   weights in 4 bits
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx

from embedkit.export.quantize._graph import Wave, corrected, in_8_bits


def as_float(model: onnx.ModelProto, _: Sequence[Wave] = ()) -> onnx.ModelProto:
    """float: nothing is changed."""
    return model


def as_size(model: onnx.ModelProto, waves: Sequence[Wave] = ()) -> onnx.ModelProto:
    """size: all arithmetic stays in float32."""
    return corrected(in_8_bits(model), model, waves)


def as_speed(model: onnx.ModelProto, waves: Sequence[Wave] = ()) -> onnx.ModelProto:
    """speed: linear layers and wide convolutions are computed in 8-bit integers."""
    from embedkit.export.quantize import speed

    return corrected(in_8_bits(speed.integer_products(model)), model, waves)


def as_small(model: onnx.ModelProto, waves: Sequence[Wave] = ()) -> onnx.ModelProto:
    """small: weights in 4 bits where they divide into blocks, the rest in 8; all arithmetic stays in float32."""
    from embedkit.export.quantize import small

    return corrected(in_8_bits(small.in_4_bits(model, waves)), model, waves)


# From a float graph, and some clips to calibrate on, to the final graph. Without clips nothing is fitted to any.
PROFILES: dict[str, Callable[..., onnx.ModelProto]] = {
    "float": as_float,
    "size": as_size,
    "speed": as_speed,
    "small": as_small,
}
