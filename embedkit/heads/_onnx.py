"""Heads as ONNX graphs: input "embedding" [batch, dim], outputs "logits" and "probabilities" [batch, class]."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from embedkit.heads._base import Array

if TYPE_CHECKING:
    import onnx
    from sklearn.base import BaseEstimator


OPSET, IR = 21, 10  # of every exported file


def make_dense_onnx(
    layers: list[tuple[Array, Array]], activation: str, mean: Array, scale: Array, temperature: float
) -> onnx.ModelProto:
    """Layers of (weight [in, out], bias [out]) with one activation ("Relu" or "Gelu") between them, then a softmax.

    The features' mean and scale [dim] are worked into the first layer, the temperature into the last.
    """
    from onnx import helper, numpy_helper

    weight, bias = layers[-1]
    layers = [*layers[:-1], (weight / temperature, bias / temperature)]
    weight, bias = layers[0]
    layers[0] = weight / scale[:, None], bias - (mean / scale) @ weight
    nodes, tensors, flow = [], [], "embedding"
    for i, (weight, bias) in enumerate(layers):
        tensors += [numpy_helper.from_array(weight.astype(np.float32), f"weight{i}")]
        tensors += [numpy_helper.from_array(bias.astype(np.float32), f"bias{i}")]
        last = i == len(layers) - 1
        out = "logits" if last else f"linear{i}"
        nodes.append(helper.make_node("Gemm", [flow, f"weight{i}", f"bias{i}"], [out], name=f"gemm{i}"))
        if not last:
            flow = f"active{i}"
            nodes.append(helper.make_node(activation, [out], [flow], name=f"activation{i}"))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=1))
    return _make_model(nodes, tensors, len(mean), len(bias))


def convert_with_skl2onnx(estimator: BaseEstimator, dim: int, classes: int, temperature: float) -> onnx.ModelProto:
    """Any fitted estimator that skl2onnx can convert. Logits are log p / T of its probabilities p."""
    from onnx import helper, numpy_helper
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it reads attributes of SVC that scikit-learn will rename
        graph = convert_sklearn(
            estimator,
            initial_types=[("embedding", FloatTensorType([None, dim]))],
            target_opset={"": OPSET, "ai.onnx.ml": 3},
            options={id(estimator): {"zipmap": False}},
        )
    graph = select_model_inputs_outputs(graph, ["probabilities"]).graph  # without what only the label needs
    for node in graph.node:
        node.output[:] = ["source_probabilities" if name == "probabilities" else name for name in node.output]
    used = {name for node in graph.node for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    for name, value in (("smallest", np.finfo(np.float32).tiny), ("temperature", temperature)):
        tensors.append(numpy_helper.from_array(np.array(value, dtype=np.float32), name))  # log 0 is -inf
    nodes = [
        *graph.node,
        helper.make_node("Max", ["source_probabilities", "smallest"], ["positive"], name="max"),
        helper.make_node("Log", ["positive"], ["log_probabilities"], name="log"),
        helper.make_node("Div", ["log_probabilities", "temperature"], ["logits"], name="divide"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=1),
    ]
    return _make_model(nodes, tensors, dim, classes)


def _make_model(
    nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], dim: int, classes: int
) -> onnx.ModelProto:
    """A model with the input and outputs of a head, checked by onnx."""
    from onnx import TensorProto, checker, helper

    def make_value_info(name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])

    outputs = [make_value_info("logits", classes), make_value_info("probabilities", classes)]
    graph = helper.make_graph(nodes, "head", [make_value_info("embedding", dim)], outputs, tensors)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="embedkit")
    checker.check_model(model, full_check=True)
    return model
