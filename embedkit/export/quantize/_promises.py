"""Counts the weights of a graph, and checks that they are what its profile promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper

from embedkit.errors import EmbedkitError
from embedkit.export.quantize._graph import PRODUCTS, TABLES, find_large_weights, read_attributes


def count_weights(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """How a graph is quantized: {"nodes": weights of 8 or 4 bits by kind, "four_bit": those of 4 bits by kind,
    "integer": products in integers by kind, "bytes": the bytes of weights by "kind dtype"}.

    Kinds: convolution, positional convolution, linear, head, table, other (biases, norms, scales).
    """
    counts: dict[str, Counter[str]] = {key: Counter() for key in ("nodes", "four_bit", "integer", "bytes")}
    kinds = _classify_weights(model.graph)
    for tensor in model.graph.initializer:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        kind = kinds.get(tensor.name.rpartition(":")[0] or tensor.name, kinds.get(tensor.name, "other"))
        four = tensor.data_type == TensorProto.INT4
        if kind != "other" and (four or tensor.data_type == TensorProto.INT8):
            counts["nodes"][kind] += 1
            counts["four_bit"][kind] += four
        counts["bytes"][f"{kind} {dtype}"] += len(tensor.raw_data)
    counts["integer"].update(kind for node, kind in _find_products(model.graph) if node.op_type == "MatMulInteger")
    return {key: dict(sorted((+each).items())) for key, each in counts.items()}


def _classify_weights(graph: onnx.GraphProto) -> dict[str, str]:
    """{weight: its kind}; the kind is that of the node that uses the weight."""
    used = {node.input[1]: kind for node, kind in _find_products(graph)}
    back = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return dict.fromkeys(back, "table") | used


def _find_products(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Every product by a weight, and its kind."""
    for node in graph.node:
        if node.op_type in PRODUCTS and not node.input[1].endswith(TABLES):
            yield node, _classify_product(node)


def _classify_product(node: onnx.NodeProto) -> str:
    if node.name.startswith("head/"):
        return "head"
    if read_attributes(node).get("group", 1) > 1 or ":group" in node.name:
        return "positional convolution"
    return "convolution" if node.op_type == "Conv" or "Conv_" in node.name else "linear"


PROMISES = {"speed": ("integer", "product in integers"), "small": ("four_bit", "weight in 4 bits")}


def check_profile(model: onnx.ModelProto, profile: str) -> dict[str, dict[str, int]]:
    """The counts of a finished graph, as `count_weights` gives them.

    Raises EmbedkitError where the graph is not what the profile promises: no profile but `float` leaves a large weight
    in float32, and see PROMISES.
    """
    counts = count_weights(model)
    if profile == "float":
        return counts
    unquantized, quantized_weights = len(find_large_weights(model.graph)), sum(counts["nodes"].values())
    if unquantized or not quantized_weights:
        raise EmbedkitError(
            f"profile '{profile}' holds {quantized_weights} 8-bit weights and {unquantized} large ones in"
            " float32, expected all in 8 bits or less: the export is broken, please report it"
        )
    key, what = PROMISES.get(profile, ("nodes", ""))
    if not counts[key]:
        raise EmbedkitError(f"profile '{profile}' holds no {what}: the export is broken, please report it")
    return counts
