"""Pooled features equal transformers' own hidden states; what cannot be read is refused in one line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from encoders_fixtures import family, noise, plain, pooled, tiny_hubert
from safetensors.numpy import load_file, save_file

from embedkit import encoders
from embedkit.encoders import DISTILHUBERT, write_random_distilhubert
from embedkit.encoders.hubert import forward
from embedkit.encoders.hubert.forward import FeatureExtractor
from embedkit.errors import ClipError, EncoderError

torch.set_num_threads(1)

# Real speech of several lengths, 16 kHz; the first is short enough for a fast test.
CLIPS = ["ravdess/Actor_02/03-01-05-02-02-02-02.flac", "crema-d/AudioWAV/1001_DFA_ANG_XX.flac"]


def speech(shared: Path) -> list[np.ndarray]:
    waves = []
    for clip in CLIPS:
        wave, rate = soundfile.read(shared / "data" / clip, dtype="float32")
        assert rate == 16_000
        waves.append(wave)
    return waves


@pytest.fixture(scope="module")
def distilhubert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_distilhubert(tmp_path_factory.mktemp("encoder") / "distilhubert")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_hubert(tmp_path / "tiny")


# ---------------------------------------------------------------- what comes out


def test_distilhubert_equals_transformers(distilhubert: Path, shared: Path) -> None:
    """Its geometry is the real one's, and every hidden state of real clips, pooled, is transformers' to 1e-5."""
    spec = encoders.resolve(str(distilhubert))
    assert (spec.family, spec.layers, spec.dim, spec.parameters, spec.random) == ("hubert", 3, 768, 23_491_200, True)
    encoder = encoders.load(spec)
    for wave in speech(shared):
        np.testing.assert_allclose(encoder.pool(wave), pooled(plain(distilhubert, wave)), atol=1e-5)


def test_distilhubert_padded_as_the_paper_does(distilhubert: Path) -> None:
    """pad_to appends zeros and pools over all frames."""
    wave = noise(20_000)
    encoder = encoders.load(encoders.resolve(str(distilhubert)))
    expected = plain(distilhubert, np.pad(wave, (0, 12_000)))
    np.testing.assert_allclose(encoder.pool(wave, pad_to=32_000), pooled(expected), atol=1e-4)
    assert (encoder.pool(wave, pad_to=16_000) == encoder.pool(wave)).all()


def test_whisper_equals_transformers_on_its_own_frames(shared: Path) -> None:
    """The real encoder on real clips; own frames are ceil(samples / 320), with pad_to those of the padded clip."""
    folder = shared / "weights" / "whisper-tiny.en-encoder"
    spec = encoders.resolve(str(folder))
    assert (spec.id, spec.family, spec.layers, spec.dim, spec.random) == (folder.name, "whisper", 5, 384, False)
    encoder = encoders.load(spec)
    for wave in speech(shared):
        states = plain(folder, wave)
        for pad_to in (0, 128_000):
            own = math.ceil(max(len(wave), pad_to) / 320)
            np.testing.assert_allclose(encoder.pool(wave, pad_to=pad_to), pooled(states[:, :own]), atol=1e-4)


def test_a_cropped_whisper_hears_the_clip_alone(shared: Path) -> None:
    """The real encoder's own modules on the clip's part of the whole log-mel, position by position, to 1e-4."""
    folder = shared / "weights" / "whisper-tiny.en-encoder"
    encoder = encoders.load(encoders.resolve(str(folder)), crop=True)
    whole = transformers.WhisperModel.from_pretrained(folder, dtype=torch.float32).encoder.eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    for wave in speech(shared):
        frames = math.ceil(len(wave) / 320)
        with torch.no_grad():
            mel = extractor(wave, sampling_rate=16_000, return_tensors="pt").input_features[..., : 2 * frames]
            x = torch.nn.functional.gelu(whole.conv2(torch.nn.functional.gelu(whole.conv1(mel)))).transpose(1, 2)
            states = [x + whole.embed_positions.weight[:frames]]
            for layer in whole.layers:
                states.append(layer(states[-1], None))
            states[-1] = whole.layer_norm(states[-1])
        np.testing.assert_allclose(encoder.pool(wave), pooled(torch.cat(states).numpy()), atol=1e-4)


@pytest.mark.parametrize("kind", ["hubert", "hubert-large", "wav2vec2", "wavlm", "wavlm-large", "data2vec-audio"])
def test_the_family_equals_transformers(kind: str, tmp_path: Path) -> None:
    """Group and layer norm, post and pre-norm, weight norm in transformers' own spelling, do_normalize on and off."""
    folder = family(tmp_path / kind, kind)
    encoder = encoders.load(encoders.resolve(str(folder)))
    wave = noise(16_000) + np.float32(0.3)  # an offset, which do_normalize takes out
    features = encoder.pool(wave)
    assert features.shape == (3, 2, 32)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, pooled(plain(folder, wave)), atol=1e-5)


