"""Small encoders for tests: every part of the architecture, weights that load in milliseconds."""

from __future__ import annotations

from pathlib import Path

from embedkit.encoders import DISTILHUBERT, write_random_hubert

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
