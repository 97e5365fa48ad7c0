"""Profiles: the same graph, smaller or faster. Each is one function from a float graph to its final one.

float      the reference
size       every large weight in 8 bits
speed.py   the products in 8-bit integers, convolutions as products
small.py   weights in 4 bits
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx

from embedkit.export.quantize._graph import Wave, correct_shift, quantize_to_8_bits


def keep_float(model: onnx.ModelProto, _: Sequence[Wave] = ()) -> onnx.ModelProto:
    """float: nothing is changed."""
    return model


def quantize_for_size(model: onnx.ModelProto, waves: Sequence[Wave] = ()) -> onnx.ModelProto:
    """size: all arithmetic stays in float32."""
    return correct_shift(quantize_to_8_bits(model), model, waves)


def quantize_for_speed(model: onnx.ModelProto, waves: Sequence[Wave] = ()) -> onnx.ModelProto:
    """speed: linear layers and wide convolutions are computed in 8-bit integers."""
    from embedkit.export.quantize import speed

    return correct_shift(quantize_to_8_bits(speed.integer_products(model)), model, waves)


def quantize_for_small(model: onnx.ModelProto, waves: Sequence[Wave] = ()) -> onnx.ModelProto:
    """small: weights in 4 bits where they divide into blocks, the rest in 8; all arithmetic stays in float32."""
    from embedkit.export.quantize import small

    return correct_shift(quantize_to_8_bits(small.quantize_to_4_bits(model, waves)), model, waves)


# From a float graph, and some clips to calibrate on, to the final graph. Without clips nothing is fitted to any.
PROFILES: dict[str, Callable[..., onnx.ModelProto]] = {
    "float": keep_float,
    "size": quantize_for_size,
    "speed": quantize_for_speed,
    "small": quantize_for_small,
}
