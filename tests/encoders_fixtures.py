"""Small encoders for tests: every part of the architecture, weights that load in milliseconds.

make_<model_type>(folder) writes a checkpoint of each `model_type` that a family reads; tests/encoders/test_contract.py
finds it by its name. torch is imported where it is needed, as tests of the command line do without.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embedkit.encoders import DISTILHUBERT, write_random_hubert

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TINY = {
    **DISTILHUBERT,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def tiny_hubert(folder: Path, seed: int = 0) -> Path:
    """DistilHuBERT's architecture (400 samples a frame, 2 layers), 32 wide, random weights. Returns the folder."""
    return write_random_hubert(folder, seed, TINY)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


# ---------------------------------------------------------------- checkpoints as transformers saves them


def find_maker(model_type: str) -> Callable[[Path], Path]:
    """This module's make_<model_type>; the test fails with what to write where there is none."""
    function = f"make_{model_type.replace('-', '_')}"
    if function not in globals():
        pytest.fail(
            f"no tiny checkpoint of model_type '{model_type}': write {function}(folder) in tests/encoders_fixtures.py,"
            " which saves a random model of it and its feature extractor there and returns the folder",
            pytrace=False,
        )
    maker: Callable[[Path], Path] = globals()[function]
    return maker


def make_hubert(folder: Path) -> Path:
    return family(folder, "hubert")


def make_wav2vec2(folder: Path) -> Path:
    return family(folder, "wav2vec2")


def make_wavlm(folder: Path) -> Path:
    return family(folder, "wavlm")


def make_data2vec_audio(folder: Path) -> Path:
    return family(folder, "data2vec-audio")


def make_whisper(folder: Path) -> Path:
    """Two layers, 32 wide, on the log-mel of 30 s; the decoder is there, as in a checkpoint from the hub."""
    import transformers

    config = transformers.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        vocab_size=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    save_random_model(config, folder)
    transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)
    return folder


def family(folder: Path, kind: str) -> Path:
    """A tiny checkpoint of one of the HuBERT family's members, as transformers itself saves it."""
    import transformers

    geometry = {k: v for k, v in TINY.items() if k not in ("model_type", "architectures")}
    large = {
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
        "feat_proj_layer_norm": True,
    }
    config, normalize = {
        "hubert": (transformers.HubertConfig(**geometry), False),
        "hubert-large": (transformers.HubertConfig(**{**geometry, **large}), True),
        "wav2vec2": (transformers.Wav2Vec2Config(**geometry), True),
        "wavlm": (transformers.WavLMConfig(**geometry), False),
        "wavlm-large": (transformers.WavLMConfig(**{**geometry, **large}), True),
        "data2vec-audio": (
            transformers.Data2VecAudioConfig(**{**geometry, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}),
            True,
        ),
    }[kind]
    save_random_model(config, folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(folder)
    return folder


def save_random_model(config: PretrainedConfig, folder: Path) -> None:
    """transformers' own model with weights from its own initialisation, seed 0: config.json and model.safetensors."""
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)


# ---------------------------------------------------------------- what transformers makes of them


@functools.lru_cache(maxsize=2)
def original(folder: Path) -> tuple[Any, Any]:
    """transformers' own feature extractor and model of a checkpoint."""
    import torch
    import transformers

    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    return extractor, transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def plain(folder: Path, wave: np.ndarray, **extract: Any) -> np.ndarray:
    """What a user of transformers would write: [layer, frame, dim] of one clip, all frames."""
    import torch

    extractor, model = original(folder)
    inputs = extractor(wave, sampling_rate=16_000, return_tensors="pt", **extract)
    encoder = model.encoder if model.config.is_encoder_decoder else model
    with torch.no_grad():
        output = encoder(inputs[model.main_input_name], output_hidden_states=True)
    return np.stack([h[0].numpy() for h in output.hidden_states])


def own_frames(folder: Path, wave: np.ndarray) -> np.ndarray:
    """`plain` without the frames that an extractor of a fixed window (Whisper: 30 s) adds after the clip's end."""
    states = plain(folder, wave)
    window = getattr(original(folder)[0], "n_samples", len(wave))
    return states[:, : math.ceil(len(wave) * states.shape[1] / window)]


def pooled(states: np.ndarray) -> np.ndarray:
    """[layer, frame, dim] to [layer, 2, dim]: mean and standard deviation over the frames, in float64."""
    states = states.astype(np.float64)
    return np.stack([states.mean(1), states.std(1)], axis=1)
