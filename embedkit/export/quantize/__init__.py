"""Profiles: the same graph, smaller or faster. Each is one function from a float graph to its final one.

float      the reference
size       every large weight in 8 bits, all arithmetic in float32
speed.py   the products in 8-bit integers, convolutions as products
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from embedkit.errors import EmbedkitError

SMALLEST = 1024  # elements: smaller weights together weigh less than their error is worth
TABLES = ("fourier", "filters")  # the log-mel's own constants are a formula, not weights: they stay exact
PRODUCTS = ("Conv", "MatMul", "Gemm", "MatMulInteger")  # what multiplies by a weight, its second input
WHOLE = (TensorProto.INT8, TensorProto.UINT8)

Array = npt.NDArray[np.float32]


def as_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """float: nothing is changed."""
    return model


def as_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """size: int8 weights, symmetric, one scale an output channel, each with a DequantizeLinear before its use."""
    result = copied(model)
    graph = result.graph
    kept = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for name, axis in sorted(weights(graph).items()):
        weight = numpy_helper.to_array(kept.pop(name))
        whole, scale = quantized(weight, axis)
        for suffix, array in ((":int8", whole), (":scale", scale)):
            kept[name + suffix] = numpy_helper.from_array(array, name + suffix)
        back = helper.make_node("DequantizeLinear", [name + ":int8", name + ":scale"], [name], f"DQ:{name}", axis=axis)
        nodes.append(back)
        _follow(kept, weight, whole * _spread(scale, whole.ndim, axis))
    nodes.extend(graph.node)
    replace(graph, nodes, kept.values())
    return result


def as_speed(model: onnx.ModelProto) -> onnx.ModelProto:
    """speed: see `embedkit.export.quantize.speed`."""
    from embedkit.export.quantize import speed

    return as_size(speed.integer_products(model))


PROFILES: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "float": as_float,
    "size": as_size,
    "speed": as_speed,
}


# ---------------------------------------------------------------- weights


def quantized(weight: Array, axis: int) -> tuple[npt.NDArray[np.int8], Array]:
    """int8 of the same shape in -127..127 and one float32 scale for each index of `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = (np.abs(weight).max(axis=others) / 127).astype(np.float32)
    scale[scale == 0] = 1.0
    whole = np.rint(weight / _spread(scale, weight.ndim, axis))
    return np.clip(whole, -127, 127).astype(np.int8), scale


def _spread(scale: Array, ndim: int, axis: int) -> Array:
    return scale.reshape([-1 if i == axis else 1 for i in range(ndim)])


def weights(graph: onnx.GraphProto) -> dict[str, int]:
    """{initializer: its axis of output channels} of every large weight that a Conv, MatMul or Gemm multiplies by."""
    large = {
        t.name
        for t in graph.initializer
        if t.data_type == TensorProto.FLOAT and np.prod(t.dims) >= SMALLEST and not t.name.endswith(TABLES)
    }
    found = {}
    for node in graph.node:
        if len(node.input) > 1 and node.input[1] in large and node.op_type in ("Conv", "MatMul", "Gemm"):
            found[node.input[1]] = 0 if node.op_type == "Conv" or attributes(node).get("transB") else 1
    return found


def _follow(kept: dict[str, TensorProto], weight: Array, rounded: Array) -> None:
    """A float64 copy of a weight (the first convolution's, for its group norm) takes the rounded values too."""
    for name, tensor in kept.items():
        if tensor.data_type == TensorProto.DOUBLE and np.prod(tensor.dims) == weight.size:
            copy = numpy_helper.to_array(tensor)
            if np.array_equal(copy.ravel(), weight.ravel()):
                values = rounded.astype(np.float64).reshape(copy.shape)
                kept[name] = numpy_helper.from_array(values, name)


# ---------------------------------------------------------------- graphs


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """{name: value} of a node's attributes."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def replace(graph: onnx.GraphProto, nodes: Iterator[onnx.NodeProto] | list[onnx.NodeProto], tensors: Any) -> None:
    """Give the graph these nodes, and those of these initializers that they use. What was inferred is forgotten."""
    nodes = list(nodes)
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in tensors if tensor.name in used]
    del graph.initializer[:], graph.node[:], graph.value_info[:]
    graph.initializer.extend(tensors)
    graph.node.extend(nodes)


# ---------------------------------------------------------------- what a graph holds


def counts(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """What a graph holds: {"nodes": 8-bit weights by kind, "integer": products in integers by kind, "bytes": weights'
    bytes by "kind dtype"}.

    Kinds: convolution, positional convolution, linear, head, other (biases, norms, tables).
    """
    nodes: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    kinds = {node.input[1]: kind for node, kind in _products(model.graph)}
    for tensor in model.graph.initializer:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        kind = kinds.get(tensor.name.rpartition(":")[0] or tensor.name, kinds.get(tensor.name, "other"))
        if tensor.data_type in WHOLE and kind != "other":
            nodes[kind] += 1
        sizes[f"{kind} {dtype}"] += int(np.prod(tensor.dims)) * dtype.itemsize
    integer = Counter(kind for node, kind in _products(model.graph) if node.op_type == "MatMulInteger")
    return {key: dict(sorted(each.items())) for key, each in (("nodes", nodes), ("integer", integer), ("bytes", sizes))}


def _products(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Every product by a weight, and its kind."""
    for node in graph.node:
        if node.op_type in PRODUCTS and not node.input[1].endswith(TABLES):
            yield node, _kind(node)


def _kind(node: onnx.NodeProto) -> str:
    if node.name.startswith("head/"):
        return "head"
    if node.op_type == "Conv":
        return "positional convolution" if attributes(node).get("group", 1) > 1 else "convolution"
    return "convolution" if "Conv_" in node.name else "linear"


def check(model: onnx.ModelProto, profile: str) -> dict[str, dict[str, int]]:
    """The counts of a finished graph; EmbedkitError where a profile that promises int8 left a large weight in float."""
    found = counts(model)
    left = 0 if profile == "float" else len(weights(model.graph))
    held = sum(found["nodes"].values())
    if profile != "float" and (left or not held):
        raise EmbedkitError(
            f"profile '{profile}' holds {held} 8-bit weights and {left} large ones in"
            " float32, expected all in 8 bits: the export is broken, please report it"
        )
    if profile == "speed" and not found["integer"]:
        raise EmbedkitError(
            "profile 'speed' holds no product in integers, expected one a layer: the export is broken, please report it"
        )
    return found
