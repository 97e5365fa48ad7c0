"""The modules that become the graph, against the ordinary path: librosa's sound, transformers' own forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from embedkit import audio
from embedkit.cards import Sound
from embedkit.errors import ClipError
from embedkit.export import graph

SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "conv_dim": [16] * 7,
    "num_conv_pos_embedding_groups": 4,
}
POSITIONS = {"num_conv_pos_embeddings": 16}
FAMILIES = {
    "hubert": (HubertModel, HubertConfig(**SMALL, **POSITIONS)),
    "hubert-bias": (HubertModel, HubertConfig(**SMALL, **POSITIONS, conv_bias=True, feat_proj_layer_norm=False)),
    "hubert-batch-norm": (HubertModel, HubertConfig(**SMALL, **POSITIONS, conv_pos_batch_norm=True)),
    "wav2vec2-stable": (
        Wav2Vec2Model,
        Wav2Vec2Config(**SMALL, **POSITIONS, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True),
    ),
    "wavlm": (WavLMModel, WavLMConfig(**SMALL, **POSITIONS)),
    "data2vec": (Data2VecAudioModel, Data2VecAudioConfig(**SMALL, conv_pos_kernel_size=5, num_conv_pos_embeddings=2)),
}
LENGTHS = (9_000, 16_400, 21_007, 400)
NOTHING = Sound(trim_db=0, pre_emphasis=0, peak=0, max_seconds=0)


def speechlike(n: int, seed: int = 0) -> np.ndarray:
    """Noise that swells and fades, so that there is something to trim at both ends."""
    rng = np.random.default_rng(seed)
    swell = np.exp(-(((np.arange(n) - n * 0.45) / (n / 6 + 1)) ** 2))
    return (0.3 * rng.normal(size=n) * swell + 0.001 * rng.normal(size=n)).astype(np.float32)


def padded(waves: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch whose padding is loud rubbish, which nothing may look at."""
    batch = np.full((len(waves), max(map(len, waves)) + 777), 7.0, np.float32)
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = wave
    return torch.from_numpy(batch), torch.tensor([len(wave) for wave in waves])


def made(name: str, seed: int = 0) -> torch.nn.Module:
    """A random model whose norms are no identities, so that a lost one shows."""
    kind, config = FAMILIES[name]
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key or "bias" in key:
                value.add_(0.3 * torch.randn_like(value))
        for key, value in model.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                value.copy_(0.5 + torch.rand_like(value))
    return model


# ---------------------------------------------------------------- sound

SOUNDS = {
    "exact": Sound(),
    "plain": Sound(trim_db=0, pre_emphasis=0, peak=0),
    "trim alone": Sound(trim_db=30, pre_emphasis=0, peak=0, max_seconds=0),
    "pre-emphasis alone": Sound(trim_db=0, pre_emphasis=0.9, peak=0, max_seconds=0),
    "peak alone": Sound(trim_db=0, pre_emphasis=0, peak=0.5, max_seconds=0),
    "cut alone": Sound(trim_db=0, pre_emphasis=0, peak=0, max_seconds=0.5),
    "short cut": Sound(max_seconds=0.25),
}


def ordinary(wave: np.ndarray, sound: Sound) -> np.ndarray:
    return audio.cut_to_length(audio.prepare(wave, sound), sound)


@pytest.mark.parametrize("name", SOUNDS)
def test_every_step_of_the_sound_equals_the_ordinary_path(name: str) -> None:
    """Lengths exactly, samples to 1e-6, in a padded batch; what lies past a clip's end is zero."""
    sound = SOUNDS[name]
    waves = [speechlike(n, n) for n in (400, 2_047, 2_048, 5_000, 33_333, 150_000)]
    out, lengths = graph.SoundSteps(sound, normalize=False)(*padded(waves))
    for wave, row, length in zip(waves, out.numpy(), lengths.tolist(), strict=True):
        expected = ordinary(wave, sound)
        assert length == max(len(expected), 400)
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-6)
        assert not row[len(expected) :].any()


def test_paper_appends_zeros_to_8_s_and_says_so() -> None:
    """Recipe `paper`: 128,000 samples for every clip, and as many as its length."""
    sound = Sound(pad=True)
    waves = [speechlike(5_000), speechlike(200_000)]
    out, lengths = graph.SoundSteps(sound, normalize=False)(*padded(waves))
    assert out.shape == (2, 128_000)
    assert lengths.tolist() == [128_000] * 2
    expected = ordinary(waves[0], sound)
    np.testing.assert_allclose(out[0, : len(expected)], expected, atol=1e-6)
    assert not out[0, len(expected) :].any()


