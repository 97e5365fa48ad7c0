"""Profiles: integer products against the same arithmetic in plain numpy, and what a graph must hold."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from embedkit.errors import EmbedkitError
from embedkit.export import quantize

RNG = np.random.default_rng(0)
CHANNELS, WIDTH = 40, 36


def graph(
    nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray], output: str, shape: list[str | int]
) -> onnx.ModelProto:
    """x [batch, channel, frame] -> output."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", CHANNELS, "frame"])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    return found


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def rounded(x: np.ndarray) -> np.ndarray:
    """ONNX's DynamicQuantizeLinear, and back: 256 steps from the least to the largest value, 0 among them."""
    low, high = min(x.min(), 0), max(x.max(), 0)
    step = np.float32((high - low) / 255)
    zero = np.clip(np.rint(-low / step), 0, 255)
    return (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step


def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """A convolution as three loops, in float64."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad))).astype(np.float64)
    count = (x.shape[2] - weight.shape[2]) // stride + 1
    out = np.zeros((len(x), len(weight), count))
    for clip in range(len(x)):
        for frame in range(count):
            window = x[clip, :, frame * stride : frame * stride + weight.shape[2]]
            for channel, row in enumerate(weight):
                out[clip, channel, frame] = (window * row).sum() + bias[channel]
    return out


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "frames"), [(3, 2, 0, 31), (3, 2, 1, 30), (2, 2, 0, 31), (3, 1, 1, 8), (1, 1, 0, 5)]
)
def test_a_convolution_in_integers_is_one_of_rounded_weights_and_sound(
    kernel: int, stride: int, pad: int, frames: int
) -> None:
    """Against loops over weights and activations rounded in numpy: to 1e-4, where rounding itself costs 1e-2."""
    weight, bias, x = normal(WIDTH, CHANNELS, kernel), normal(WIDTH), normal(2, CHANNELS, frames)
    conv = helper.make_node("Conv", ["x", "weight", "bias"], ["y"], "Conv_0", strides=[stride], pads=[pad, pad])
    model = quantize.PROFILES["speed"](graph([conv], {"weight": weight, "bias": bias}, "y", ["batch", WIDTH, "out"]))
    found = quantize.check(model, "speed")
    assert found["nodes"] == found["integer"] == {"convolution": 1}
    whole, scale = quantize.quantized(weight, 0)
    expected = convolved(rounded(x), whole * scale[:, None, None], bias, stride, pad)
    got = run(model, x)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert np.abs(got - convolved(x, weight, bias, stride, pad)).max() > 1e-2


def stack() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Two convolutions with their activations, then two linear layers of one input, then their sum."""
    tensors = {"a": normal(CHANNELS, CHANNELS, 3) / 10, "b": normal(WIDTH, CHANNELS, 2) / 8}
    tensors |= {name: normal(WIDTH, WIDTH) / 6 for name in "cd"}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], "Conv_0", strides=[2]),
        helper.make_node("Gelu", ["h"], ["i"], "Gelu_1"),
        helper.make_node("Conv", ["i", "b"], ["j"], "Conv_2", strides=[2]),
        helper.make_node("Gelu", ["j"], ["k"], "Gelu_3"),
        helper.make_node("Transpose", ["k"], ["l"], "Transpose_4", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["l", "c"], ["m"], "MatMul_5"),
        helper.make_node("MatMul", ["l", "d"], ["n"], "MatMul_6"),
        helper.make_node("Add", ["m", "n"], ["y"], "Add_7"),
    ]
    return nodes, tensors


def test_a_stack_of_integer_products_stays_close_and_turns_its_input_once() -> None:
    """Within 5 % of the float graph's values; frames and channels change places once, each tensor is rounded once."""
    nodes, tensors = stack()
    plain = graph(nodes, tensors, "y", ["batch", "out", WIDTH])
    model = quantize.PROFILES["speed"](plain)
    x = normal(2, CHANNELS, 41)
    expected = run(plain, x)
    assert np.abs(run(model, x) - expected).mean() < 0.05 * np.abs(expected).mean()
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("Transpose"), kinds.count("DynamicQuantizeLinear"), kinds.count("MatMulInteger")) == (1, 3, 4)
    assert not kinds.count("Conv")


def test_what_needs_channels_first_still_gets_them() -> None:
    """A sum over the channels of a rewritten convolution, beside a second convolution of the same tensor."""
    nodes, tensors = stack()
    tensors["axis"] = np.array([1])
    nodes = [*nodes[:3], helper.make_node("ReduceSum", ["i", "axis"], ["y"], "Sum", keepdims=0)]
    plain = graph(nodes, tensors, "y", ["batch", "out"])
    x = normal(1, CHANNELS, 41)
    np.testing.assert_allclose(run(quantize.PROFILES["speed"](plain), x), run(plain, x), atol=0.5)


def test_speed_without_a_product_in_integers_is_refused() -> None:
    """A graph of 8-bit weights alone does not pass for it."""
    nodes, tensors = stack()
    with pytest.raises(EmbedkitError, match="no product in integers"):
        quantize.check(quantize.PROFILES["size"](graph(nodes, tensors, "y", ["batch", "out", WIDTH])), "speed")


def test_a_profile_does_not_change_the_graph_that_it_is_given() -> None:
    nodes, tensors = stack()
    plain = graph(nodes, tensors, "y", ["batch", "out", WIDTH])
    before = plain.SerializeToString(deterministic=True)
    for profile in quantize.PROFILES.values():
        profile(plain)
    assert plain.SerializeToString(deterministic=True) == before
