"""The HuBERT family: waveform in. HuBERT, DistilHuBERT, wav2vec 2.0, WavLM and data2vec-audio.

Sources: Hsu et al. 2021 (HuBERT), Chang et al. 2022 (DistilHuBERT), Baevski et al. 2020 and 2022 (wav2vec 2.0,
data2vec), Chen et al. 2022 (WavLM). They differ in training and details of the layers, which transformers knows; the
frame is the same in all: 400 samples (25 ms), one every 320 (20 ms).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.encoders import PREPROCESSOR, Spec, check_length, pooled, pretrained

MODEL_TYPES = ("hubert", "wav2vec2", "wavlm", "data2vec-audio")


def geometry(config: Mapping[str, Any]) -> tuple[int, int]:
    return config["num_hidden_layers"] + 1, config["hidden_size"]


def is_used(key: str) -> bool:
    return "feature_extractor." in key or "feature_projection." in key or "encoder." in key


def load(spec: Spec, precision: str, device: str) -> Hubert:
    return Hubert(spec, precision, device)


class Hubert:
    """One clip at a time through transformers' own forward: nothing is padded, so no clip sees another."""

    def __init__(self, spec: Spec, precision: str, device: str) -> None:
        import torch

        model, self.unexpected = pretrained(spec)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._device = device
        self._model = model.to(device=device, dtype=self._dtype)
        self._shortest = receptive_field(model.config.conv_kernel, model.config.conv_stride)
        preprocessor = json.loads((spec.folder / PREPROCESSOR).read_text(encoding="utf-8"))
        self._do_normalize = preprocessor.get("do_normalize", True)  # transformers' own default

    def pool(self, wave: npt.NDArray[np.float32], *, pad_to: int = 0) -> npt.NDArray[np.float32]:
        """See `embedkit.encoders.Encoder.pool`."""
        import torch

        check_length(wave, self._shortest)
        wave = self._prepared(wave, pad_to)
        with torch.inference_mode():
            signal = torch.from_numpy(wave)[None].to(device=self._device, dtype=self._dtype)
            states = self._model(signal, output_hidden_states=True).hidden_states
            return pooled(torch.cat(states))

    def _prepared(self, wave: npt.NDArray[np.float32], pad_to: int) -> npt.NDArray[np.float32]:
        """The checkpoint's own normalisation, as Wav2Vec2FeatureExtractor does it, then zeros up to pad_to."""
        if self._do_normalize:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + np.float32(1e-7))
        return np.pad(wave, (0, max(0, pad_to - len(wave)))).astype(np.float32, copy=False)


def receptive_field(kernels: list[int], strides: list[int]) -> int:
    """Samples that one frame of a stack of convolutions sees.

    >>> receptive_field([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2])
    400
    """
    return 1 + sum((k - 1) * math.prod(strides[:i]) for i, k in enumerate(kernels))
