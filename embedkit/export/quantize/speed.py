"""speed: the products with weights in 8-bit integers; activations are rounded to 8 bits at run time (dynamically).

Convolutions become products too: their windows side by side, [batch, frame, kernel * channel], times one matrix, or one
for each group. onnxruntime's own integer convolution takes five times as long. Frames then come before channels
("turned") from one convolution to the next, and are turned back only for nodes that need channels first.

The weights' steps are such that these products are exact on every processor (`find_safe_largest`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from embedkit.encoders.exported import find_upstream_nodes
from embedkit.export.quantize._graph import (
    Array,
    copy_model,
    find_large_weights,
    quantize_weight,
    read_attributes,
    replace_nodes,
)

NARROWEST = 32  # input channels: the first convolution of the waveform has one, too few to gain anything
TURN = [0, 2, 1]  # [batch, channel, frame] <-> [batch, frame, channel]


def integer_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its linear layers and its wide convolutions in integers; the rest is unchanged."""
    result = copy_model(model)
    rewriter = IntegerGraphRewriter(result.graph)
    for node in result.graph.node:
        rewriter.take(node)
    for value in result.graph.output:
        rewriter.put_channels_first(value.name)
    used = find_upstream_nodes({value.name for value in result.graph.output}, rewriter.nodes)
    replace_nodes(result.graph, used, rewriter.tensors.values())
    return result


def find_safe_largest(matrix: Array) -> Array:
    """The weight that 127 stands for in each column of weights [input, output], so that no product overflows.

    x86 without VNNI (AVX2, and AVX-512 before it had that) multiplies activations, 0..255, by the weights of inputs 0
    and 1, of 2 and 3, and so on, and adds the two in 16 bits, which saturate: 255 * (127 + 127) would count as half of
    itself. So two such neighbours may sum to 128, hence to 127 before they are rounded. A column's step is at most
    twice what its largest weight alone would ask for, a quarter to a third larger on average. Unsigned weights overflow
    nowhere, but onnxruntime 1.31 then leaves VNNI and AMX unused, which is most of this profile's speed.
    """
    pairs = np.add.reduceat(matrix, range(0, len(matrix), 2))
    largest: Array = np.maximum(np.abs(matrix).max(0), np.abs(pairs).max(0))
    return largest


