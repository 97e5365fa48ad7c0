"""small: weights in 4 bits by blocks, rounded so that a layer's output changes least on real sound.

The weights of a block share one scale. The weights of the same output that are not rounded yet compensate for the
rounding error of a weight (GPTQ, Frantar et al. 2022, with the scales fixed before), as far as the layer's inputs on
the calibration clips allow. All arithmetic stays in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from embedkit.export.quantize._graph import (
    Array,
    Wave,
    compute_tensors,
    copy_model,
    find_large_weights,
    read_attributes,
    replace_nodes,
)

BLOCK = 128  # weights that share a scale
LOWEST, HIGHEST = -8, 7  # of 4 bits
INT4 = helper.tensor_dtype_to_np_dtype(TensorProto.INT4)
SHARES = np.linspace(1.0, 0.6, 17)  # of a block's largest weight: the scales that are tried
ROWS = 600  # of a layer's inputs, at most, from one clip: neighbouring rows are nearly the same
FRAME = 320  # samples: both families have one frame for so many. Whisper's window has more, past the clip's end
DAMPING = 0.01  # of the mean diagonal, as in the paper
WIDEST = 4096  # inputs: for more, the second moments would cost too much

Moments = npt.NDArray[np.float64]
Int8Array = npt.NDArray[np.int8]
Element = TypeVar("Element", bound=np.generic)


@dataclass(frozen=True)
class Layer:
    """A linear layer or a convolution whose weights divide into blocks along `axis`."""

    node: onnx.NodeProto
    weight: Array  # [input, output], or [output, channel, kernel]
    axis: int

    @classmethod
    def of(cls, node: onnx.NodeProto, weight: Array) -> Layer | None:
        """The layer of a node; None where no axis of its inputs divides into blocks."""
        axes = {"MatMul": [0], "Conv": [1, 2]}.get(node.op_type, [])
        axis = next((axis for axis in axes if weight.shape[axis] % BLOCK == 0), None)
        return None if axis is None else cls(node, weight, axis)

    @property
    def source(self) -> str:
        """The tensor that the layer takes."""
        return str(self.node.input[0])

    @property
    def input_key(self) -> str:
        """A name that layers with the same inputs share."""
        return f"{self.node.op_type} {self.node.input[0]} {sorted(read_attributes(self.node).items())}"

    @property
    def is_measurable(self) -> bool:
        """Whether its inputs are few enough, and the same for all outputs."""
        return len(self.as_matrix(self.weight)) <= WIDEST and read_attributes(self.node).get("group", 1) == 1

    def as_matrix(self, values: npt.NDArray[Element]) -> npt.NDArray[Element]:
        """[input, output]; of a convolution the inputs are channel * kernel."""
        return values if self.node.op_type == "MatMul" else values.reshape(len(values), -1).T

    def from_matrix(self, matrix: Int8Array) -> Int8Array:
        """The inverse of `as_matrix`: [input, output] to the shape of the weight."""
        return matrix if self.node.op_type == "MatMul" else np.ascontiguousarray(matrix.T).reshape(self.weight.shape)

    def inputs(self, value: Array, samples: int) -> Array:
        """The rows that the layer multiplies by its weight, [row, input], at most ROWS of them.

        value: the tensor `source` for one clip of so many samples.
        """
        if self.node.op_type == "MatMul":
            rows = value.reshape(-1, value.shape[-1])[: samples // FRAME + 1]
            return rows[:: max(1, len(rows) // ROWS)]
        settings = read_attributes(self.node)
        padded = np.pad(value[0], ((0, 0), tuple(settings.get("pads", (0, 0)))))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.weight.shape[2], 1)
        windows = windows[:, :: settings.get("strides", [1])[0]]  # [channel, window, kernel]
        windows = windows[:, :: max(1, windows.shape[1] // ROWS)]
        return windows.transpose(1, 0, 2).reshape(windows.shape[1], -1)


def quantize_to_4_bits(model: onnx.ModelProto, waves: Sequence[Wave]) -> onnx.ModelProto:
    """The graph with the weights of its linear layers and convolutions in 4 bits, each with a DequantizeLinear.

    The head, the first convolution and other weights that do not divide into blocks are left as they are. Without
    waves, every weight goes to its nearest step.
    """
    result = copy_model(model)
    graph = result.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    layers = _find_layers(graph, tensors)
    moments = _measure_moments(model, layers, waves)
    nodes = []
    for name, layer in layers.items():
        whole, scale = round_layer(layer, moments.get(name))
        del tensors[name]
        tensors[name + ":int4"] = numpy_helper.from_array(whole.astype(INT4), name + ":int4")
        tensors[name + ":scale"] = numpy_helper.from_array(scale, name + ":scale")
        parts = [name + ":int4", name + ":scale"]
        dequantize = helper.make_node(
            "DequantizeLinear", parts, [name], f"DQ:{name}", axis=layer.axis, block_size=BLOCK
        )
        nodes.append(dequantize)
    replace_nodes(graph, [*nodes, *graph.node], tensors.values())
    return result


def _find_layers(graph: onnx.GraphProto, tensors: dict[str, onnx.TensorProto]) -> dict[str, Layer]:
    large = find_large_weights(graph)
    layers: dict[str, Layer] = {}
    for node in graph.node:
        name = node.input[1] if len(node.input) > 1 else ""
        if name in large and not node.name.startswith("head/"):
            layer = Layer.of(node, numpy_helper.to_array(tensors[name]))
            if layer:
                layers[name] = layer
    return layers


def _measure_moments(model: onnx.ModelProto, layers: dict[str, Layer], waves: Sequence[Wave]) -> dict[str, Moments]:
    """{weight: second moments [input, input] of its layer's inputs over the clips}; layers of one input share them."""
    measured = {name: layer for name, layer in layers.items() if layer.is_measurable}
    sources = sorted({layer.source for layer in measured.values()})
    different = {layer.input_key: layer for layer in measured.values()}
    sums: dict[str, Moments] = {}
    for wave, values in zip(waves, compute_tensors(model, sources, waves), strict=bool(sources)):
        for key, layer in different.items():
            rows = layer.inputs(values[layer.source], len(wave))
            sums[key] = sums.get(key, 0) + (rows.T @ rows).astype(np.float64)
    return {name: sums[layer.input_key] for name, layer in measured.items() if sums}


def round_layer(layer: Layer, moments: Moments | None) -> tuple[Int8Array, Array]:
    """Whole numbers -8..7 of the weight's shape and the scale of each block.

    moments: of the layer's inputs; None: every weight goes to its nearest step.
    """
    scale = choose_scales(layer.weight, layer.axis)
    step = np.repeat(scale, BLOCK, layer.axis)
    if moments is None:
        return _round_to_nearest(layer.weight / step), scale
    return layer.from_matrix(round_compensating(layer.as_matrix(layer.weight), layer.as_matrix(step), moments)), scale


def _round_to_nearest(value: npt.NDArray[np.floating]) -> Int8Array:
    whole: Int8Array = np.clip(np.rint(value), LOWEST, HIGHEST).astype(np.int8)
    return whole


def choose_scales(weight: Array, axis: int) -> Array:
    """The scale of each block, among those that are tried, with the least squared error; it may clip large weights."""
    shape, inner = list(weight.shape), axis + 1
    blocks = weight.reshape([*shape[:axis], shape[axis] // BLOCK, BLOCK, *shape[inner:]])
    full = np.maximum(blocks.max(inner) / HIGHEST, blocks.min(inner) / LOWEST)
    full[full <= 0] = 1.0
    best, least = full, np.full(full.shape, np.inf)
    for share in SHARES:
        step = np.expand_dims(full * share, inner)
        error = ((_round_to_nearest(blocks / step) * step - blocks) ** 2).sum(inner)
        best, least = np.where(error < least, full * share, best), np.minimum(error, least)
    result: Array = best.astype(np.float32)
    return result


def round_compensating(weight: Array, step: Array, moments: Moments) -> Int8Array:
    """Whole numbers [input, output], rounded one input after the other; its error is spread over those left (GPTQ)."""
    left, upper = weight.astype(np.float64), _factorize_inverse(moments)
    whole = np.empty(weight.shape, np.int8)
    for begin in range(0, len(left), BLOCK):
        end = min(begin + BLOCK, len(left))
        errors = np.empty((end - begin, weight.shape[1]))
        for i in range(begin, end):
            whole[i] = _round_to_nearest(left[i] / step[i])
            errors[i - begin] = (left[i] - whole[i] * step[i].astype(np.float64)) / upper[i, i]
            left[i + 1 : end] -= np.outer(upper[i, i + 1 : end], errors[i - begin])
        left[end:] -= upper[begin:end, end:].T @ errors
    return whole


def _factorize_inverse(moments: Moments) -> Moments:
    """Upper Cholesky factor of the inverse of the damped moments."""
    size = len(moments)
    damped = moments + np.eye(size) * (DAMPING * np.trace(moments) / size + 1e-12)
    return np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(damped)).T)
