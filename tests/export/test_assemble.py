"""ONNX files: what torch computes is what onnxruntime computes, for any batch, and the file says what it is."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import HubertConfig, HubertModel, WavLMConfig, WavLMModel, WhisperConfig, WhisperModel

import embedkit
from embedkit.cards import Sound
from embedkit.encoders.exported import EXTRA_SAMPLES, extract_encoder
from embedkit.export import assemble as files
from embedkit.export import graph, quantize
from embedkit.export.quantize import _graph, speed
from embedkit.runtime.model import compute_file_digest

SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def wave(n: int) -> np.ndarray:
    """Noise that swells and fades."""
    swell = np.exp(-(((np.arange(n) - n * 0.45) / (n / 6)) ** 2))
    return (0.3 * np.random.default_rng(n).normal(size=n) * swell).astype(np.float32)


def run(model: onnx.ModelProto | bytes, waves: list[np.ndarray], outputs: list[str] | None = None) -> list[np.ndarray]:
    """onnxruntime's answer to a batch whose padding is loud rubbish."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    signal = np.full((len(waves), max(map(len, waves)) + 123), 9.0, np.float32)
    for row, clip in zip(signal, waves, strict=True):
        row[: len(clip)] = clip
    return session.run(outputs, {"signal": signal, "lengths": np.array([len(clip) for clip in waves])})


def weights(dim: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Of `head`: [dim, class] and [class]."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(dim, classes)).astype(np.float32), rng.normal(size=classes).astype(np.float32)


def head(dim: int, classes: int = 4) -> onnx.ModelProto:
    """The smallest head: Gemm and Softmax, its opset listed twice as skl2onnx does."""
    weight, bias = weights(dim, classes)
    tensors = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
    nodes = [
        helper.make_node("Gemm", ["embedding", "weight", "bias"], ["logits"], name="gemm"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=1),
    ]
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name, width in (("embedding", dim), ("logits", classes), ("probabilities", classes))
    }
    inner = helper.make_graph(nodes, "head", [values.pop("embedding")], list(values.values()), tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(inner, opset_imports=opsets, ir_version=9)


def hubert() -> graph.EncoderBody:
    torch.manual_seed(0)
    return graph.build_body(HubertModel(HubertConfig(**SMALL)).eval(), Sound(), [0, 1], ["mean", "std"], normalize=True)


def hubert_padded() -> graph.EncoderBody:
    torch.manual_seed(0)
    return graph.build_body(HubertModel(HubertConfig(**SMALL)).eval(), Sound(max_seconds=0.5, pad=True), [1], ["mean"])


def wavlm() -> graph.EncoderBody:
    torch.manual_seed(0)
    sound = Sound(trim_db=0, pre_emphasis=0, peak=0, max_seconds=0)
    return graph.build_body(WavLMModel(WavLMConfig(**SMALL)).eval(), sound, [1], ["mean"])


def whisper(*, crop: bool = False) -> graph.EncoderBody:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=24, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32, decoder_layers=0, vocab_size=8,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    filters = torch.rand(201, 80, dtype=torch.float64) / 100
    return graph.build_body(
        WhisperModel(config).eval(), Sound(max_seconds=2.0, crop=crop), [1], ["mean"], filters=filters
    )


def whisper_cropped() -> graph.EncoderBody:
    return whisper(crop=True)


BODIES = {body.__name__: body for body in (hubert, hubert_padded, wavlm, whisper, whisper_cropped)}


@cache
def exported(name: str) -> tuple[graph.EncoderBody, onnx.ModelProto]:
    """A module and its graph. Exporting takes seconds, so each is done once."""
    return (body := BODIES[name]()), files.export_body(body)


@pytest.fixture(params=BODIES)
def both(request: pytest.FixtureRequest) -> tuple[graph.EncoderBody, onnx.ModelProto]:
    return exported(request.param)


@pytest.fixture(scope="module")
def plain() -> onnx.ModelProto:
    """A whole file's graph: tiny HuBERT and head."""
    return files.merge_graphs(exported("hubert")[1], head(128), range(4), 4)


def test_onnxruntime_equals_torch_for_any_batch(both: tuple[graph.EncoderBody, onnx.ModelProto]) -> None:
    """One clip, several of other lengths, longer than the cut and shorter than a frame: embeddings to 1e-4."""
    body, model = both
    for waves in ([wave(20_000)], [wave(9_000), wave(30_001), wave(1_000)], [wave(140_000), wave(100)]):
        (found,) = run(model, waves)
        for clip, row in zip(waves, found, strict=True):
            with torch.no_grad():
                alone = body(torch.from_numpy(clip)[None], torch.tensor([len(clip)]))
            np.testing.assert_allclose(row, alone[0].numpy(), atol=1e-4)


def test_rubbish_and_silence_have_a_finite_answer(both: tuple[graph.EncoderBody, onnx.ModelProto]) -> None:
    """NaN and infinity count as 0, so a clip of them answers as silence does; all is finite."""
    _, model = both
    silence, nan, infinite = np.zeros((3, 5_000), np.float32)
    nan[:] = np.nan
    infinite[:] = -np.inf
    (found,) = run(model, [silence, nan, infinite])
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_a_file_is_what_the_runtime_expects(plain: onnx.ModelProto) -> None:
    """Inputs, outputs, their shapes, opset 21 listed once, IR 10, and nothing of this machine in it."""
    onnx.checker.check_model(plain, full_check=True)
    assert plain.ir_version == 10
    assert [(entry.domain, entry.version) for entry in plain.opset_import] == [("", 21)]
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*plain.graph.input, *plain.graph.output)
    }
    assert shapes == {
        "signal": ["batch", "samples"],
        "lengths": ["batch"],
        "probabilities": ["batch", 4],
        "logits": ["batch", 4],
        "embedding": ["batch", 128],
    }
    data = plain.SerializeToString()
    assert str(Path(embedkit.__file__).parent).encode() not in data
    assert b".py" not in data