@pytest.mark.parametrize("pad", [False, True])
def test_do_normalize_equals_transformers(pad: bool) -> None:
    """After the cut and before any zeros, over the clip's own samples; to 1e-5."""
    sound = Sound(max_seconds=1.0, pad=pad)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    waves = [speechlike(9_000) + 0.1, speechlike(30_000)]
    out, _ = graph.SoundSteps(sound, normalize=True)(*padded(waves))
    for wave, row in zip(waves, out.numpy(), strict=True):
        expected = extractor(ordinary(wave, sound), sampling_rate=16_000).input_values[0]
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-5)
        assert not row[len(expected) :].any()


def test_sound_equals_librosa_on_real_clips(shared) -> None:
    """On 65 recordings, of any loudness and length: the same first and last sample, samples to 1e-6."""
    steps, sound = graph.SoundSteps(Sound(), normalize=False), Sound()
    files = sorted((shared / "data").rglob("*.flac"))[::20]
    compared = 0
    for file in files:
        wave = audio.read(file)
        try:
            expected = ordinary(wave, sound)
        except ClipError:  # the silent one
            continue
        out, lengths = steps(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
        assert lengths.item() == len(expected), file
        np.testing.assert_allclose(out[0].numpy(), expected, atol=1e-6, err_msg=str(file))
        compared += 1
    assert compared > 60


@pytest.mark.parametrize("name", SOUNDS)
def test_rubbish_in_the_signal_counts_as_zero(name: str) -> None:
    """NaN, infinity and samples beyond 1e6 give what zeros give; silence, no samples, wrong lengths stay finite."""
    steps = graph.SoundSteps(SOUNDS[name], normalize=True)
    wave = speechlike(9_000)
    wave[[100, 4_000, 4_001, 8_000]] = 0
    broken = wave.copy()
    broken[[100, 4_000, 4_001, 8_000]] = [np.nan, np.inf, -np.inf, 1e30]
    clean, n = steps(torch.from_numpy(wave)[None], torch.tensor([9_000]))
    out, m = steps(torch.from_numpy(broken)[None], torch.tensor([9_000]))
    assert torch.equal(out, clean)
    assert torch.equal(n, m)
    for samples, length in ((3_000, 3_000), (3_000, 0), (5, 5), (1, 1), (3_000, -4), (3_000, 99_999)):
        out, lengths = steps(torch.zeros(1, samples), torch.tensor([length]))
        assert torch.isfinite(out).all()
        assert not out.any()
        assert lengths.item() >= 400
    out, _ = steps(torch.full((1, 3_000), torch.nan), torch.tensor([3_000]))
    assert not out.any()


# ---------------------------------------------------------------- encoders


@pytest.mark.parametrize("name", FAMILIES)
def test_a_padded_batch_gives_transformers_states_of_single_clips(name: str) -> None:
    """Mean and standard deviation of every hidden state, against the untouched model clip by clip, to 1e-4."""
    reference, layers = made(name), [0, 1, 2]
    body = graph.build_body(made(name), NOTHING, layers, ["mean", "std"])
    waves = [speechlike(n, n) + 0.05 for n in LENGTHS]
    with torch.no_grad():
        found = body(*padded(waves)).reshape(len(waves), 3, 2, -1)
        for wave, ours in zip(waves, found, strict=True):
            states = reference(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states
            for state, (mean, std) in zip(states, ours, strict=True):
                torch.testing.assert_close(mean, state[0].mean(0), atol=1e-4, rtol=0)
                torch.testing.assert_close(std, state[0].std(0, unbiased=False), atol=1e-4, rtol=0)


def test_layers_come_in_the_order_asked_for_and_no_more_than_needed() -> None:
    """[1, 0] gives layer 1, then layer 0; the second block is not part of the module."""
    model = made("hubert")
    wave = torch.from_numpy(speechlike(8_000))[None], torch.tensor([8_000])
    with torch.no_grad():
        both = graph.build_body(made("hubert"), NOTHING, [1, 0], ["mean"])(*wave)
        states = model(wave[0], output_hidden_states=True).hidden_states
    torch.testing.assert_close(both[0], torch.cat([states[1][0].mean(0), states[0][0].mean(0)]), atol=1e-5, rtol=0)
    assert len(graph.build_body(model, NOTHING, [1, 0], ["mean"]).frames.blocks) == 1


@pytest.mark.parametrize("offset", [0.0, 0.5, 100.0])
def test_group_norm_is_exact_whatever_the_offset(offset: float) -> None:
    """The window statistics against transformers' group norm in float64, to 1e-3 of the output at offset 100."""
    layer = made("hubert").feature_extractor.conv_layers[0]
    wave = torch.from_numpy(speechlike(5_000))[None, None] + offset
    with torch.no_grad():
        ours = graph._apply_group_norm_conv(layer, wave, torch.tensor([5_000]))
        exact = layer.double()(wave.double()).float()
    torch.testing.assert_close(ours, exact, atol=1e-4 if offset < 1 else 2e-2, rtol=0)


def whisper(seed: int = 0) -> WhisperModel:
    torch.manual_seed(seed)
    config = WhisperConfig(
        d_model=24, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, decoder_layers=0, vocab_size=8,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    return WhisperModel(config).eval()


@pytest.mark.parametrize("seconds", [0.0, 1.5])
def test_whisper_equals_transformers_from_the_waveform_on(seconds: float) -> None:
    """Log-mel, encoder and own frames against the extractor and model, to 1e-4, with and without the recipe's cut."""
    reference, extractor = whisper(), WhisperFeatureExtractor()
    sound = Sound(trim_db=0, pre_emphasis=0, peak=0, max_seconds=seconds)
    body = graph.build_body(
        whisper(), sound, [0, 1, 2], ["mean", "std"], filters=torch.from_numpy(extractor.mel_filters)
    )
    waves = [speechlike(n, n) for n in (9_000, 40_001, 401)]
    with torch.no_grad():
        found = body(*padded(waves)).reshape(len(waves), 3, 2, -1)
        for wave, ours in zip(waves, found, strict=True):
            wave = audio.cut_to_length(wave, sound)
            mel = extractor(wave, sampling_rate=16_000, return_tensors="pt").input_features
            states = reference.encoder(mel, output_hidden_states=True).hidden_states
            for state, (mean, std) in zip(states, ours, strict=True):
                own = state[0, : -(-len(wave) // 320)]
                torch.testing.assert_close(mean, own.mean(0), atol=1e-4, rtol=0)
                torch.testing.assert_close(std, own.std(0, unbiased=False), atol=1e-4, rtol=0)


def test_a_cropped_whisper_hears_each_clip_alone() -> None:
    """A padded batch against transformers' layers on each clip's own part of the extractor's log-mel, to 1e-4."""
    reference, extractor = whisper().encoder, WhisperFeatureExtractor()
    sound = Sound(trim_db=0, pre_emphasis=0, peak=0, max_seconds=1.5, crop=True)
    body = graph.build_body(whisper(), sound, [0, 1, 2], ["mean"], filters=torch.from_numpy(extractor.mel_filters))
    waves = [speechlike(n, n) for n in (9_000, 40_001, 401, 16_000)]
    with torch.no_grad():
        found = body(*padded(waves)).reshape(len(waves), 3, -1)
        for wave, ours in zip(waves, found, strict=True):
            wave = audio.cut_to_length(wave, sound)
            frames = -(-len(wave) // 320)
            mel = extractor(wave, sampling_rate=16_000, return_tensors="pt").input_features[..., : 2 * frames]
            x = torch.nn.functional.gelu(reference.conv2(torch.nn.functional.gelu(reference.conv1(mel)))).transpose(
                1, 2
            )
            x = x + reference.embed_positions.weight[:frames]
            states = [x, reference.layers[0](x, None)]
            states.append(reference.layer_norm(reference.layers[1](states[1], None)))
            for state, mean in zip(states, ours, strict=True):
                torch.testing.assert_close(mean, state[0].mean(0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [479_990, 480_000, 500_000])
def test_log_mel_at_the_end_of_whispers_window(samples: int) -> None:
    """A clip that fills 30 s is mirrored at the end as the extractor does it; longer ones are cut there. To 1e-4."""
    extractor = WhisperFeatureExtractor()
    frames = graph.WhisperFrames(whisper().encoder, [0], torch.from_numpy(extractor.mel_filters), 0)
    wave = speechlike(samples) + 0.1 * speechlike(samples, 1)[::-1]
    expected = extractor(wave, sampling_rate=16_000, return_tensors="pt").input_features
    torch.testing.assert_close(frames.compute_log_mel(torch.from_numpy(wave.copy())[None]), expected, atol=1e-4, rtol=0)


def test_log_mel_of_real_clips(shared) -> None:
    """On 20 recordings of 16 kHz, cut at 8 s: the extractor's log-mel to 1e-4."""
    extractor = WhisperFeatureExtractor()
    frames = graph.WhisperFrames(whisper().encoder, [0], torch.from_numpy(extractor.mel_filters), 128_000)
    for file in sorted((shared / "data" / "ravdess").rglob("*.flac"))[5::30]:
        wave = audio.read(file)[:128_000]
        expected = extractor(wave, sampling_rate=16_000, return_tensors="pt").input_features
        torch.testing.assert_close(frames.compute_log_mel(torch.from_numpy(wave)[None]), expected, atol=1e-4, rtol=0)