class IntegerGraphRewriter:
    """Takes the nodes of a graph in their order (`take`); `nodes` and `tensors` are then those of the new graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.large = find_large_weights(graph)
        self.outputs = {value.name for value in graph.output}
        self.producers = {name: node for node in graph.node for name in node.output}
        self.nodes: list[onnx.NodeProto] = []
        self.frames_first: dict[str, str] = {}  # by tensor: the same with frames before channels
        self.emitted: set[str] = set()  # tensors that the new graph has as the old one had them
        self.rounded: dict[str, tuple[str, str, str]] = {}  # by tensor: its 8 bits, scale and zero point
        self.names: dict[str, str] = {}  # by tensor: another one of the same values

    def take(self, node: onnx.NodeProto) -> None:
        """Rewrite the next node, or keep it."""
        node.input[:] = [self.names.get(name, name) for name in node.input]
        wide = len(node.input) > 1 and node.input[1] in self.large and not node.name.startswith("head/")
        if wide and node.op_type == "MatMul":
            self.linear(node)
        elif wide and node.op_type == "Conv" and self._suits_integers(node):
            self.rewrite_convolution(node)
        elif node.op_type == "Gelu" and node.input[0] in self.frames_first:
            self._put_frames_first(node.output[0])
        elif self._is_known_transpose(node):
            self.names[node.output[0]] = self.frames_first[node.input[0]]
        else:
            for name in node.input:
                self.put_channels_first(name)
            self.nodes.append(node)
            self.emitted.update(node.output)

    def _is_known_transpose(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Transpose" or read_attributes(node)["perm"] != TURN:
            return False
        return node.input[0] in self.frames_first and node.output[0] not in self.outputs

    def _suits_integers(self, node: onnx.NodeProto) -> bool:
        _, channels, *kernel = self.tensors[node.input[1]].dims
        settings = read_attributes(node)
        return len(kernel) == 1 and channels >= NARROWEST and set(settings.get("dilations", [1])) == {1}

    def linear(self, node: onnx.NodeProto) -> None:
        """Compute a MatMul by a weight in integers."""
        source, scale, zero = self._quantize_tensor(node.input[0])
        matrix = numpy_helper.to_array(self.tensors[node.input[1]])
        self.products(node, [source], [matrix], (scale, zero), node.output[0])

    def rewrite_convolution(self, node: onnx.NodeProto) -> None:
        """Compute a convolution in integers, as a product of its windows and a matrix for each group."""
        weight = numpy_helper.to_array(self.tensors[node.input[1]])  # [output, input of a group, kernel]
        outputs, inputs, kernel = weight.shape
        settings, turned = read_attributes(node), node.output[0] + ":turned"
        groups = settings.get("group", 1)
        matrices = np.split(weight.transpose(2, 1, 0).reshape(kernel * inputs, outputs), groups, 1)
        frames, *rounding = self._quantize_tensor(self._put_frames_first(node.input[0]))
        if any(pads := settings.get("pads", [0, 0])):
            around = self.add_constant([0, pads[0], 0, 0, pads[1], 0])
            frames = self.add("Pad", [frames, around, rounding[1]], node.name + ":pad")
        index = self._index_windows(frames, node.name, kernel, settings.get("strides", [1])[0])
        windows = []
        for channels in self._split_groups(frames, node.name, groups):
            gathered = self.add("Gather", [channels, index], f"{channels}:frames", axis=1)
            windows.append(
                self.add("Reshape", [gathered, self.add_constant([0, 0, kernel * inputs])], f"{channels}:windows")
            )
        bias = node.input[2] if len(node.input) > 2 else ""
        self.products(node, windows, matrices, rounding, turned + ":plain" if bias else turned)
        if bias:
            self.add("Add", [turned + ":plain", bias], node.name + ":bias", turned)
        self.frames_first[node.output[0]] = turned

    def _index_windows(self, frames: str, name: str, kernel: int, stride: int) -> str:
        """The frames under the kernel in each window, [window, kernel]."""
        count = self.add("Squeeze", [self.add("Shape", [frames], f"{name}:shape", start=1, end=2)], f"{name}:count")
        end = self.add("Sub", [count, self.add_constant(kernel - 1)], f"{name}:end")
        first = self.add("Range", [self.add_constant(0), end, self.add_constant(stride)], f"{name}:first")
        column = self.add("Unsqueeze", [first, self.add_constant([1])], f"{name}:column")
        return self.add("Add", [column, self.add_constant([*range(kernel)])], f"{name}:index")

    def _split_groups(self, frames: str, name: str, groups: int) -> list[str]:
        """Split [batch, frame, channel] by channels into one tensor for each group."""
        if groups == 1:
            return [frames]
        parts = [f"{name}:part{i}" for i in range(groups)]
        self.nodes.append(helper.make_node("Split", [frames], parts, f"{name}:split", axis=2, num_outputs=groups))
        return parts

    def products(
        self,
        node: onnx.NodeProto,
        sources: Sequence[str],
        matrices: Sequence[Array],
        rounding: Sequence[str],
        output: str,
    ) -> None:
        """Multiply each source by its matrix [input, output] in 8 bits; the results lie side by side, as floats.

        node: the node that is replaced. rounding: scale and zero point of the sources, which are in 8 bits already.
        """
        weight, (scale, zero) = node.input[1], rounding
        parts, scales = [], []
        for i, (source, matrix) in enumerate(zip(sources, matrices, strict=True)):
            part = f":group{i}" if len(sources) > 1 else ""
            whole, steps = quantize_weight(np.ascontiguousarray(matrix), 1, find_safe_largest(matrix))
            self.tensor(f"{weight}{part}:int8", whole)
            parts.append(self.add("MatMulInteger", [source, f"{weight}{part}:int8", zero], node.name + part))
            scales.append(steps)
        self.tensor(weight + ":scale", np.concatenate(scales))
        integers = self.add("Concat", parts, f"{node.name}:together", axis=2) if len(parts) > 1 else parts[0]
        floats = self.add("Cast", [integers], f"{node.name}:float", to=onnx.TensorProto.FLOAT)
        steps_of_both = self.add("Mul", [scale, weight + ":scale"], f"{node.name}:scales")
        self.add("Mul", [floats, steps_of_both], f"{node.name}:scaled", output)

    def _quantize_tensor(self, name: str) -> tuple[str, str, str]:
        """The names of a tensor's 8 bits, scale and zero point; it is rounded once, for all that use it."""
        if name not in self.rounded:
            self.put_channels_first(name)
            self.rounded[name] = (f"{name}:8bit", f"{name}:scale", f"{name}:zero")
            self.nodes.append(
                helper.make_node("DynamicQuantizeLinear", [name], list(self.rounded[name]), f"Round:{name}")
            )
        return self.rounded[name]

    def _put_frames_first(self, name: str) -> str:
        """The name of a tensor with frames before channels; the node that makes it is turned where that is cheaper."""
        if name in self.frames_first:
            return self.frames_first[name]
        node, turned = self.producers.get(name), name + ":turned"
        if node and node.op_type == "Gelu":
            self.add(
                "Gelu", [self._put_frames_first(node.input[0])], node.name + ":turned", turned, **read_attributes(node)
            )
        elif node and node.op_type == "MatMul" and not set(node.input) & set(self.tensors):
            left, right = node.input
            self.add(
                "MatMul", [self._put_frames_first(right), self._put_frames_first(left)], node.name + ":turned", turned
            )
        else:
            self.add("Transpose", [name], f"Turn:{name}", turned, perm=TURN)
            self.emitted.add(name)
        self.frames_first[name] = turned
        return turned

    def put_channels_first(self, name: str) -> None:
        """Make sure that the new graph has a tensor with channels before frames, as the old one had it."""
        if name in self.frames_first and name not in self.emitted:
            self.emitted.add(name)
            self.add("Transpose", [self.frames_first[name]], f"Back:{name}", name, perm=TURN)

    def add(self, kind: str, inputs: list[str], name: str, output: str = "", **settings: Any) -> str:
        """Append a node. settings: its attributes. Returns the name of its output."""
        output = output or f"{name}:out"
        self.nodes.append(helper.make_node(kind, inputs, [output], name, **settings))
        return output

    def add_constant(self, values: int | list[int]) -> str:
        """Add an int64 constant; returns its name."""
        return self.tensor(f"constant:{values}", np.array(values, np.int64))

    def tensor(self, name: str, array: npt.NDArray[np.generic]) -> str:
        """Add an initializer; returns its name."""
        self.tensors[name] = numpy_helper.from_array(array, name)
        return name
