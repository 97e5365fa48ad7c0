"""What an encoder is, what a family of encoders offers, and how hidden states are pooled.

A family is one module (or package) of this folder: being in the folder is the registration. It has the names of
`Family`, and what its `load` returns is an `Encoder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from embedkit.audio import RATE, Wave
from embedkit.errors import ClipError

if TYPE_CHECKING:
    import torch

STATS = ("mean", "std")  # of each hidden state over the frames, in the order in which they are stored

Pooled = npt.NDArray[np.float32]  # [layer, stat, dim], layer 0 the input to the first layer


@dataclass(frozen=True)
class Spec:
    """What is known of an encoder before torch is imported; part of a cache's identity."""

    id: str  # the hub id, the folder's name, or "folder/file" of an exported file
    folder: Path  # which has config.json and the weights on this machine; of an exported encoder its file
    revision: str  # the snapshot's commit, "" for a folder
    weights_digest: str  # SHA-256 over the safetensors files, or over an exported file's encoder
    random: bool  # whether the weights are random: nothing was learned (the encoder of the demo)
    family: str  # the module of this folder that reads it: "hubert", "whisper" or "exported"
    layers: int  # hidden states, the input to the first layer included
    dim: int  # of a hidden state
    parameters: int  # of the encoder alone, without a decoder or what only pretraining uses

    @property
    def slug(self) -> str:
        """The name of its folder under cache/<recipe>/, e.g. "ntu-spml--distilhubert"."""
        return self.id.replace("/", "--")


class Encoder(Protocol):
    """A loaded encoder. Deterministic: the same clip gives the same bits, whatever was pooled before."""

    unexpected: tuple[str, ...]  # weights of the checkpoint that the encoder does not use (pretraining's)

    def pool(self, wave: Wave, *, pad_to: int = 0) -> Pooled:
        """Mean and standard deviation (ddof 0) over the clip's own frames of every hidden state.

        wave: float32 [samples], 16 kHz, prepared. pad_to: where a recipe pads (`Sound.pad`), zeros are appended up to
        so many samples, and all frames are pooled. Returns [layer, 2, dim] float32. Raises ClipError where the clip is
        shorter than one frame or longer than the encoder's window.
        """
        ...

    def pool_many(self, waves: Sequence[Wave], *, pad_to: int = 0) -> list[Pooled]:
        """`pool` of several clips as one batch, for a GPU: each within 1e-5 of `pool` in fp32, whatever the others are.

        The clips are padded to the longest, and masked, so clips of similar length cost least. On a CPU this is no
        faster than `pool`.
        """
        ...


class Family(Protocol):
    """What a module of this folder offers. It imports torch inside its functions, so that a listing stays light.

    Export is not among it: `stitch-export` needs a torch module for the family's forward pass in `export/graph.py`, as
    there is for the families hubert and whisper (`export/reference.py` chooses it, `export/parts.py` lists them).
    Without one a family serves `extract` and `study`, and an export says that it cannot be exported.
    """

    MODEL_TYPES: tuple[str, ...]  # the values of `model_type` in config.json that it reads

    def geometry(self, config: Mapping[str, object]) -> tuple[int, int]:
        """(hidden states, dim), read from config.json: `Spec.layers` and `Spec.dim`."""
        ...

    def is_used(self, key: str) -> bool:
        """Whether a weight of the checkpoint, by its name, belongs to the encoder and counts in `Spec.parameters`."""
        ...

    def load(self, spec: Spec, precision: str, device: str, crop: bool) -> Encoder:
        """The encoder, ready to pool.

        precision: "fp32" or "bf16" (of weights and activations; pooling is in float64). device: "cpu" or "cuda". crop:
        the recipe's `Sound.crop`, that the encoder shall see the clip alone; for an encoder with a fixed window (as
        Whisper's), others ignore it. Raises EncoderError where the weights do not fit the config.
        """
        ...


def check_length(wave: Wave, shortest: int, longest: int | None = None) -> None:
    """Raise ClipError where a clip has fewer than `shortest` or more than `longest` samples."""
    if len(wave) < shortest:
        raise ClipError(
            f"{len(wave)} samples ({len(wave) / RATE:.4f} s): shorter than one frame of the encoder ({shortest})"
        )
    if longest is not None and len(wave) > longest:
        raise ClipError(f"{len(wave) / RATE:.1f} s: longer than the encoder's window of {longest / RATE:.0f} s")


def pool_frames(states: torch.Tensor) -> Pooled:
    """[layer, frame, dim] to [layer, 2, dim] float32: mean and standard deviation (ddof 0), summed in float64."""
    import torch

    # Layer by layer on a CPU: one fits into its cache.
    parts = torch.split(states, 1) if states.device.type == "cpu" else [states]
    features: Pooled = torch.cat([_mean_and_std(part) for part in parts]).float().cpu().numpy()
    # A copy in numpy's own memory: torch's aligned blocks, kept among large ones that come and go, fragment the heap
    # (measured: memory grows by 5 MB more for each clip whose features the caller keeps).
    return features.copy()


def _mean_and_std(states: torch.Tensor) -> torch.Tensor:
    """[layer, frame, dim] to [layer, 2, dim] float64. With squares in place: torch.std takes three times as long."""
    import torch

    frames = states.to(torch.float64, copy=True)
    mean = frames.mean(1, keepdim=True)
    return torch.cat((mean, frames.sub_(mean).square_().mean(1, keepdim=True).sqrt_()), dim=1)
