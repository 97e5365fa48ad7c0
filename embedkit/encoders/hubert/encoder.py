"""The HuBERT family as an encoder: clips are normalised, batched and masked, and their own frames are pooled."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from embedkit.audio import Wave
from embedkit.encoders._base import Pooled, Spec, check_length, pool_frames
from embedkit.encoders._checkpoint import PREPROCESSOR, load_pretrained
from embedkit.encoders.hubert.frames import FRAME_MULTIPLE, count_samples, round_up

MODEL_TYPES = ("hubert", "wav2vec2", "wavlm", "data2vec-audio")


class FamilyConfig(TypedDict):
    """config.json of a checkpoint of this family, as far as it is read here."""

    num_hidden_layers: int
    hidden_size: int


def geometry(config: FamilyConfig) -> tuple[int, int]:
    """(hidden states, dim)."""
    return config["num_hidden_layers"] + 1, config["hidden_size"]


def is_used(key: str) -> bool:
    """Whether a weight belongs to the encoder."""
    return "feature_extractor." in key or "feature_projection." in key or "encoder." in key


def load(spec: Spec, precision: str, device: str, _: bool) -> Hubert:
    """The encoder, ready to pool; see `embedkit.encoders.load`. It has no fixed window that could be cropped."""
    return Hubert(spec, precision, device)


class Hubert:
    """transformers' model with faster convolutions (`forward.py`). See `embedkit.encoders.Encoder`.

    bf16 is fp32 with the weights rounded to bf16 on a processor that does not multiply in it (`choose_arithmetic`). So
    its features differ in their last digits between kinds of processors: each is within a cosine of 0.9999 of fp32's.
    """

    def __init__(self, spec: Spec, precision: str, device: str) -> None:
        import torch

        from embedkit.encoders.hubert.forward import optimise_model

        # WavLM gives torch a boolean mask and a float bias; that is right, but torch warns of it.
        warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask and attn_mask")
        model, self.unexpected = load_pretrained(spec)
        config = model.config
        # Where there are norms between positional convolutions, no mask can keep the padding out of a clip.
        self._maskable = hasattr(model.encoder.pos_conv_embed, "conv") and not getattr(
            config, "conv_pos_batch_norm", False
        )
        self._kernels, self._strides = list(config.conv_kernel), list(config.conv_stride)
        self._shortest = count_samples(1, self._kernels, self._strides)
        self._device = device
        self._model = optimise_model(model, device, torch.bfloat16 if precision == "bf16" else torch.float32)
        preprocessor = json.loads((spec.folder / PREPROCESSOR).read_text(encoding="utf-8"))
        self._do_normalize = preprocessor.get("do_normalize", True)  # transformers' own default

    def pool(self, wave: Wave, *, pad_to: int = 0) -> Pooled:
        """One clip's mean and standard deviation over its own frames [layer, 2, dim]."""
        return self.pool_many([wave], pad_to=pad_to)[0]

    def pool_many(self, waves: Sequence[Wave], *, pad_to: int = 0) -> list[Pooled]:
        """`pool` of each clip, as one batch; one by one where padding cannot be masked."""
        for wave in waves:
            check_length(wave, self._shortest)
        waves = [self._prepare_wave(wave, pad_to) for wave in waves]
        if self._maskable:
            return self._pool_batch(waves)
        return [self._pool_batch([wave])[0] for wave in waves]

    def _pool_batch(self, waves: Sequence[Wave]) -> list[Pooled]:
        import torch

        frame_counts = [self._count_frames(len(wave)) for wave in waves]
        lengths = torch.tensor([len(wave) for wave in waves])
        batch = max(len(wave) for wave in waves)
        if self._maskable:
            batch = max(batch, count_samples(round_up(max(frame_counts), FRAME_MULTIPLE), self._kernels, self._strides))
        mask = (torch.arange(batch) < lengths[:, None]).long() if self._maskable else None
        signal = torch.from_numpy(np.stack([np.pad(wave, (0, batch - len(wave))) for wave in waves]))
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            self._model.feature_extractor.lengths = lengths.to(self._device)
            self._model.feature_extractor.frames = round_up_frames(max(frame_counts)) if self._maskable else 0
            states = self._model(
                signal.to(self._device),
                attention_mask=None if mask is None else mask.to(self._device),
                output_hidden_states=True,
            ).hidden_states
            return [pool_frames(torch.stack([state[i, :n] for state in states])) for i, n in enumerate(frame_counts)]

    def _prepare_wave(self, wave: Wave, pad_to: int) -> Wave:
        """The checkpoint's own normalisation, as Wav2Vec2FeatureExtractor does it, then zeros up to pad_to."""
        if self._do_normalize:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + np.float32(1e-7))
        return np.pad(wave, (0, max(0, pad_to - len(wave)))).astype(np.float32, copy=False)

    def _count_frames(self, length: int) -> int:
        for kernel, stride in zip(self._kernels, self._strides, strict=True):
            length = (length - kernel) // stride + 1
        return length


def round_up_frames(frames: int) -> int:
    """The next multiple of 16; beyond 512 frames, of an eighth of the power of two below. So there are few shapes, each
    of which costs 4 MB and 50 ms.

    >>> [round_up_frames(frames) for frames in (1, 200, 512, 513, 1_025)]
    [16, 208, 512, 576, 1152]
    """
    return round_up(frames, 16 if frames <= 512 else 1 << (frames - 1).bit_length() - 4)
