"""An encoder that has learned nothing: DistilHuBERT's exact geometry, seeded random weights, and a marker that says so.

It takes the place of the real encoder where a demonstration must run without a network. Every table and file made with
it says `weights: random`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from embedkit.audio import RATE
from embedkit.encoders._checkpoint import CONFIG, PREPROCESSOR, RANDOM_MARKER, WEIGHTS


class HubertConfig(TypedDict):
    """config.json of a HuBERT encoder, as far as it shapes the encoder; the meaning is transformers'."""

    architectures: list[str]
    model_type: str
    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    conv_dim: list[int]
    conv_kernel: list[int]
    conv_stride: list[int]
    conv_bias: bool
    feat_extract_norm: str
    feat_extract_activation: str
    feat_proj_layer_norm: bool
    hidden_act: str
    do_stable_layer_norm: bool
    num_conv_pos_embeddings: int
    num_conv_pos_embedding_groups: int
    layer_norm_eps: float
    apply_spec_augment: bool
    mask_time_prob: float
    mask_feature_prob: float


# That of ntu-spml/distilhubert.
DISTILHUBERT: HubertConfig = {
    "architectures": ["HubertModel"],
    "model_type": "hubert",
    "num_hidden_layers": 2,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": False,
    "hidden_act": "gelu",
    "do_stable_layer_norm": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "layer_norm_eps": 1e-05,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}  # fmt: skip

Weights = dict[str, npt.NDArray[np.float32]]


def write_random_distilhubert(folder: Path, seed: int = 0) -> Path:
    """Write one of DistilHuBERT's geometry (2 layers, 768 wide, 23.5 M parameters); see `write_random_hubert`."""
    return write_random_hubert(folder, seed, DISTILHUBERT)


def write_random_hubert(folder: Path, seed: int, config: HubertConfig) -> Path:
    """Write config.json, model.safetensors, preprocessor_config.json and the marker; returns the folder.

    config: with group norm and without stable layer norm, as DISTILHUBERT. The same seed gives the same weights on
    every machine (numpy's PCG64, no torch).
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": RATE,
        "padding_value": 0,
        "do_normalize": False,
        "return_attention_mask": False,
    }
    (folder / PREPROCESSOR).write_text(json.dumps(preprocessor, indent=2) + "\n", encoding="utf-8")
    (folder / RANDOM_MARKER).write_text(f"seeded random weights (seed {seed}): nothing was learned\n", encoding="utf-8")
    weights = _draw_weights(np.random.default_rng(seed), config)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})  # two keys would change places from run to run
    return folder


def _draw_weights(rng: np.random.Generator, config: HubertConfig) -> Weights:
    """He's initialisation where a GELU follows, LeCun's elsewhere: signals keep their size through the stack."""
    width = config["hidden_size"]
    weights: Weights = {}
    inputs = 1
    for i, (outputs, kernel) in enumerate(zip(config["conv_dim"], config["conv_kernel"], strict=True)):
        weights[f"feature_extractor.conv_layers.{i}.conv.weight"] = _draw_normal(
            rng, (outputs, inputs, kernel), 2 / (inputs * kernel)
        )
        inputs = outputs
    weights |= _make_norm("feature_extractor.conv_layers.0.layer_norm", config["conv_dim"][0])
    weights |= _draw_linear(rng, "feature_projection.projection", inputs, width)
    weights |= _draw_positional_convolution(rng, "encoder.pos_conv_embed.conv", config)
    weights |= _make_norm("encoder.layer_norm", width)
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            weights |= _draw_linear(rng, f"{layer}.attention.{part}", width, width)
        weights |= _make_norm(f"{layer}.layer_norm", width)
        weights |= _draw_linear(
            rng, f"{layer}.feed_forward.intermediate_dense", width, config["intermediate_size"], gain=2
        )
        weights |= _draw_linear(rng, f"{layer}.feed_forward.output_dense", config["intermediate_size"], width)
        weights |= _make_norm(f"{layer}.final_layer_norm", width)
    return weights


def _draw_positional_convolution(rng: np.random.Generator, name: str, config: HubertConfig) -> Weights:
    """With weight norm over the kernel's positions (dim 2): weight_v, its norm weight_g at each of them, and a bias."""
    width, kernel = config["hidden_size"], config["num_conv_pos_embeddings"]
    inputs = width // config["num_conv_pos_embedding_groups"]
    v = _draw_normal(rng, (width, inputs, kernel), 4 / (inputs * kernel))
    g = np.sqrt((v.astype(np.float64) ** 2).sum((0, 1), keepdims=True)).astype(np.float32)
    return {f"{name}.weight_v": v, f"{name}.weight_g": g, f"{name}.bias": np.zeros(width, np.float32)}


def _draw_linear(rng: np.random.Generator, name: str, inputs: int, outputs: int, gain: float = 1) -> Weights:
    return {
        f"{name}.weight": _draw_normal(rng, (outputs, inputs), gain / inputs),
        f"{name}.bias": np.zeros(outputs, np.float32),
    }


def _make_norm(name: str, width: int) -> Weights:
    return {f"{name}.weight": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}


def _draw_normal(rng: np.random.Generator, shape: tuple[int, ...], variance: float) -> npt.NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(variance))
