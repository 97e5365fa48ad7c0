"""Whisper's encoder, whose input is a log-mel spectrogram. Source: Radford et al. 2022.

It was trained on 30 s, so a shorter clip is padded with silence to 30 s. Only the clip's own frames (one every 320
samples, 20 ms) are pooled. A recipe can crop (`Sound.crop`): then the encoder is given these frames alone, each at its
own position. That is several times as fast, and gives other features, as there is no silence for attention to look at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt

from embedkit.audio import RATE, Wave
from embedkit.encoders._base import Pooled, Spec, check_length, pool_frames
from embedkit.encoders._checkpoint import load_pretrained

if TYPE_CHECKING:
    import torch

MODEL_TYPES = ("whisper",)


class WhisperConfig(TypedDict):
    """config.json of a Whisper checkpoint, as far as it is read here."""

    encoder_layers: int
    d_model: int


def geometry(config: WhisperConfig) -> tuple[int, int]:
    """(hidden states, dim)."""
    return config["encoder_layers"] + 1, config["d_model"]


def is_used(key: str) -> bool:
    """Whether a weight belongs to the encoder."""
    return "encoder." in key


def load(spec: Spec, precision: str, device: str, crop: bool) -> Whisper:
    """The encoder, ready to pool; see `embedkit.encoders.load`."""
    return Whisper(spec, precision, device, crop)


class Whisper:
    """transformers' own log-mel and encoder, without the decoder. See `embedkit.encoders.Encoder`."""

    def __init__(self, spec: Spec, precision: str, device: str, crop: bool) -> None:
        import torch
        from transformers import WhisperFeatureExtractor

        from embedkit.encoders._arithmetic import choose_arithmetic, round_weights

        model, self.unexpected = load_pretrained(spec)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._dtype = choose_arithmetic(device, dtype)
        round_weights(model.encoder.parameters(), dtype, self._dtype)
        self._device, self._crop = device, crop
        self._encoder = model.encoder.to(device=device, dtype=self._dtype)
        # Dither would add noise that depends on no seed.
        self._log_mel = WhisperFeatureExtractor.from_pretrained(spec.folder, local_files_only=True, dither=0.0)

    def pool(self, wave: Wave, *, pad_to: int = 0) -> Pooled:
        """One clip's mean and standard deviation over its own frames [layer, 2, dim]."""
        return self.pool_many([wave], pad_to=pad_to)[0]

    def pool_many(self, waves: Sequence[Wave], *, pad_to: int = 0) -> list[Pooled]:
        """`pool` of each clip, as one batch; cropped clips one by one."""
        import torch

        for wave in waves:
            check_length(wave, self._log_mel.n_fft, self._log_mel.n_samples)
        frame_counts = [self._count_frames(max(len(wave), pad_to)) for wave in waves]
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            if self._crop:
                return [
                    pool_frames(torch.cat(self._encode_cropped(wave, n)))
                    for wave, n in zip(waves, frame_counts, strict=True)
                ]
            mel = self._log_mel(list(waves), sampling_rate=RATE, return_tensors="pt").input_features
            states = self._encoder(mel.to(self._device, self._dtype), output_hidden_states=True).hidden_states
            return [pool_frames(torch.stack([state[i, :n] for state in states])) for i, n in enumerate(frame_counts)]

    def _encode_cropped(self, wave: Wave, frames: int) -> list[torch.Tensor]:
        """Every hidden state [1, frame, dim] of a clip's first frames alone."""
        from torch.nn.functional import gelu

        # Silence to beyond the last frame: the extractor mirrors what is at the end, which must not be speech.
        padded = np.pad(wave, (0, max(0, 2 * frames * self._hop - len(wave)) + self._log_mel.n_fft))
        mel = self._log_mel(padded, sampling_rate=RATE, padding="longest", return_tensors="pt").input_features
        mel = mel[..., : 2 * frames].to(self._device, self._dtype)
        encoder = self._encoder
        hidden = gelu(encoder.conv2(gelu(encoder.conv1(mel)))).transpose(1, 2)
        states = [hidden + encoder.embed_positions.weight[:frames]]
        for layer in encoder.layers:
            states.append(layer(states[-1], None))
        states[-1] = encoder.layer_norm(states[-1])
        return states

    @property
    def _hop(self) -> int:
        return int(self._log_mel.hop_length)

    def _count_frames(self, samples: int) -> int:
        """How many frames a clip reaches: the log-mel hops by 160 samples, the second convolution strides by 2."""
        return math.ceil(min(samples, int(self._log_mel.n_samples)) / (2 * self._hop))

    @property
    def mel_filters(self) -> npt.NDArray[np.float64]:
        """The mel filters [frequency, mel], for a graph that computes the log-mel itself."""
        filters: npt.NDArray[np.float64] = self._log_mel.mel_filters
        return filters
