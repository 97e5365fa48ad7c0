"""What the profiles share: quantizing weights, and changing a graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from embedkit.runtime.model import make_session_options

SMALLEST = 1024  # elements: smaller weights save too few bytes to be worth their error
TABLES = ("fourier", "filters")  # the constants of the log-mel are no learned weights: they stay exact
PRODUCTS = ("Conv", "MatMul", "Gemm", "MatMulInteger")  # nodes that multiply by a weight, their second input

Array = npt.NDArray[np.float32]
Wave = Array  # [samples], 16 kHz


def quantize_to_8_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """int8 weights, symmetric, one scale an output channel, each with a DequantizeLinear before its use."""
    result = copy_model(model)
    graph = result.graph
    kept = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for name, axis in sorted(find_large_weights(graph).items()):
        weight = numpy_helper.to_array(kept.pop(name))
        whole, scale = quantize_weight(weight, axis)
        for suffix, array in ((":int8", whole), (":scale", scale)):
            kept[name + suffix] = numpy_helper.from_array(array, name + suffix)
        dequantize = helper.make_node(
            "DequantizeLinear", [name + ":int8", name + ":scale"], [name], f"DQ:{name}", axis=axis
        )
        nodes.append(dequantize)
    nodes.extend(graph.node)
    replace_nodes(graph, nodes, kept.values())
    return result


def quantize_weight(weight: Array, axis: int, largest: Array | None = None) -> tuple[npt.NDArray[np.int8], Array]:
    """int8 of the same shape, in -127..127, and one float32 scale for each index of `axis`.

    largest: the weight that 127 stands for at each index; None: the largest weight there.
    """
    if largest is None:
        largest = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis))
    scale = (largest / 127).astype(np.float32)
    scale[scale == 0] = 1.0
    whole = np.rint(weight / _align_scale(scale, weight.ndim, axis))
    return np.clip(whole, -127, 127).astype(np.int8), scale


def _align_scale(scale: Array, ndim: int, axis: int) -> Array:
    """The scale with a length-1 dimension for every other axis, so that it broadcasts to the weight."""
    return scale.reshape([-1 if i == axis else 1 for i in range(ndim)])


def find_large_weights(graph: onnx.GraphProto) -> dict[str, int]:
    """{initializer: its axis of output channels} of every large weight.

    Those are what a Conv, MatMul or Gemm multiplies by, and the tables that are added, wholly or in part.
    """
    sizes = {t.name: t.dims for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    large = {name for name, dims in sizes.items() if np.prod(dims) >= SMALLEST and not name.endswith(TABLES)}
    axes = {}
    for node in graph.node:
        if len(node.input) > 1 and node.input[1] in large and node.op_type in ("Conv", "MatMul", "Gemm"):
            axes[node.input[1]] = 0 if node.op_type == "Conv" or read_attributes(node).get("transB") else 1
        elif node.op_type in ("Add", "Slice"):  # a table of positions, whole or its beginning; biases are small
            axes |= {name: 1 for name in node.input if name in large and len(sizes[name]) == 2}
    return axes


def correct_shift(model: onnx.ModelProto, plain: onnx.ModelProto, waves: Sequence[Wave]) -> onnx.ModelProto:
    """The quantized graph, corrected for the mean shift of its embedding on the clips (waves), before the head.

    A good part of the rounding error is the same for all clips: subtracting a constant removes it at no cost. plain:
    the float graph. Without waves, the graph is returned as it is.
    """
    if not waves:
        return model
    ours, exact = (
        np.mean([values["embedding"][0] for values in compute_tensors(each, ["embedding"], waves)], 0, dtype=np.float64)
        for each in (model, plain)
    )
    result = copy_model(model)
    graph, name = result.graph, "embedding:uncorrected"
    shift = numpy_helper.from_array(np.asarray(exact - ours, np.float32), "embedding:shift")
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if "embedding" in node.output:
            node.output[:] = [name if output == "embedding" else output for output in node.output]
            nodes.append(helper.make_node("Add", [name, shift.name], ["embedding"], "Correct"))
    replace_nodes(graph, nodes, [*graph.initializer, shift])
    return result


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A deep copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def read_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """{name: value} of a node's attributes."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto], tensors: Iterable[onnx.TensorProto]) -> None:
    """Give the graph these nodes, and the initializers among `tensors` that they use; inferred shapes are removed."""
    new_nodes = list(nodes)
    used = {name for node in new_nodes for name in node.input}
    initializers = [tensor for tensor in tensors if tensor.name in used]
    del graph.initializer[:], graph.node[:], graph.value_info[:]
    graph.initializer.extend(initializers)
    graph.node.extend(new_nodes)


def compute_tensors(model: onnx.ModelProto, names: Sequence[str], waves: Iterable[Wave]) -> Iterator[dict[str, Array]]:
    """{name: value} of some of a graph's tensors, clip by clip."""
    import onnxruntime

    if not names:
        return
    whole = copy_model(model)
    del whole.graph.output[:]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), make_session_options(), providers=["CPUExecutionProvider"]
    )
    for wave in waves:
        values = session.run(list(names), {"signal": wave[None], "lengths": np.array([len(wave)])})
        yield dict(zip(names, values, strict=True))
