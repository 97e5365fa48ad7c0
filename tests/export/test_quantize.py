"""Profiles: integer products against the same arithmetic in plain numpy, and what a graph must hold."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from embedkit.errors import EmbedkitError
from embedkit.export import quantize
from embedkit.export.quantize import small

RNG = np.random.default_rng(0)
CHANNELS, WIDTH = 40, 36


def graph(
    nodes: list[onnx.NodeProto],
    tensors: dict[str, np.ndarray],
    output: str,
    shape: list[str | int],
    channels: int = CHANNELS,
) -> onnx.ModelProto:
    """x [batch, channel, frame] -> output."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, "frame"])],
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
    """A convolution as three loops, in float64; in groups, where its weight has fewer channels than x."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad))).astype(np.float64)
    count = (x.shape[2] - weight.shape[2]) // stride + 1
    out = np.zeros((len(x), len(weight), count))
    inputs = weight.shape[1]
    for clip in range(len(x)):
        for frame in range(count):
            window = x[clip, :, frame * stride : frame * stride + weight.shape[2]]
            for channel, row in enumerate(weight):
                first = inputs * (channel * x.shape[1] // inputs // len(weight))
                out[clip, channel, frame] = (window[first : first + inputs] * row).sum() + bias[channel]
    return out


def stepped(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loops over outputs: whole numbers, and the step of each output, as large as its largest weight and its largest
    sum of two neighbours ask for; they are neighbours by tap, then channel."""
    whole, scale = np.zeros(weight.shape), np.zeros(len(weight), np.float32)
    for channel, row in enumerate(weight):
        line = row.T.reshape(-1)
        sums = [abs(line[i : i + 2].sum()) for i in range(0, len(line), 2)]
        scale[channel] = max(*sums, *abs(line)) / np.float32(127)
        whole[channel] = np.rint(row / scale[channel])
    return whole, scale


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "frames", "groups"),
    [(3, 2, 0, 31, 1), (3, 2, 1, 30, 1), (2, 2, 0, 31, 1), (3, 1, 1, 8, 1), (1, 1, 0, 5, 1), (8, 1, 4, 9, 3)],
)
def test_a_convolution_in_integers_is_one_of_rounded_weights_and_sound(
    kernel: int, stride: int, pad: int, frames: int, groups: int
) -> None:
    """Against loops over weights and activations rounded in numpy: to 1e-4, where rounding itself costs 1e-2."""
    channels = CHANNELS * groups
    weight, bias, x = normal(WIDTH, CHANNELS, kernel), normal(WIDTH), normal(2, channels, frames)
    said = {"strides": [stride], "pads": [pad, pad], "group": groups}
    conv = helper.make_node("Conv", ["x", "weight", "bias"], ["y"], "Conv_0", **said)
    plain = graph([conv], {"weight": weight, "bias": bias}, "y", ["batch", WIDTH, "out"], channels)
    model = quantize.PROFILES["speed"](plain)
    found = quantize.check_profile(model, "speed")
    kind = {"convolution": 1} if groups == 1 else {"positional convolution": groups}
    assert found["nodes"] == found["integer"] == kind
    whole, scale = stepped(weight)
    expected = convolved(rounded(x), whole * scale[:, None, None], bias, stride, pad)
    got = run(model, x)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert np.abs(got - convolved(x, weight, bias, stride, pad)).max() > 1e-2


@pytest.mark.parametrize("channels", [CHANNELS, CHANNELS - 1])
@pytest.mark.parametrize("frames", [1, 7])
@pytest.mark.parametrize("signs", ["+", "-", "+-", "++--"])
def test_the_most_extreme_products_do_not_overflow(signs: str, frames: int, channels: int) -> None:
    """Activations of 255 and 0 by weights as large as they get: what numpy has in float64, on any processor. One of
    AVX2 without VNNI adds two products in 16 bits, so no two neighbours among the weights may sum past 128."""
    row = np.resize([{"+": 1.0, "-": -1.0}[sign] for sign in signs], channels).astype(np.float32)
    weight = np.repeat(row[None, :, None], WIDTH, 0)
    weight[1::2] *= -1
    x = np.ones((1, channels, frames), np.float32)
    x[:, :, 1::3] = 0
    x[:, ::3, 2::3] = 0
    conv = helper.make_node("Conv", ["x", "weight"], ["y"], "Conv_0")
    model = quantize.PROFILES["speed"](graph([conv], {"weight": weight}, "y", ["batch", WIDTH, "out"], channels))
    whole, scale = stepped(weight)
    expected = convolved(x, whole * scale[:, None, None], np.zeros(WIDTH), 1, 0)
    np.testing.assert_allclose(run(model, x), expected, rtol=1e-5, atol=1e-4)
    (held,) = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.INT8]
    assert np.abs(np.add.reduceat(held.astype(int), range(0, channels, 2))).max() <= 128
    assert 255 * 128 < 2**15 <= 255 * 129


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


