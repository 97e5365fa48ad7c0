"""A file that is damaged or not ours is refused in one line before it answers anything."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from embedkit.classes import CLASSES
from embedkit.errors import ModelError
from embedkit.runtime import Predictor
from embedkit.runtime.model import compute_file_digest, make_session_options

Make = Callable[..., Path]


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        Predictor(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


def test_a_whole_file_opens(exported: Path) -> None:
    predictor = Predictor(exported, threads=1)
    assert predictor.labels == CLASSES
    assert predictor.rate == 16_000
    assert predictor.meta["embedkit.weights"] == "random"


def test_the_digest_is_plain_sha256_over_zeros(exported: Path) -> None:
    """Recomputed through the onnx package: put zeros in the metadata, serialize, hash."""
    model = onnx.load(exported)
    entry = next(p for p in model.metadata_props if p.key == "embedkit.sha256")
    carried, entry.value = entry.value, "0" * 64
    assert carried == hashlib.sha256(model.SerializeToString()).hexdigest()
    assert carried == compute_file_digest(exported.read_bytes())


def test_any_changed_byte_is_seen(exported: Path, tmp_path: Path) -> None:
    """One bit, at 40 places all over the file."""
    whole = exported.read_bytes()
    broken = tmp_path / "broken.onnx"
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        data = bytearray(whole)
        data[place] ^= 1
        broken.write_bytes(data)
        assert "damaged" in (text := refusal(broken)) or "not a file of embedkit" in text


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_cut_short(exported: Path, tmp_path: Path, share: float) -> None:
    whole = exported.read_bytes()
    short = tmp_path / "short.onnx"
    short.write_bytes(whole[: int(len(whole) * share)])
    assert "cut short" in (text := refusal(short)) or "damaged" in text


def test_bytes_put_behind_are_seen(exported: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer.onnx"
    longer.write_bytes(exported.read_bytes() + b"\0")
    assert "damaged" in refusal(longer)


def test_missing_or_no_file(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.onnx")
    assert "directory" in refusal(tmp_path)


def test_somebody_elses_onnx_file(make: Make) -> None:
    assert "not a file of embedkit" in refusal(make(sha256=None))


@pytest.mark.parametrize(
    "labels",
    [
        None,
        "anger",
        '["anger", "happiness", "neutral"]',
        '["happiness", "anger", "neutral", "sadness"]',
        '["angry", "happy", "neutral", "sad"]',
    ],
)
def test_other_labels(make: Make, labels: str | None) -> None:
    """Missing, unreadable, too few, in another order, other words."""
    assert "labels" in refusal(make(labels=labels))


def test_another_format_or_rate(make: Make) -> None:
    assert "embedkit.format is '2', expected '1'" in refusal(make(format="2"))
    assert "embedkit.rate is '8000'" in refusal(make(rate="8000"))


def test_another_interface(make: Make) -> None:
    assert "no input signal; found: lengths, wave" in refusal(make(signal="wave"))
    assert "no output probabilities" in refusal(make(output="p"))


def test_a_graph_that_onnxruntime_cannot_load(exported: Path, tmp_path: Path) -> None:
    """Signed and whole, but with an operator that does not exist."""
    from embedkit.runtime.model import sign

    model = onnx.load(exported)
    model.graph.node[0].op_type = "Loudness"
    path = tmp_path / "odd.onnx"
    path.write_bytes(sign(model.SerializeToString()))
    assert "cannot load it" in refusal(path)


def test_8_bit_weights_meet_float_activations() -> None:
    """x W with W in 8 bits and a scale a column, against numpy in float64 (1e-5); onnxruntime's default misses 1e-3."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (256, 128), dtype=np.int8)
    scales = rng.uniform(0.5, 1, 128).astype(np.float32) / 1_000
    x = rng.normal(size=(7, 256)).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["weights", "scales"], ["dense"], axis=1),
        helper.make_node("MatMul", ["x", "dense"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 128])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(scales, "scales")],
    )
    product = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(
        product.SerializeToString(), make_session_options(1), providers=["CPUExecutionProvider"]
    )
    expected = x.astype(np.float64) @ (weights * scales.astype(np.float64))
    assert np.abs(session.run(None, {"x": x})[0] - expected).max() < 1e-5
