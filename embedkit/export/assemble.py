"""ONNX files: torch modules to graphs, encoder and head into one, metadata with a digest of the whole file."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import TensorProto, compose, helper, numpy_helper, shape_inference
from torch import nn

from embedkit.encoders.exported import PREPARED_TENSORS, find_upstream_nodes, read_model_metadata
from embedkit.errors import ModelError
from embedkit.runtime.model import BLANK, read_verified, sign

if TYPE_CHECKING:
    from embedkit.export.graph import EncoderBody


OPSET, IR = 21, 10
OUTPUTS = ("probabilities", "logits", "embedding")
# Of all names but OUTPUTS and PREPARED_TENSORS: the exporter names a table's lookup "embedding" too.
PREFIX = "body/"

CLIP_OUTPUT = "clip_embedding"


class BodyWithSound(nn.Module):
    """A body that gives the prepared sound and its lengths as outputs too, so that these have names in the graph."""

    def __init__(self, body: EncoderBody):
        super().__init__()
        self.body = body

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `EncoderBody.embed_clips`."""
        return self.body.embed_clips(signal, lengths)


def export_body(body: EncoderBody) -> onnx.ModelProto:
    """signal [batch, samples], lengths [batch] -> embedding [batch, dim], by torch's own exporter."""
    example = (torch.linspace(-0.5, 0.5, 2 * 20_000).reshape(2, 20_000).sin(), torch.tensor([20_000, 16_000]))
    with torch.no_grad(), _silence_exporter():
        program = torch.onnx.export(
            BodyWithSound(body).eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: "batch", 1: "samples"}, {0: "batch"}),
            input_names=["signal", "lengths"],
            output_names=[CLIP_OUTPUT, *PREPARED_TENSORS],
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    del model.graph.output[1:]
    model = compose.add_prefix(clean_graph(model), PREFIX)
    _rename_tensors(
        model.graph,
        {
            PREFIX + CLIP_OUTPUT: "embedding",
            **{PREFIX + name: name for name in ("signal", "lengths", *PREPARED_TENSORS)},
        },
    )
    return reinfer_shapes(model)


@contextlib.contextmanager
def _silence_exporter() -> Iterator[None]:
    """Without the exporter's reports of its progress and its deprecations; what matters is checked afterwards."""
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


def clean_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's comments, which hold paths of this machine, and give nodes short names. In place."""
    del model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    graph = model.graph
    for thing in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        thing.doc_string = ""
        del thing.metadata_props[:]
    del graph.metadata_props[:]
    for i, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{i}"
    return reinfer_shapes(model)


def reinfer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its types and shapes inferred anew: outdated ones make quantizers skip nodes silently."""
    del model.graph.value_info[:]
    return shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def merge_graphs(body: onnx.ModelProto, head: onnx.ModelProto, columns: Sequence[int], classes: int) -> onnx.ModelProto:
    """One graph: signal, lengths -> probabilities, logits [batch, classes], embedding [batch, dim].

    body: as `export_body` gives it; head takes "embedding" and gives "logits" and "probabilities" (`heads.to_onnx`).
    columns: the class of each of the head's columns; a class that is not among them gets probability 0 and logit
    -10,000.
    """
    body, head = _copy_graph(body), _copy_graph(head)
    if list(columns) != list(range(classes)):
        _place_columns(head, columns, classes)
    for model in (body, head):
        model.ir_version = IR
        del model.graph.value_info[:]
        _merge_opsets(model)
    head = compose.add_prefix(head, "head/")
    whole = compose.merge_models(
        body,
        head,
        io_map=[("embedding", "head/embedding")],
        outputs=["head/probabilities", "head/logits", "embedding"],
    )
    _rename_tensors(whole.graph, {f"head/{name}": name for name in ("probabilities", "logits")})
    whole.graph.output.sort(key=lambda value: OUTPUTS.index(value.name))
    whole.graph.name = "embedkit"
    whole.producer_name, whole.producer_version = "embedkit", ""
    _merge_opsets(whole)
    whole = reinfer_shapes(whole)
    onnx.checker.check_model(whole, full_check=True)
    return whole


def read_metadata(path: Path) -> dict[str, str]:
    """What an exported file says of itself, without the `embedkit.` of its keys. Raises ModelError."""
    return read_model_metadata(onnx.load_from_string(read_verified(path)))


def extract_body(path: Path, layers: Sequence[int], stats: Sequence[str]) -> onnx.ModelProto:
    """An exported file without its head, as `export_body` gives it, with some of its layers and statistics.

    layers: by their index in the file. Raises ModelError where the file is damaged, or does not have the statistics.
    """
    model = onnx.load_from_string(read_verified(path))
    entries, graph = read_model_metadata(model), model.graph
    nodes = find_upstream_nodes({"embedding"}, graph.node)
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    file_stats, dim = json.loads(entries["stats"]), int(entries["dim"])
    if missing := set(stats) - set(file_stats):
        raise ModelError(f"{path}: its features hold no {', '.join(missing)}; run the study with stats = {file_stats}")
    columns = np.arange(len(json.loads(entries["layers"])) * len(file_stats) * dim).reshape(-1, len(file_stats), dim)
    chosen = columns[list(layers)][:, [file_stats.index(name) for name in stats]].reshape(-1)
    output, last = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", len(chosen)]), "embedding"
    if len(chosen) < columns.size:
        last = "embedding:all"
        tensors.append(numpy_helper.from_array(chosen, "embedding:chosen"))
        nodes.append(helper.make_node("Gather", [last, "embedding:chosen"], ["embedding"], "Choose", axis=1))
        for node in nodes[:-1]:
            node.output[:] = [last if name == "embedding" else name for name in node.output]
    body_graph = helper.make_graph(nodes, graph.name, graph.input, [output], tensors)
    body: onnx.ModelProto = helper.make_model(body_graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return body


def _place_columns(head: onnx.ModelProto, columns: Sequence[int], classes: int) -> None:
    """Give the outputs a column for every class, by a product with ones and zeros. In place."""
    place = np.eye(classes, dtype=np.float32)[list(columns)]
    absent = np.where(place.any(0), 0, -1e4).astype(np.float32)
    constants = {"place": place, "absent": absent, "zero": np.zeros(classes, np.float32)}
    graph = head.graph
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    _rename_tensors(graph, {value.name: f"own_{value.name}" for value in graph.output})
    for name, bias in (("logits", "absent"), ("probabilities", "zero")):
        graph.node.append(helper.make_node("Gemm", [f"own_{name}", "place", bias], [name], f"place_{name}"))
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", classes])
        for name in ("logits", "probabilities")
    )


def _copy_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _merge_opsets(model: onnx.ModelProto) -> None:
    """List each opset that a node uses once, with its highest version (skl2onnx lists the default one twice)."""
    used = {node.domain for node in model.graph.node} | {""}
    highest: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if domain in used:
            highest[domain] = max(entry.version, highest.get(domain, 0))
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in sorted(highest.items()))


def _rename_tensors(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)


def serialize_model(model: onnx.ModelProto, metadata: Mapping[str, str]) -> bytes:
    """The file's bytes with its metadata, and among that the digest of all the rest (`embedkit.runtime.model.sign`)."""
    model = _copy_graph(model)
    del model.metadata_props[:]
    helper.set_model_props(model, {**metadata, "embedkit.sha256": BLANK})
    return sign(model.SerializeToString(deterministic=True))
