"""Profiles: the same graph, smaller or faster. Each is one function from a float graph to its final one.

`float` is the reference. `size` keeps all arithmetic in float32 and stores every large weight in 8 bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from embedkit.errors import EmbedkitError

SMALLEST = 1024  # elements: smaller weights together weigh less than their error is worth
TABLES = ("fourier", "filters")  # the log-mel's own constants are a formula, not weights: they stay exact

Array = npt.NDArray[np.float32]


def as_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """float: nothing is changed."""
    return model


def as_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """size: int8 weights, symmetric, one scale an output channel, each with a DequantizeLinear before its use."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    kept = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for name, axis in sorted(_weights(graph).items()):
        weight = numpy_helper.to_array(kept.pop(name))
        whole, scale = quantized(weight, axis)
        for suffix, array in ((":int8", whole), (":scale", scale)):
            kept[name + suffix] = numpy_helper.from_array(array, name + suffix)
        back = helper.make_node("DequantizeLinear", [name + ":int8", name + ":scale"], [name], f"DQ:{name}", axis=axis)
        nodes.append(back)
        _follow(kept, weight, whole * _spread(scale, whole.ndim, axis))
    nodes.extend(graph.node)
    del graph.initializer[:], graph.node[:], graph.value_info[:]
    graph.initializer.extend(kept.values())
    graph.node.extend(nodes)
    return result


def quantized(weight: Array, axis: int) -> tuple[npt.NDArray[np.int8], Array]:
    """int8 of the same shape in -127..127 and one float32 scale for each index of `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = (np.abs(weight).max(axis=others) / 127).astype(np.float32)
    scale[scale == 0] = 1.0
    whole = np.rint(weight / _spread(scale, weight.ndim, axis))
    return np.clip(whole, -127, 127).astype(np.int8), scale


def _spread(scale: Array, ndim: int, axis: int) -> Array:
    return scale.reshape([-1 if i == axis else 1 for i in range(ndim)])


def _weights(graph: onnx.GraphProto) -> dict[str, int]:
    """{initializer: its axis of output channels} of every large weight that a Conv, MatMul or Gemm multiplies by."""
    large = {
        t.name
        for t in graph.initializer
        if t.data_type == TensorProto.FLOAT and np.prod(t.dims) >= SMALLEST and not t.name.endswith(TABLES)
    }
    found = {}
    for node in graph.node:
        if len(node.input) > 1 and node.input[1] in large and node.op_type in ("Conv", "MatMul", "Gemm"):
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            found[node.input[1]] = 0 if node.op_type == "Conv" or transposed else 1
    return found


def _follow(kept: dict[str, TensorProto], weight: Array, rounded: Array) -> None:
    """A float64 copy of a weight (the first convolution's, for its group norm) takes the rounded values too."""
    for name, tensor in kept.items():
        if tensor.data_type == TensorProto.DOUBLE and np.prod(tensor.dims) == weight.size:
            copy = numpy_helper.to_array(tensor)
            if np.array_equal(copy.ravel(), weight.ravel()):
                values = rounded.astype(np.float64).reshape(copy.shape)
                kept[name] = numpy_helper.from_array(values, name)


PROFILES: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {"float": as_float, "size": as_size}


def counts(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """What a graph holds: {"nodes": quantized nodes by kind, "bytes": weights' bytes by "kind dtype"}.

    Kinds: convolution, positional convolution, linear, head, other (biases, norms, tables).
    """
    nodes: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    kinds = _kinds(model.graph)
    for tensor in model.graph.initializer:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        kind = kinds.get(tensor.name.rpartition(":")[0] or tensor.name, "other")
        if dtype == np.int8 and kind != "other":
            nodes[kind] += 1
        sizes[f"{kind} {dtype}"] += int(np.prod(tensor.dims)) * dtype.itemsize
    return {"nodes": dict(sorted(nodes.items())), "bytes": dict(sorted(sizes.items()))}


def _kinds(graph: onnx.GraphProto) -> dict[str, str]:
    """{weight: its kind}, by the node that multiplies by it."""
    return {node.input[1]: kind for node, kind in _products(graph)}


def _products(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm") or node.input[1].endswith(TABLES):
            continue
        grouped = any(a.name == "group" and a.i > 1 for a in node.attribute)
        kind = ("positional convolution" if grouped else "convolution") if node.op_type == "Conv" else "linear"
        yield node, "head" if node.name.startswith("head/") else kind


def check(model: onnx.ModelProto, profile: str) -> dict[str, dict[str, int]]:
    """The counts of a finished graph; EmbedkitError where a profile that promises int8 left a large weight in float."""
    found = counts(model)
    if profile != "float":
        left = _weights(model.graph)
        if left or not found["nodes"]:
            raise EmbedkitError(
                f"profile '{profile}' holds {sum(found['nodes'].values())} 8-bit weights and {len(left)} large ones in"
                " float32, expected all in 8 bits: the export is broken, please report it"
            )
    return found