@pytest.mark.parametrize("kind", ["hubert", "hubert-large", "wav2vec2", "wavlm"])
def test_the_family_without_onednn(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, or where torch has no packed products: one clip and a batch."""
    monkeypatch.setattr(forward, "has_onednn", lambda _: False)
    folder = family(tmp_path / kind, kind)
    encoder = encoders.load(encoders.resolve(str(folder)))
    waves = [noise(n, n) for n in (16_000, 5_000)]
    for wave, features in zip(waves, encoder.pool_many(waves), strict=True):
        np.testing.assert_allclose(features, pooled(plain(folder, wave)), atol=1e-5)


@pytest.mark.parametrize("kind", ["hubert", "wavlm"])
def test_a_clip_of_half_a_minute_equals_transformers(kind: str, tmp_path: Path) -> None:
    """Longer than what the convolutions and the positional one take at once."""
    folder = family(tmp_path / kind, kind)
    wave = noise(31 * 16_000)
    features = encoders.load(encoders.resolve(str(folder))).pool(wave)
    np.testing.assert_allclose(features, pooled(plain(folder, wave)), atol=1e-5)


@pytest.mark.parametrize("kind", ["hubert", "hubert-large", "wav2vec2", "wavlm", "data2vec-audio"])
def test_a_batch_equals_its_clips(kind: str, tmp_path: Path) -> None:
    """Clips of any lengths side by side, padded and masked, are what each is alone, to 1e-5."""
    encoder = encoders.load(encoders.resolve(str(family(tmp_path / kind, kind))))
    waves = [noise(n, n) for n in (400, 5_000, 16_000, 16_001, 30_000)]
    for one, many in zip(map(encoder.pool, waves), encoder.pool_many(waves), strict=True):
        np.testing.assert_allclose(many, one, atol=1e-5)


def test_a_batch_equals_its_clips_in_whisper(shared: Path) -> None:
    encoder = encoders.load(encoders.resolve(str(shared / "weights" / "whisper-tiny.en-encoder")))
    waves = speech(shared)
    for one, many in zip(map(encoder.pool, waves), encoder.pool_many(waves), strict=True):
        np.testing.assert_allclose(many, one, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["hubert", "hubert-large"])
def test_a_clip_in_parts(kind: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 8 frames give what the whole clip gives, to 1e-6: of every remainder, in a batch of one and of two."""
    encoder = encoders.load(encoders.resolve(str(family(tmp_path / kind, kind))), precision)
    waves = [noise(400 + 320 * (frames - 1) + frames, frames) for frames in (1, 8, 9, 47, 48, 49)]
    whole = [*map(encoder.pool, waves), *encoder.pool_many(waves[3:5])]
    monkeypatch.setattr(FeatureExtractor, "PART", dict.fromkeys(FeatureExtractor.PART, 8))
    for a, b in zip(whole, [*map(encoder.pool, waves), *encoder.pool_many(waves[3:5])], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    "wave",
    [noise(16_000) + np.float32(0.9), noise(16_000) * np.float32(1e-4), np.full(16_000, 0.5, np.float32)],
    ids=["offset", "faint", "constant"],
)
def test_the_folded_group_norm(wave: np.ndarray, tiny: Path) -> None:
    """Statistics from the windows' covariance equal transformers' convolution and norm, done in float64, to 1e-5.

    A constant has no variance at all, so that only the norm's epsilon is left: the hardest case.
    """
    model = transformers.AutoModel.from_pretrained(tiny, dtype=torch.float32).feature_extractor
    fast = FeatureExtractor(model, "cpu", torch.float32)
    fast.lengths = torch.tensor([len(wave)])
    signal = torch.from_numpy(wave)[None]
    with torch.no_grad():
        np.testing.assert_allclose(fast(signal), model.double()(signal.double()), atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frames", [3, 4, 7, 8, 9, 13, 200, 203])
def test_three_frames_at_a_time(frames: int, bias: bool) -> None:
    """Seven products for nine give torch's own convolution to 1e-5, for every remainder."""
    conv = torch.nn.Conv1d(24, 16, 3, 2, bias=bias)
    layer = SimpleNamespace(conv=conv, activation=torch.nn.Identity())
    x = torch.randn(1, frames, 24, generator=torch.Generator().manual_seed(frames))
    with torch.inference_mode():
        ours = forward.Convolution(layer, "cpu", torch.float32)
        expected = conv(x.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(ours.convolve_by_threes(x[0])[None], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours(x), ours.convolve_by_strides(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("groups", [2, 8])
@pytest.mark.parametrize("frames", [1, 2, 16, 17, 18, 34, 224, 225, 401, 1000])
def test_the_positional_convolution(frames: int, groups: int, precision: str) -> None:
    """Torch's own, for less than a segment or a width and for several, and for groups of few channels."""
    dtype, atol = {"fp32": (torch.float32, 5e-6), "bf16": (torch.bfloat16, 2e-2)}[precision]
    torch.manual_seed(frames)
    conv = torch.nn.Conv1d(32, 32, 16, padding=8, groups=groups)
    embedding = SimpleNamespace(conv=conv, activation=transformers.activations.GELUActivation())
    x = torch.randn(2, 32, frames)
    with torch.inference_mode():
        expected = torch.nn.functional.gelu(conv(x))
        ours = forward.make_positional_convolution(embedding, dtype)
        torch.testing.assert_close(ours(x.to(dtype)).float(), expected, atol=atol, rtol=0)


def test_do_normalize_comes_before_the_padding(tmp_path: Path) -> None:
    """Mean and variance are the clip's own, not those of the zeros."""
    folder = family(tmp_path / "wav2vec2", "wav2vec2")
    wave = noise(16_000) + np.float32(0.3)
    expected = plain(folder, wave, padding="max_length", max_length=24_000, return_attention_mask=True)
    encoder = encoders.load(encoders.resolve(str(folder)))
    np.testing.assert_allclose(encoder.pool(wave, pad_to=24_000), pooled(expected), atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_bits_in_any_order(precision: str, distilhubert: Path, shared: Path) -> None:
    """A clip's features do not depend on what was encoded before it, nor on the process's earlier encoder."""
    waves = [noise(n, n) for n in (400, 30_001)]
    for folder in (distilhubert, shared / "weights" / "whisper-tiny.en-encoder"):
        spec = encoders.resolve(str(folder))
        first, second = encoders.load(spec, precision), encoders.load(spec, precision)
        forward = [first.pool(w) for w in waves]
        backward = [second.pool(w) for w in reversed(waves)][::-1]
        assert all((a == b).all() for a, b in zip(forward, backward, strict=True))


def test_bf16_is_close(distilhubert: Path, shared: Path) -> None:
    """Cosine of pooled mean and std, a clip and layer: at least 0.9999."""
    spec = encoders.resolve(str(distilhubert))
    exact, fast = encoders.load(spec), encoders.load(spec, "bf16")
    for wave in speech(shared):
        a, b = exact.pool(wave), fast.pool(wave)
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert cosine.min() >= 0.9999
        assert not (a == b).all()


@pytest.mark.parametrize("kind", ["hubert", "hubert-large", "wav2vec2", "wavlm", "wavlm-large", "data2vec-audio"])
def test_the_family_in_bf16(kind: str, tmp_path: Path) -> None:
    """Its own way through the convolutions gives fp32's features, to a cosine of 0.9999 in each layer."""
    spec = encoders.resolve(str(family(tmp_path / kind, kind)))
    a, b = encoders.load(spec).pool(noise(16_000)), encoders.load(spec, "bf16").pool(noise(16_000))
    assert ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).min() >= 0.9999


@pytest.mark.parametrize("kind", ["hubert", "hubert-large", "wavlm"])
def test_bf16_on_a_processor_without_it(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features of fp32 from a checkpoint whose weights are rounded to bf16, bit for bit; close to its own fp32."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    folder = family(tmp_path / kind, kind)
    spec, wave = encoders.resolve(str(folder)), noise(16_000)
    exact, features = encoders.load(spec).pool(wave), encoders.load(spec, "bf16").pool(wave)
    weights = load_file(folder / "model.safetensors")
    rounded = {key: torch.from_numpy(value).bfloat16().float().numpy() for key, value in weights.items()}
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(features, encoders.load(encoders.resolve(str(folder))).pool(wave))
    cosine = (exact * features).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(features, axis=-1)
    assert cosine.min() >= 0.9999
    assert not (exact == features).all()


# ---------------------------------------------------------------- what is read


def test_both_spellings_of_weight_norm_load(tmp_path: Path) -> None:
    """weight_g / weight_v (most checkpoints) and torch's parametrizations give the same encoder."""
    old = tiny_hubert(tmp_path / "old")
    new = Path(shutil.copytree(old, tmp_path / "new"))
    weights = load_file(old / "model.safetensors")
    conv = "encoder.pos_conv_embed.conv."
    for g_or_v, original in (("weight_g", "original0"), ("weight_v", "original1")):
        weights[f"{conv}parametrizations.weight.{original}"] = weights.pop(f"{conv}{g_or_v}") * np.float32(1.5)
    save_file(weights, new / "model.safetensors", metadata={"format": "pt"})
    weights[f"{conv}weight_g"] = weights.pop(f"{conv}parametrizations.weight.original0")
    weights[f"{conv}weight_v"] = weights.pop(f"{conv}parametrizations.weight.original1")
    save_file(weights, old / "model.safetensors", metadata={"format": "pt"})
    a, b = (encoders.load(encoders.resolve(str(f))).pool(noise(16_000)) for f in (old, new))
    assert (a == b).all()
    save_file({**weights, f"{conv}weight_g": weights[f"{conv}weight_g"] * 3}, old / "model.safetensors")
    assert not np.allclose(encoders.load(encoders.resolve(str(old))).pool(noise(16_000)), a)


def test_weights_in_several_files(tiny: Path) -> None:
    """A sharded checkpoint is the same encoder under another digest."""
    one = encoders.resolve(str(tiny))
    before = encoders.load(one).pool(noise(8_000))
    weights = load_file(tiny / "model.safetensors")
    names = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(weights)}
    for name in set(names.values()):
        save_file({k: v for k, v in weights.items() if names[k] == name}, tiny / name, metadata={"format": "pt"})
    (tiny / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (tiny / "model.safetensors").unlink()
    two = encoders.resolve(str(tiny))
    assert two.parameters == one.parameters
    assert two.weights_digest != one.weights_digest
    assert (encoders.load(two).pool(noise(8_000)) == before).all()


def test_weights_of_the_pretraining_are_listed(tiny: Path) -> None:
    weights = load_file(tiny / "model.safetensors")
    save_file({**weights, "project_q.weight": np.ones((2, 2), np.float32)}, tiny / "model.safetensors")
    spec = encoders.resolve(str(tiny))
    assert encoders.load(spec).unexpected == ("project_q.weight",)
    assert spec.parameters == sum(w.size for w in weights.values())


def test_a_learned_encoder_is_not_called_random(tiny: Path) -> None:
    assert encoders.resolve(str(tiny)).random
    (tiny / encoders.RANDOM_MARKER).unlink()
    assert not encoders.resolve(str(tiny)).random


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    digests = [
        encoders.resolve(str(tiny_hubert(tmp_path / f"{i}", seed))).weights_digest for i, seed in enumerate([1, 1, 2])
    ]
    assert digests[0] == digests[1] != digests[2]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_a_clip_shorter_than_a_frame(samples: int, tiny: Path, shared: Path) -> None:
    for folder in (tiny, shared / "weights" / "whisper-tiny.en-encoder"):
        with pytest.raises(ClipError, match=r"shorter than one frame of the encoder \(400\)"):
            encoders.load(encoders.resolve(str(folder))).pool(noise(samples), pad_to=16_000)


def test_a_clip_longer_than_whisper_hears(shared: Path) -> None:
    encoder = encoders.load(encoders.resolve(str(shared / "weights" / "whisper-tiny.en-encoder")))
    assert np.isfinite(encoder.pool(noise(480_000))).all()
    with pytest.raises(ClipError, match=r"30.0 s: longer than the encoder's window of 30 s"):
        encoder.pool(noise(480_001))


def test_a_missing_weight_is_an_error_but_for_the_mask(tiny: Path) -> None:
    """transformers would fill it at random; masked_spec_embed is of no use outside of pretraining."""
    config = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps({**config, "mask_time_prob": 0.05}))
    encoders.load(encoders.resolve(str(tiny)))  # masked_spec_embed is missing now
    weights = load_file(tiny / "model.safetensors")
    del weights["encoder.layers.1.attention.k_proj.weight"]
    save_file(weights, tiny / "model.safetensors")
    with pytest.raises(EncoderError, match=r"1 weights are missing .*encoder\.layers\.1\.attention\.k_proj\.weight"):
        encoders.load(encoders.resolve(str(tiny)))


def test_weights_of_another_shape(tiny: Path) -> None:
    weights = load_file(tiny / "model.safetensors")
    weights["encoder.layer_norm.bias"] = np.zeros(33, np.float32)
    save_file(weights, tiny / "model.safetensors")
    with pytest.raises(EncoderError, match="does not load"):
        encoders.load(encoders.resolve(str(tiny)))


def test_a_config_without_its_geometry_is_refused(tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    del config["hidden_size"]
    (tiny / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=r"config\.json has no 'hidden_size'; download"):
        encoders.resolve(str(tiny))


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_with_a_file_missing(file: str, tiny: Path) -> None:
    (tiny / file).unlink()
    with pytest.raises(EncoderError, match=f"{file} is missing"):
        encoders.resolve(str(tiny))


def test_pickles_are_not_read(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"never read; convert them .*save_pretrained"):
        encoders.resolve(str(tiny))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "cannot be read as JSON"),
        ("config.json", "[]", "expected a JSON object"),
        ("config.json", '{"model_type": "huber"}', "no encoder of model_type 'huber'; did you mean 'hubert'"),
        ("preprocessor_config.json", '{"sampling_rate": 8000}', "it wants 8000 Hz"),
        ("model.safetensors", "short", "not a safetensors file"),
    ],
)
def test_damaged_files(file: str, content: str, message: str, tiny: Path) -> None:
    (tiny / file).write_text(content)
    with pytest.raises(EncoderError, match=message) as caught:
        encoders.resolve(str(tiny))
    assert "\n" not in str(caught.value)


def test_weights_cut_short(tiny: Path) -> None:
    whole = (tiny / "model.safetensors").read_bytes()
    (tiny / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(EncoderError, match=r"does not load|cut short"):
        encoders.load(encoders.resolve(str(tiny)))


def test_an_index_cannot_lead_out_of_the_folder(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny.parent / "model.safetensors")
    index = {"weight_map": {"encoder.layer_norm.bias": "../model.safetensors"}}
    (tiny / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EncoderError, match=r"no weights '../model.safetensors' beside it"):
        encoders.resolve(str(tiny))


def test_an_unknown_precision(tiny: Path) -> None:
    with pytest.raises(EncoderError, match="precision 'bf17'; did you mean 'bf16'"):
        encoders.load(encoders.resolve(str(tiny)), "bf17")


# ---------------------------------------------------------------- the hub, without a network


def test_a_name_that_is_no_hub_id() -> None:
    with pytest.raises(EncoderError, match="did you mean 'ntu-spml/distilhubert'"):
        encoders.resolve("distilhubert")
    with pytest.raises(EncoderError, match="give a folder, or a hub id"):
        encoders.resolve("./nowhere/at/all")


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, and no more than one question to the hub."""
    import huggingface_hub

    asked = []

    def fail(*args: Any, **kwargs: Any) -> None:
        asked.append((args, kwargs))
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fail)
    with pytest.raises(EncoderError, match=r"cannot be reached .*hf download facebook/hubert-base-ls960") as caught:
        encoders.resolve("facebook/hubert-base-ls960")
    assert "--revision refs/pr/2" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(asked) == 1
    assert asked[0][1]["timeout"] <= 2


def test_a_hub_id_in_the_local_cache_needs_no_network(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found under its pinned revision; the snapshot's commit is the revision that is recorded."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--facebook--hubert-base-ls960"
    shutil.copytree(tiny, repo / "snapshots" / commit)
    (repo / "refs" / "refs" / "pr").mkdir(parents=True)
    (repo / "refs" / "refs" / "pr" / "2").write_text(commit)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    spec = encoders.resolve("facebook/hubert-base-ls960")
    assert (spec.id, spec.revision) == ("facebook/hubert-base-ls960", commit)
    assert spec.slug == "facebook--hubert-base-ls960"


def test_a_hub_id_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: ["config.json", "pytorch_model.bin"])
    with pytest.raises(EncoderError, match="its weights are pickles"):
        encoders.resolve("someone/model")


def test_distilhubert_config_is_what_transformers_builds(tmp_path: Path) -> None:
    """The weights' names and shapes are those that transformers expects: none missing, none left over."""
    folder = write_random_distilhubert(tmp_path / "d")
    model = transformers.HubertModel(transformers.HubertConfig(**DISTILHUBERT))
    assert sum(p.numel() for p in model.parameters()) == encoders.resolve(str(folder)).parameters
    assert encoders.load(encoders.resolve(str(folder))).unexpected == ()