@pytest.mark.parametrize("also", [False, True])
def test_a_product_of_what_is_computed_is_turned_by_its_factors(also: bool) -> None:
    """As the first convolution's: its two small factors change their axes, not what comes out and its activation. Where
    something else asks for that as it was, it is there as it was."""
    nodes = [
        helper.make_node("Einsum", ["x", "x"], ["square"], "Einsum_0", equation="bct,bdt->bcd"),
        helper.make_node("MatMul", ["square", "x"], ["h"], "MatMul_1"),
        helper.make_node("Gelu", ["h"], ["i"], "Gelu_2"),
        helper.make_node("Conv", ["i", "weight"], ["j"], "Conv_3"),
        helper.make_node("ReduceMean", ["i" if also else "j", "axis"], ["k"], "Mean_4"),
        helper.make_node("Add", ["j", "k"], ["y"], "Add_5"),
    ]
    tensors = {"weight": normal(CHANNELS, CHANNELS, 3) / 10, "axis": np.array([2])}
    plain, x = graph(nodes, tensors, "y", ["batch", CHANNELS, "out"]), normal(2, CHANNELS, 21) / 4
    model, expected = quantize.PROFILES["speed"](plain), run(plain, x)
    assert np.abs(run(model, x) - expected).mean() < 0.05 * np.abs(expected).mean()
    turned = {node.input[0] for node in model.graph.node if node.op_type == "Transpose"}
    assert turned == {"square", "x", "j:turned"}


def test_speed_without_a_product_in_integers_is_refused() -> None:
    """A graph of 8-bit weights alone does not pass for it."""
    nodes, tensors = stack()
    with pytest.raises(EmbedkitError, match="no product in integers"):
        quantize.check_profile(quantize.PROFILES["size"](graph(nodes, tensors, "y", ["batch", "out", WIDTH])), "speed")


def test_a_profile_does_not_change_the_graph_that_it_is_given() -> None:
    nodes, tensors = stack()
    plain = graph(nodes, tensors, "y", ["batch", "out", WIDTH])
    before = plain.SerializeToString(deterministic=True)
    for profile in quantize.PROFILES.values():
        profile(plain)
    assert plain.SerializeToString(deterministic=True) == before


# ---------------------------------------------------------------- small


def layer(weight: np.ndarray) -> small.Layer:
    kind = "MatMul" if weight.ndim == 2 else "Conv"
    found = small.Layer.of(helper.make_node(kind, ["x", "w"], ["y"]), weight)
    assert found
    return found


@pytest.mark.parametrize(("shape", "axis"), [((256, 5), 0), ((6, 128, 3), 1), ((6, 4, 128), 2)])
def test_4_bits_lose_less_than_the_plain_scale_of_each_block(shape: tuple[int, ...], axis: int) -> None:
    """Against a loop over blocks: whole numbers in -8..7 that are the nearest to their scale, and no block is worse off
    than at the scale of its largest weight."""
    weight = normal(*shape)
    np.moveaxis(weight, axis, 0)[:64] *= 3
    whole, scale = small.round_layer(layer(weight), None)
    assert layer(weight).axis == axis
    assert whole.min() >= -8 and whole.max() <= 7
    lines = (np.moveaxis(each, axis, 0).reshape(each.shape[axis], -1) for each in (weight, whole, scale))
    for line, numbers, steps in zip(*(each.T for each in lines), strict=True):
        for block, ours, step in zip(
            line.reshape(-1, small.BLOCK), numbers.reshape(-1, small.BLOCK), steps, strict=True
        ):
            np.testing.assert_array_equal(ours, np.clip(np.rint(block / step), -8, 7))
            full = max(block.max() / 7, -block.min() / 8)
            plain = np.rint(block / full) * full
            assert ((ours * step - block) ** 2).sum() <= ((plain - block) ** 2).sum() * (1 + 1e-5)


