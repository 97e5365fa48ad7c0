"""speed: the products with weights in 8-bit integers; activations are rounded to 8 bits as they come (dynamic).

Convolutions become products too: their windows side by side, [batch, frame, kernel * channel], times one matrix.
onnxruntime's own integer convolution takes five times as long. Frames then come before channels ("turned") from one
convolution to the next, and are turned back only for what asks for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from embedkit.export.quantize import Array, attributes, copied, quantized, replace, weights

NARROWEST = 32  # input channels: the first convolution of the waveform has one, too short a window to gain anything
TURN = [0, 2, 1]  # [batch, channel, frame] <-> [batch, frame, channel]
END = 2**62


def integer_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its linear layers and its wide, ungrouped convolutions in integers; the rest as it is."""
    result = copied(model)
    rewriting = Rewriting(result.graph)
    for node in result.graph.node:
        rewriting.take(node)
    for value in result.graph.output:
        rewriting.turn_back(value.name)
    replace(result.graph, rewriting.nodes, rewriting.tensors.values())
    return result


class Rewriting:
    """Takes a graph's nodes in their order and gives new ones."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.large = weights(graph)
        self.outputs = {value.name for value in graph.output}
        self.nodes: list[onnx.NodeProto] = []
        self.turned: dict[str, str] = {}  # tensor: the same one with frames before channels
        self.there: set[str] = set()  # of these, those that are also there as they were
        self.rounded: dict[str, tuple[str, str, str]] = {}  # tensor: its 8 bits, scale, zero point
        self.names: dict[str, str] = {}  # tensor: another one that holds the same

    def take(self, node: onnx.NodeProto) -> None:
        node.input[:] = [self.names.get(name, name) for name in node.input]
        wide = len(node.input) > 1 and node.input[1] in self.large and not node.name.startswith("head/")
        if wide and node.op_type == "MatMul":
            self.linear(node)
        elif wide and node.op_type == "Conv" and self._fits(node):
            self.convolution(node)
        elif node.op_type == "Gelu" and node.input[0] in self.turned:
            self.turned[node.output[0]] = self.add(
                "Gelu", [self.turned[node.input[0]]], node.name, node.output[0] + ":turned", **attributes(node)
            )
        elif self._only_turns(node):
            self.names[node.output[0]] = self.turned[node.input[0]]
        else:
            for name in node.input:
                self.turn_back(name)
            self.nodes.append(node)

    def _only_turns(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Transpose" or attributes(node)["perm"] != TURN:
            return False
        return node.input[0] in self.turned and node.output[0] not in self.outputs

    def _fits(self, node: onnx.NodeProto) -> bool:
        _, channels, *kernel = self.tensors[node.input[1]].dims
        said = attributes(node)
        plain = said.get("group", 1) == 1 and set(said.get("dilations", [1])) == {1}
        return len(kernel) == 1 and channels >= NARROWEST and plain

    def linear(self, node: onnx.NodeProto) -> None:
        source, scale, zero = self._round(node.input[0])
        self.product(node, (source, scale, zero), numpy_helper.to_array(self.tensors[node.input[1]]), node.output[0])

    def convolution(self, node: onnx.NodeProto) -> None:
        weight = numpy_helper.to_array(self.tensors[node.input[1]])  # [output, input, kernel]
        outputs, inputs, kernel = weight.shape
        matrix = weight.transpose(2, 1, 0).reshape(kernel * inputs, outputs)
        said, turned = attributes(node), node.output[0] + ":turned"
        frames, scale, zero = self._round(self._turn(node.input[0]))
        if any(pads := said.get("pads", [0, 0])):
            around = self.constant([0, pads[0], 0, 0, pads[1], 0])
            frames = self.add("Pad", [frames, around, zero], node.name + ":pad")
        windows = self._windows(frames, node.name, kernel, said.get("strides", [1])[0])
        bias = node.input[2] if len(node.input) > 2 else ""
        self.product(node, (windows, scale, zero), matrix, turned + ":plain" if bias else turned)
        if bias:
            self.add("Add", [turned + ":plain", bias], node.name + ":bias", turned)
        self.turned[node.output[0]] = turned

    def _windows(self, frames: str, name: str, kernel: int, stride: int) -> str:
        """[batch, frame, channel] -> [batch, window, kernel * channel]."""
        parts = [
            self.add(
                "Slice",
                [frames, *(self.constant([n]) for n in (i, END if i == kernel - 1 else i + 1 - kernel, 1, stride))],
                f"{name}:part{i}",
            )
            for i in range(kernel)
        ]
        return self.add("Concat", parts, f"{name}:windows", axis=2)

    def product(self, node: onnx.NodeProto, source: tuple[str, str, str], matrix: Array, output: str) -> None:
        """source (8 bits, scale, zero point) times a matrix [input, output] that is rounded to 8 bits, as floats."""
        whole, scale = quantized(np.ascontiguousarray(matrix), 1)
        weight = node.input[1]
        for suffix, array in ((":int8", whole), (":scale", scale)):
            self.tensors[weight + suffix] = numpy_helper.from_array(array, weight + suffix)
        integers = self.add("MatMulInteger", [source[0], weight + ":int8", source[2]], node.name)
        floats = self.add("Cast", [integers], f"{node.name}:float", to=onnx.TensorProto.FLOAT)
        scales = self.add("Mul", [source[1], weight + ":scale"], f"{node.name}:scales")
        self.add("Mul", [floats, scales], f"{node.name}:scaled", output)

    def _round(self, name: str) -> tuple[str, str, str]:
        if name not in self.rounded:
            self.turn_back(name)
            self.rounded[name] = (f"{name}:8bit", f"{name}:scale", f"{name}:zero")
            self.nodes.append(
                helper.make_node("DynamicQuantizeLinear", [name], list(self.rounded[name]), f"Round:{name}")
            )
        return self.rounded[name]

    def _turn(self, name: str) -> str:
        if name not in self.turned:
            self.turned[name] = self.add("Transpose", [name], f"Turn:{name}", name + ":turned", perm=TURN)
            self.there.add(name)
        return self.turned[name]

    def turn_back(self, name: str) -> None:
        if name in self.turned and name not in self.there:
            self.there.add(name)
            self.add("Transpose", [self.turned[name]], f"Back:{name}", name, perm=TURN)

    def add(self, kind: str, inputs: list[str], name: str, output: str = "", **said: Any) -> str:
        """Append a node; returns the name of its output."""
        output = output or f"{name}:out"
        self.nodes.append(helper.make_node(kind, inputs, [output], name, **said))
        return output

    def constant(self, values: list[int]) -> str:
        name = "constant:" + ",".join(map(str, values))
        self.tensors[name] = numpy_helper.from_array(np.array(values, np.int64), name)
        return name