def test_merging_changes_no_figure(plain: onnx.ModelProto) -> None:
    """The head on the embedding that the file itself gives, in numpy: logits and probabilities to 1e-5."""
    probabilities, logits, embedding = run(plain, [wave(9_000), wave(20_000)])
    weight, bias = weights(128)
    expected = embedding @ weight + bias
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(probabilities, torch.softmax(torch.from_numpy(expected), 1), atol=1e-5)


@pytest.mark.parametrize("name", BODIES)
def test_the_encoder_alone_gives_the_same_embedding(name: str) -> None:
    """Cut off before its head and after its sound, and given torch's prepared sound: to 1e-4, clip by clip."""
    body, model = exported(name)
    dim = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    encoder = extract_encoder(files.merge_graphs(model, head(dim), range(4), 4), name)
    session = onnxruntime.InferenceSession(encoder.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = [value.name for value in session.get_inputs()]
    assert {"prepared", "prepared_lengths"} <= set(inputs)
    for clip in (wave(20_000), wave(9_001)):
        with torch.no_grad():
            given = torch.from_numpy(clip)[None], torch.tensor([len(clip)])
            expected, prepared, lengths = body.embed_clips(*given)
        prepared = prepared[:, : int(lengths)]
        feed = {
            "signal": prepared.numpy(),
            "lengths": lengths.numpy(),
            "prepared": torch.nn.functional.pad(prepared, (0, EXTRA_SAMPLES)).numpy(),
            "prepared_lengths": lengths.numpy(),
        }
        (found,) = session.run(None, {key: feed[key] for key in inputs})
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(("name", "frames"), [("whisper", 1500), ("whisper_cropped", 100)])
def test_whispers_positions_are_quantized_and_no_longer_than_its_clips(name: str, frames: int) -> None:
    found = quantize.count_weights(
        quantize.quantize_to_8_bits(files.merge_graphs(exported(name)[1], head(24), range(4), 4))
    )
    assert found["nodes"]["table"] == 1
    assert found["bytes"]["table int8"] == frames * 24


def test_another_head_on_a_quantized_file(plain: onnx.ModelProto, tmp_path: Path, monkeypatch) -> None:
    """The body of a file whose head is quantized too, with its own head again: the same answers to 1e-6."""
    monkeypatch.setattr(_graph, "SMALLEST", 100)
    small = quantize.quantize_to_8_bits(plain)
    assert "head/weight:int8" in {tensor.name for tensor in small.graph.initializer}
    said = {"embedkit.layers": "[0, 1]", "embedkit.stats": '["mean", "std"]', "embedkit.dim": "32"}
    path = tmp_path / "small.onnx"
    path.write_bytes(files.serialize_model(small, said))
    body = files.extract_body(path, [0, 1], ["mean", "std"])
    assert not [tensor.name for tensor in body.graph.initializer if tensor.name.startswith("head/")]
    again = quantize.quantize_to_8_bits(files.merge_graphs(body, head(128), range(4), 4))
    for ours, theirs in zip(run(again, [wave(9_000)]), run(small, [wave(9_000)]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_class_that_the_head_has_not_gets_probability_0() -> None:
    """A head of classes 0 and 2 of four: its columns go where they belong."""
    _, body = exported("hubert_padded")
    probabilities, logits, embedding = run(files.merge_graphs(body, head(32, 2), [0, 2], 4), [wave(9_000)])
    weight, bias = weights(32, 2)
    expected = embedding @ weight + bias
    np.testing.assert_allclose(logits[:, [0, 2]], expected, atol=1e-5)
    np.testing.assert_array_equal(logits[:, [1, 3]], [[-1e4, -1e4]])
    np.testing.assert_allclose(probabilities[:, [0, 2]], torch.softmax(torch.from_numpy(expected), 1), atol=1e-6)
    assert not probabilities[:, [1, 3]].any()


def test_the_digest_is_of_the_whole_file(plain: onnx.ModelProto) -> None:
    """SHA-256 of the bytes with the digest's 64 characters as zeros; the file still loads with its metadata."""
    data = files.serialize_model(plain, {"embedkit.labels": json.dumps(["a", "b"])})
    loaded = onnx.load_from_string(data)
    meta = {entry.key: entry.value for entry in loaded.metadata_props}
    assert meta["embedkit.labels"] == '["a", "b"]'
    blank = data.replace(meta["embedkit.sha256"].encode(), b"0" * 64)
    assert hashlib.sha256(blank).hexdigest() == meta["embedkit.sha256"] == compute_file_digest(data)
    assert files.serialize_model(plain, {"embedkit.labels": json.dumps(["a", "b"])}) == data


# ---------------------------------------------------------------- profiles


@pytest.mark.parametrize("profile", ["size", "speed"])
def test_8_bit_profiles_keep_every_large_weight_so_and_the_answers_close(plain: onnx.ModelProto, profile: str) -> None:
    """Convolutions, positional convolution, linear layers and head; embeddings within 5 % of their size."""
    small = quantize.PROFILES[profile](plain)
    onnx.checker.check_model(small, full_check=True)
    counts = quantize.check_profile(small, profile)
    assert counts["nodes"] == {"linear": 6, "positional convolution": 1}
    assert not any(kind.endswith("int8") for kind in quantize.check_profile(plain, "float")["bytes"])
    for tensor in small.graph.initializer:  # the constants of the group norm's statistics and all that is small
        assert tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < quantize.SMALLEST, tensor.name
    waves = [wave(9_000), wave(20_000)]
    whole, ours = run(plain, waves, ["embedding"])[0], run(small, waves, ["embedding"])[0]
    assert np.abs(ours - whole).mean() < 0.05 * np.abs(whole).mean()
    assert np.abs(ours - whole).max() > 0


def test_convolutions_in_integers(
    both: tuple[graph.EncoderBody, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every convolution but the sound's own is a product, grouped and strided ones too; one clip and a batch of other
    lengths: embeddings within 10 % of their size. Of steady noise: beside a loud part these weights, which never
    learned, make a quiet one's rounding large."""
    monkeypatch.setattr(_graph, "SMALLEST", 100)
    monkeypatch.setattr(speed, "NARROWEST", 2)
    _, model = both
    small = quantize.PROFILES["speed"](model)
    onnx.checker.check_model(small, full_check=True)
    for node in small.graph.node:
        if node.op_type == "Conv":
            shapes = {t.name: t.dims for t in small.graph.initializer}
            assert shapes.get(node.input[1], [0, 1])[1] == 1, node.name
    noise = [(0.3 * np.random.default_rng(n).normal(size=n)).astype(np.float32) for n in (9_000, 30_001, 12_000)]
    for waves in (noise[:1], noise):
        whole, ours = run(model, waves)[0], run(small, waves)[0]
        assert 0 < np.abs(ours - whole).mean() < 0.1 * np.abs(whole).mean()


@pytest.mark.parametrize("axis", [0, 1])
def test_int8_is_rounded_to_the_nearest_step_of_each_channel(axis: int) -> None:
    """Against a loop: one scale a channel, its largest weight at 127, no weight off by more than half a step."""
    weight = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    np.moveaxis(weight, axis, 0)[2] = 0
    whole, scale = quantize.quantize_weight(weight, axis)
    assert whole.dtype == np.int8
    for channel, back, step in zip(np.moveaxis(weight, axis, 0), np.moveaxis(whole, axis, 0), scale, strict=True):
        if not channel.any():
            assert not back.any()
            continue
        assert np.abs(back).max() == 127
        assert step == pytest.approx(np.abs(channel).max() / 127)
        assert np.abs(back * step - channel).max() <= step / 2 * 1.0001


def test_a_graph_that_claims_int8_and_holds_none_fails(plain: onnx.ModelProto) -> None:
    """The float graph under the name of `size` is refused, with the count."""
    with pytest.raises(embedkit.errors.EmbedkitError, match="0 8-bit weights"):
        quantize.check_profile(plain, "size")
    assert quantize.check_profile(plain, "float")["nodes"] == {}
