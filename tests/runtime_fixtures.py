"""A small exported file: the interface of a real one, with probabilities that can be computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from embedkit.runtime.model import sign

LABELS = ["anger", "happiness", "neutral", "sadness"]
SLOPE = np.array([[20.0, 5.0, -5.0, -20.0]], np.float32)  # loud sounds angry, quiet sounds sad
OFFSET = np.array([-2.0, 0.0, 1.0, 2.0], np.float32)


def by_hand(wave: np.ndarray) -> np.ndarray:
    """What the file answers: softmax(slope * mean |x| + offset), in float64."""
    logits = np.abs(wave.astype(np.float64)).mean() * SLOPE[0] + OFFSET
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def metadata(**changes: str | None) -> dict[str, str]:
    """A real file's metadata; None leaves a key out. `labels` stands for `embedkit.labels`."""
    meta: dict[str, str | None] = {
        "format": "1",
        "labels": json.dumps(LABELS),
        "rate": "16000",
        "weights": "random",
        "sha256": "0" * 64,
        **changes,
    }
    return {f"embedkit.{key}": value for key, value in meta.items() if value is not None}


def build(
    path: Path,
    *,
    signal: str = "signal",
    output: str = "probabilities",
    offset: np.ndarray = OFFSET,
    width: int = 1,
    **changes: str | None,
) -> Path:
    """A signed file; signal and output give those other names; the embedding is mean |x|, width times."""
    nodes = [
        helper.make_node("Abs", [signal], ["loud"]),
        helper.make_node("Cast", ["loud"], ["precise"], to=TensorProto.DOUBLE),  # a long float32 sum drifts
        helper.make_node("ReduceSum", ["precise", "time"], ["sum"], keepdims=1),
        helper.make_node("Cast", ["lengths"], ["n"], to=TensorProto.DOUBLE),
        helper.make_node("Unsqueeze", ["n", "time"], ["count"]),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("Cast", ["mean"], ["loudness"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["loudness"] * width, ["embedding"], axis=1),
        helper.make_node("Gemm", ["embedding", "slope", "offset"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [output], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info(signal, TensorProto.FLOAT, ["batch", "samples"]),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
    ]
    outputs = [
        helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 4]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4]),
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", width]),
    ]
    slope = np.repeat(SLOPE / width, width, axis=0)
    constants = {"slope": slope, "offset": offset.astype(np.float32), "time": np.array([1], np.int64)}
    graph = helper.make_graph(
        nodes, "loudness", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in constants.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    meta = metadata(**changes)
    helper.set_model_props(model, meta)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    path.write_bytes(sign(data) if "embedkit.sha256" in meta else data)
    return path
