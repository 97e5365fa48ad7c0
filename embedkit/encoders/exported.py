"""An exported file as an encoder: a file of `stitch-export` computes the features that a head is then trained on.

So a head can be fitted to the features that the file will give it, with their rounding. The file has only the layers
that its own head reads: they count from 0 here. Where it computes no standard deviation, that statistic is 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedkit.audio import RATE, Wave, padded_length
from embedkit.cards import Sound, build
from embedkit.encoders._base import STATS, Pooled, Spec, check_length
from embedkit.errors import EncoderError, ModelError

if TYPE_CHECKING:
    import onnx

MODEL_TYPES = ()  # it has no config.json
# Tensors in the file: the sound as the recipe prepares it, and its lengths, before it is cut and encoded.
PREPARED_TENSORS = ("prepared", "prepared_lengths")
SHAPE_INPUTS = {"signal", "lengths"}  # inputs of the whole file; the encoder may use their shapes, not their values
EXTRA_SAMPLES = 400  # samples (25 ms) by which the prepared sound is longer than the signal


def derive_encoder_id(path: Path) -> str:
    """`Spec.id` of an exported file: the names of its folder and of the file, as in "my-study/mlp-size"."""
    path = path.resolve()
    return f"{path.parent.name}/{path.stem}"


def resolve(path: Path) -> Spec:
    """What the file says of its encoder. The digest is of the encoder alone: with another head it is the same encoder.

    Raises EncoderError where the file is damaged, not ours, or of a version that did not say which layers it has.
    """
    meta, encoder = _read_model(path)
    try:
        layers, dim = len(json.loads(meta["layers"])), int(meta["dim"])
        parameters = int(meta["parameters"])
    except (KeyError, ValueError):
        raise EncoderError(f"{path}: it does not say which layers it holds; export it again") from None
    return Spec(
        id=derive_encoder_id(path),
        folder=path.resolve(),
        revision="",
        weights_digest=hashlib.sha256(encoder.SerializeToString(deterministic=True)).hexdigest(),
        random=meta.get("weights") == "random",
        family="exported",
        layers=layers,
        dim=dim,
        parameters=parameters,
    )


def load(spec: Spec, *_: object) -> ExportedEncoder:
    """The encoder, ready to pool. Precision and cropping are those of the file, the device is the CPU."""
    return ExportedEncoder(spec)


class ExportedEncoder:
    """onnxruntime on the file's encoder, on one thread."""

    unexpected: tuple[str, ...] = ()

    def __init__(self, spec: Spec) -> None:
        import onnxruntime

        from embedkit.runtime.model import make_session_options

        meta, encoder = _read_model(spec.folder)
        self._name, self._shape = spec.id, (spec.layers, -1, spec.dim)
        self._stats = [STATS.index(name) for name in json.loads(meta["stats"])]
        sound = build(Sound, json.loads(meta["recipe"])["sound"], where=str(spec.folder))
        self._limit, self._pad_to = round(sound.max_seconds * RATE), padded_length(sound)
        self._session = onnxruntime.InferenceSession(
            encoder.SerializeToString(), make_session_options(1), providers=["CPUExecutionProvider"]
        )
        self._inputs = [value.name for value in self._session.get_inputs()]

    def pool(self, wave: Wave, *, pad_to: int = 0) -> Pooled:
        """One clip's features [layer, 2, dim]; a standard deviation that the file does not compute is 0.

        Raises ClipError for a clip below 25 ms, and EncoderError where the recipe cuts or pads in another way than the
        file.
        """
        check_length(wave, EXTRA_SAMPLES)
        if pad_to != self._pad_to or (self._limit and len(wave) > self._limit):
            raise EncoderError(
                f"{self._name}: it cuts at {self._limit} samples and pads to {self._pad_to}, the recipe gives it"
                f" {len(wave)} and pads to {pad_to}; use the recipe that it was exported with"
            )
        count = np.array(len(wave))
        feeds = {
            "signal": wave,
            "lengths": count,
            PREPARED_TENSORS[0]: np.pad(wave, (0, EXTRA_SAMPLES)),
            PREPARED_TENSORS[1]: count,
        }
        out = self._session.run(None, {name: feeds[name][None] for name in self._inputs})[0]
        features = np.zeros((self._shape[0], len(STATS), self._shape[2]), np.float32)
        features[:, self._stats] = out.reshape(self._shape)
        return features

    def pool_many(self, waves: Sequence[Wave], *, pad_to: int = 0) -> list[Pooled]:
        """`pool` of each clip, one by one."""
        return [self.pool(wave, pad_to=pad_to) for wave in waves]


def _read_model(path: Path) -> tuple[dict[str, str], onnx.ModelProto]:
    """A file's metadata, and its encoder alone. Raises EncoderError where the file is damaged or not ours."""
    import onnx

    from embedkit.runtime.model import read_verified

    try:
        model = onnx.load_from_string(read_verified(path))
    except ModelError as error:
        raise EncoderError(str(error)) from None
    return read_model_metadata(model), extract_encoder(model, str(path))


def read_model_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata of an exported file, by keys without their `embedkit.`."""
    return {entry.key.removeprefix("embedkit."): entry.value for entry in model.metadata_props}


def extract_encoder(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The encoder of a whole file: prepared [batch, samples + 400], prepared_lengths [batch] -> embedding [batch, dim].

    The graph may have the inputs signal and lengths too, but uses only their shapes.

    Raises EncoderError where the graph has no such tensors, or uses more of the inputs.
    """
    from onnx import TensorProto, helper

    nodes = find_upstream_nodes({"embedding"}, model.graph.node, stop=PREPARED_TENSORS)
    needed = {name for node in nodes for name in node.input}
    by_value = any(SHAPE_INPUTS & set(node.input) and node.op_type != "Shape" for node in nodes)
    if not needed >= set(PREPARED_TENSORS) or by_value:
        raise EncoderError(f"{where}: its sound and its encoder cannot be told apart; export it again")
    kinds = {
        "signal": TensorProto.FLOAT,
        "lengths": TensorProto.INT64,
        PREPARED_TENSORS[0]: TensorProto.FLOAT,
        PREPARED_TENSORS[1]: TensorProto.INT64,
    }
    inputs = [
        helper.make_tensor_value_info(name, kind, ["batch", name] if kind == TensorProto.FLOAT else ["batch"])
        for name, kind in kinds.items()
        if name in needed
    ]
    dim = next(value.type.tensor_type.shape.dim[1] for value in model.graph.output if value.name == "embedding")
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dim.dim_value])]
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    graph = helper.make_graph(nodes, "encoder", inputs, outputs, tensors)
    encoder_model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    return encoder_model


def find_upstream_nodes(
    names: Collection[str], nodes: Sequence[onnx.NodeProto], stop: Sequence[str] = ()
) -> list[onnx.NodeProto]:
    """The nodes on which the named tensors depend, in their order, without those that compute the tensors in `stop`."""
    needed, upstream = set(names), []
    for node in reversed(nodes):
        if needed & set(node.output) and not set(stop) & set(node.output):
            upstream.append(node)
            needed |= {each for each in node.input if each}
    return upstream[::-1]
