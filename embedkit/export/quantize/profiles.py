"""The profiles by name, each a function from the float graph to the final one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx

from embedkit.export.quantize._graph import Wave, correct_shift, quantize_to_8_bits


def keep_float(model: onnx.ModelProto, _: Sequence[Wave] = ()) -> onnx.ModelProto:
    """The profile float: nothing is changed."""
    return model


def quantize_for_size(model: onnx.ModelProto, waves: Sequence[Wave] = ()) -> onnx.ModelProto:
    """The profile size: every large weight in 8 bits; all arithmetic stays in float32."""
    return correct_shift(quantize_to_8_bits(model), model, waves)


def quantize_for_speed(model: onnx.ModelProto, waves: Sequence[Wave] = ()) -> onnx.ModelProto:
    """The profile speed: linear layers and wide convolutions are computed in 8-bit integers."""
    from embedkit.export.quantize import speed

    return correct_shift(quantize_to_8_bits(speed.integer_products(model)), model, waves)


def quantize_for_small(model: onnx.ModelProto, waves: Sequence[Wave] = ()) -> onnx.ModelProto:
    """The profile small: weights in 4 bits where they divide into blocks, the rest in 8; arithmetic in float32."""
    from embedkit.export.quantize import small

    return correct_shift(quantize_to_8_bits(small.quantize_to_4_bits(model, waves)), model, waves)


# Each takes the float graph and clips to calibrate on, and gives the final graph. Without clips nothing is fitted.
PROFILES: dict[str, Callable[..., onnx.ModelProto]] = {
    "float": keep_float,
    "size": quantize_for_size,
    "speed": quantize_for_speed,
    "small": quantize_for_small,
}