def test_the_output_on_the_clips_loses_less_than_by_the_nearest_steps() -> None:
    """Inputs that go together: the output's squared error at least halves; on their own they change nothing."""
    weight = normal(128, 16)
    x = normal(4000, 12) @ normal(12, 128) + 0.1 * normal(4000, 128)
    nearest, scale = small.round_layer(layer(weight), None)
    ours, same = small.round_layer(layer(weight), (x.T @ x).astype(np.float64))
    np.testing.assert_array_equal(scale, same)
    step = np.repeat(scale, small.BLOCK, 0)
    lost = [((x @ (whole * step - weight)) ** 2).sum() for whole in (ours, nearest)]
    assert lost[0] < 0.5 * lost[1]
    alone, _ = small.round_layer(layer(weight), np.eye(128))
    np.testing.assert_array_equal(alone, nearest)


def sounding() -> onnx.ModelProto:
    """signal, lengths -> embedding: windows of sound, a wide convolution, a linear layer, a table, the mean."""
    tensors = {
        "eye": np.eye(128, dtype=np.float32)[:, None],
        "conv": normal(128, 128, 3) / 20,
        "linear": normal(128, 24) / 11,
        "table": normal(60, 24),
        "at": np.array([1]),
        "start": np.array([0]),
        "own": np.array([60]),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["signal", "at"], ["wave"], "Unsqueeze"),
        helper.make_node("Conv", ["wave", "eye"], ["windows"], "Conv_0", strides=[32]),
        helper.make_node("Conv", ["windows", "conv"], ["frames"], "Conv_1", pads=[1, 1]),
        helper.make_node("Transpose", ["frames"], ["turned"], "Transpose_2", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["turned", "linear"], ["hidden"], "MatMul_3"),
        helper.make_node("Slice", ["hidden", "start", "own", "at"], ["cut"], "Slice_4"),
        helper.make_node("Add", ["cut", "table"], ["placed"], "Add_6"),
        helper.make_node("ReduceMean", ["placed", "at"], ["embedding"], "Mean_7", keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("signal", TensorProto.FLOAT, ["batch", "samples"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 24])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def clips(count: int, loud: float = 1.0) -> list[np.ndarray]:
    """Noise, with steps between samples that go together."""
    return [(loud * normal(6_500 + 100 * i).cumsum() / 30).astype(np.float32) for i in range(count)]


def embeddings(model: onnx.ModelProto, waves: list[np.ndarray]) -> np.ndarray:
    return np.array([found["embedding"][0] for found in quantize.compute_tensors(model, ["embedding"], waves)])


def test_small_holds_4_bits_and_calibration_brings_it_closer() -> None:
    """Convolutions and linear layer in 4 bits, the table in 8. On clips that it was not fitted to, the calibrated
    graph's embedding is nearer to the float graph's than the one that was only rounded."""
    plain, others = sounding(), clips(6)
    exact = embeddings(plain, others)
    lost = {}
    for name, waves in (("rounded", []), ("calibrated", clips(8))):
        model = quantize.PROFILES["small"](plain, waves)
        onnx.checker.check_model(model, full_check=True)
        found = quantize.check_profile(model, "small")
        assert found["four_bit"] == {"convolution": 2, "linear": 1}
        assert found["nodes"] == {"convolution": 2, "linear": 1, "table": 1}
        assert found["bytes"]["convolution int4"] == 128 * 128 * (1 + 3) // 2
        lost[name] = np.abs(embeddings(model, others) - exact).mean()
    assert 0 < lost["calibrated"] < 0.7 * lost["rounded"]


@pytest.mark.parametrize("profile", ["size", "speed", "small"])
def test_on_its_clips_the_embedding_has_no_mean_shift(profile: str) -> None:
    """To 1e-5, where without the correction it is past 1e-3; the head then sees the corrected embedding."""
    plain, waves = sounding(), clips(8)
    exact = embeddings(plain, waves).mean(0)
    ours = embeddings(quantize.PROFILES[profile](plain, waves), waves).mean(0)
    np.testing.assert_allclose(ours, exact, atol=1e-5)
    assert np.abs(embeddings(quantize.PROFILES[profile](plain), waves).mean(0) - exact).max() > 1e-3


def test_small_without_4_bits_is_refused() -> None:
    with pytest.raises(EmbedkitError, match="no weight in 4 bits"):
        quantize.check_profile(quantize.PROFILES["size"](sounding()), "small")
