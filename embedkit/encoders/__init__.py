"""Encoders: one module a family, found by the `model_type` of the checkpoint's config.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Spec:
    """What is known of an encoder before torch is imported; part of a cache's identity."""

    id: str  # the hub id, or the folder's name
    folder: Path  # where config.json and the weights lie on this machine
    revision: str  # the snapshot's commit, "" for a folder
    weights_digest: str  # SHA-256 over the safetensors files
    random: bool  # weights: random (the demo's stand-in)
    family: str  # the module of this folder that reads it: "hubert" or "whisper"
    layers: int  # hidden states, the input to the first layer included
    dim: int
    parameters: int

    @property
    def slug(self) -> str:
        """Its name as a folder under cache/<recipe>/, e.g. "ntu-spml--distilhubert"."""
        return self.id.replace("/", "--")


class Encoder(Protocol):
    """A loaded encoder. Deterministic: the same clip gives the same bits, whatever came before."""

    def pool(self, wave: npt.NDArray[np.float32], *, pad_to: int = 0) -> npt.NDArray[np.float32]:
        """Mean and standard deviation (ddof 0) over the clip's own frames of every hidden state.

        wave: float32 [samples], 16 kHz, prepared. pad_to: zeros are appended up to so many samples, and then all
        frames are pooled (recipe `paper` only). Returns [layer, 2, dim] float32. Raises ClipError where the clip is
        shorter than one frame or longer than the encoder's window.
        """
        ...
