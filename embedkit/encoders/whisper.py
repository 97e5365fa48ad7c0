"""Whisper's encoder: log-mel in. Source: Radford et al. 2022.

It always hears 30 s; what is shorter is padded with silence. Only the clip's own frames (one every 320 samples, 20 ms)
are pooled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.encoders import RATE, Spec, check_length, pooled, pretrained

MODEL_TYPES = ("whisper",)


def geometry(config: Mapping[str, Any]) -> tuple[int, int]:
    return config["encoder_layers"] + 1, config["d_model"]


def is_used(key: str) -> bool:
    return "encoder." in key


def load(spec: Spec, precision: str, device: str) -> Whisper:
    return Whisper(spec, precision, device)


class Whisper:
    """transformers' own log-mel and encoder; the decoder is let go. See `embedkit.encoders.Encoder`."""

    def __init__(self, spec: Spec, precision: str, device: str) -> None:
        import torch
        from transformers import WhisperFeatureExtractor

        model, self.unexpected = pretrained(spec)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._device = device
        self._encoder = model.encoder.to(device=device, dtype=self._dtype)
        # Dither would add noise that no seed governs.
        self._log_mel: Any = WhisperFeatureExtractor.from_pretrained(spec.folder, local_files_only=True, dither=0.0)

    def pool(self, wave: npt.NDArray[np.float32], *, pad_to: int = 0) -> npt.NDArray[np.float32]:
        return self.pool_many([wave], pad_to=pad_to)[0]

    def pool_many(self, waves: Sequence[npt.NDArray[np.float32]], *, pad_to: int = 0) -> list[npt.NDArray[np.float32]]:
        import torch

        for wave in waves:
            check_length(wave, self._log_mel.n_fft, self._log_mel.n_samples)
        mel = self._log_mel(list(waves), sampling_rate=RATE, return_tensors="pt").input_features
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            states = self._encoder(mel.to(self._device, self._dtype), output_hidden_states=True).hidden_states
            own = [self._frames(max(len(wave), pad_to)) for wave in waves]
            return [pooled(torch.stack([state[i, :n] for state in states])) for i, n in enumerate(own)]

    def _frames(self, samples: int) -> int:
        """Frames that hear any of the clip: the log-mel hops by 160 samples, the second convolution strides by 2."""
        longest, hop = int(self._log_mel.n_samples), int(self._log_mel.hop_length)
        return math.ceil(min(samples, longest) / (2 * hop))

    @property
    def mel_filters(self) -> npt.NDArray[np.float64]:
        """[frequency, mel], for a graph that makes the log-mel itself."""
        filters: npt.NDArray[np.float64] = self._log_mel.mel_filters
        return filters
