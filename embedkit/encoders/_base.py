"""What an encoder is, and pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from embedkit.audio import RATE
from embedkit.errors import ClipError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Spec:
    """What is known of an encoder before torch is imported; part of a cache's identity."""

    id: str  # the hub id, the folder's name, or "folder/file" of an exported file
    folder: Path  # where config.json and the weights lie on this machine; of an exported one the file
    revision: str  # the snapshot's commit, "" for a folder
    weights_digest: str  # SHA-256 over the safetensors files, or over an exported file's encoder
    random: bool  # weights: random (the demo's stand-in)
    family: str  # the module of this folder that reads it: "hubert", "whisper" or "exported"
    layers: int  # hidden states, the input to the first layer included
    dim: int
    parameters: int

    @property
    def slug(self) -> str:
        """Its name as a folder under cache/<recipe>/, e.g. "ntu-spml--distilhubert"."""
        return self.id.replace("/", "--")


class Encoder(Protocol):
    """A loaded encoder. Deterministic: the same clip gives the same bits, whatever came before."""

    unexpected: tuple[str, ...]  # weights of the checkpoint that the encoder has no use for (pretraining's)

    def pool(self, wave: npt.NDArray[np.float32], *, pad_to: int = 0) -> npt.NDArray[np.float32]:
        """Mean and standard deviation (ddof 0) over the clip's own frames of every hidden state.

        wave: float32 [samples], 16 kHz, prepared. pad_to: zeros are appended up to so many samples, and then all
        frames are pooled (recipe `paper` only). Returns [layer, 2, dim] float32. Raises ClipError where the clip is
        shorter than one frame or longer than the encoder's window.
        """
        ...

    def pool_many(self, waves: Sequence[npt.NDArray[np.float32]], *, pad_to: int = 0) -> list[npt.NDArray[np.float32]]:
        """`pool` of several clips as one batch, for a GPU: each within 1e-5 of `pool` in fp32, whatever is beside it.

        Clips of similar length waste least: all are padded to the longest, and masked. On a CPU it brings nothing.
        """
        ...


class Family(Protocol):
    """What a module of this folder offers. It imports torch inside its functions, so that a listing stays light."""

    MODEL_TYPES: tuple[str, ...]  # the `model_type`s of config.json that it reads

    def geometry(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """(hidden states, dim) by config.json."""
        ...

    def is_used(self, key: str) -> bool:
        """Whether a weight of the checkpoint belongs to the encoder, for counting its parameters."""
        ...

    def load(self, spec: Spec, precision: str, device: str, crop: bool) -> Encoder: ...


def check_length(wave: npt.NDArray[np.float32], shortest: int, longest: int | None = None) -> None:
    """Raises ClipError where a clip has too few or too many samples for the encoder."""
    if len(wave) < shortest:
        raise ClipError(
            f"{len(wave)} samples ({len(wave) / RATE:.4f} s): shorter than one frame of the encoder ({shortest})"
        )
    if longest is not None and len(wave) > longest:
        raise ClipError(f"{len(wave) / RATE:.1f} s: longer than the encoder's window of {longest / RATE:.0f} s")


def pool_frames(states: torch.Tensor) -> npt.NDArray[np.float32]:
    """[layer, frame, dim] to [layer, 2, dim] float32: mean and standard deviation (ddof 0), summed in float64."""
    import torch

    # A CPU takes layer by layer: one stays in its cache.
    parts = torch.split(states, 1) if states.device.type == "cpu" else [states]
    features: npt.NDArray[np.float32] = torch.cat([_mean_and_std(part) for part in parts]).float().cpu().numpy()
    # A copy in numpy's own memory: torch's aligned blocks, kept among large ones that come and go, fragment the heap
    # (measured: 5 MB more a clip with what the caller keeps).
    return features.copy()


def _mean_and_std(states: torch.Tensor) -> torch.Tensor:
    """[layer, frame, dim] to [layer, 2, dim] float64. In place: torch.std takes three times as long."""
    import torch

    frames = states.to(torch.float64, copy=True)
    mean = frames.mean(1, keepdim=True)
    return torch.cat((mean, frames.sub_(mean).square_().mean(1, keepdim=True).sqrt_()), dim=1)


STATS = ("mean", "std")
