"""ONNX files: torch modules to graphs, encoder and head into one, metadata with a digest of the whole file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import compose, shape_inference
from torch import nn

from embedkit.runtime.model import BLANK, sign

OPSET, IR = 21, 10
OUTPUTS = ("probabilities", "logits", "embedding")
EMBEDDING = "clip_embedding"  # of a body alone: "embedding" is what the exporter calls a table's lookup


def exported(module: nn.Module) -> onnx.ModelProto:
    """signal [batch, samples], lengths [batch] -> clip_embedding [batch, dim], by torch's own exporter."""
    example = (torch.linspace(-0.5, 0.5, 2 * 20_000).reshape(2, 20_000).sin(), torch.tensor([20_000, 16_000]))
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: "batch", 1: "samples"}, {0: "batch"}),
            input_names=["signal", "lengths"],
            output_names=[EMBEDDING],
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    return clean(program.model_proto)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress and its own deprecations; what matters is checked afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [log.level for log in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for log in loggers:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for log, level in zip(loggers, levels, strict=True):
                log.setLevel(level)


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's remarks (they hold this machine's paths) and with short names. In place."""
    del model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    graph = model.graph
    for thing in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        thing.doc_string = ""
        del thing.metadata_props[:]
    del graph.metadata_props[:]
    for i, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{i}"
    return inferred(model)


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its types and shapes worked out anew. Stale ones make quantizers skip nodes in silence."""
    del model.graph.value_info[:]
    return shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def merged(body: onnx.ModelProto, head: onnx.ModelProto, columns: Sequence[int], classes: int) -> onnx.ModelProto:
    """One graph: signal, lengths -> probabilities, logits [batch, classes], embedding [batch, dim].

    body is as `exported` gives it; head takes "embedding" and gives "logits" and "probabilities" (`heads.to_onnx`).
    columns: the class of each of the head's columns; a class that it has not gets probability 0 and logit -10,000.
    """
    body, head = _copy(body), _copy(head)
    if list(columns) != list(range(classes)):
        _place_columns(head, columns, classes)
    for model in (body, head):
        model.ir_version = IR
        del model.graph.value_info[:]
        _one_opset_each(model)
    body = compose.add_prefix(body, "body/")
    head = compose.add_prefix(head, "head/")
    whole = compose.merge_models(
        body,
        head,
        io_map=[(f"body/{EMBEDDING}", "head/embedding")],
        outputs=["head/probabilities", "head/logits", f"body/{EMBEDDING}"],
    )
    names = {value.name: value.name.partition("/")[2] for value in (*whole.graph.input, *whole.graph.output)}
    _rename(whole.graph, {**names, f"body/{EMBEDDING}": "embedding"})
    whole.graph.output.sort(key=lambda value: OUTPUTS.index(value.name))
    whole.graph.name = "embedkit"
    whole.producer_name, whole.producer_version = "embedkit", ""
    _one_opset_each(whole)
    whole = inferred(whole)
    onnx.checker.check_model(whole, full_check=True)
    return whole


def _place_columns(head: onnx.ModelProto, columns: Sequence[int], classes: int) -> None:
    """Outputs with a column for every class, by a product with ones and zeros. In place."""
    place = np.eye(classes, dtype=np.float32)[list(columns)]
    absent = np.where(place.any(0), 0, -1e4).astype(np.float32)
    constants = {"place": place, "absent": absent, "zero": np.zeros(classes, np.float32)}
    graph = head.graph
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    _rename(graph, {value.name: f"own_{value.name}" for value in graph.output})
    for name, bias in (("logits", "absent"), ("probabilities", "zero")):
        graph.node.append(onnx.helper.make_node("Gemm", [f"own_{name}", "place", bias], [name], f"place_{name}"))
    del graph.output[:]
    graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", classes])
        for name in ("logits", "probabilities")
    )


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _one_opset_each(model: onnx.ModelProto) -> None:
    """skl2onnx lists the default opset twice; a domain that no node uses need not be listed."""
    used = {node.domain for node in model.graph.node} | {""}
    highest: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if domain in used:
            highest[domain] = max(entry.version, highest.get(domain, 0))
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in sorted(highest.items()))


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)


def finished(model: onnx.ModelProto, metadata: Mapping[str, str]) -> bytes:
    """The file's bytes with its metadata, among them the digest of all the rest (`embedkit.runtime.sign`)."""
    model = _copy(model)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {**metadata, "embedkit.sha256": BLANK})
    return sign(model.SerializeToString(deterministic=True))
