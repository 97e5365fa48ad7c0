"""Recipes, cache/*.toml: how a corpus becomes features."""

from __future__ import annotations

from typing import Literal, Self

# pydantic: checks types and ranges of a card and shows the offending value.
from pydantic import Field, model_validator

from embedkit.cards._reading import Card


class Sound(Card):
    """What is done to a clip, in this order, after it has been decoded to 16 kHz mono. 0 leaves a step out."""

    trim_db: float = Field(20.0, ge=0)  # cut both ends where they are so far (dB) below the loudest frame
    pre_emphasis: float = Field(0.97, ge=0, lt=1)  # y[t] = x[t] - a x[t-1]
    peak: float = Field(0.95, ge=0, le=1)  # scale so that the largest |sample| is this
    max_seconds: float = Field(8.0, ge=0)  # cut what is longer (s), after augmentation
    pad: bool = False  # append zeros up to max_seconds and pool over all frames (the paper's way)
    crop: bool = False  # Whisper is given the clip alone, not padded with silence to 30 s as it was trained

    @model_validator(mode="after")
    def _check_pad_length(self) -> Self:
        if self.pad and not self.max_seconds:
            raise ValueError("pad = true needs max_seconds > 0")
        return self


class Augment(Card):
    """The augmented views: each step is taken with probability p, and its size is drawn uniformly from its range."""

    gain_db: tuple[float, float] = (-18.0, 6.0)  # dB
    noise: tuple[float, float] = (0.001, 0.015)  # amplitude (sd) of Gaussian noise, full scale = 1
    semitones: tuple[float, float] = (-2.0, 2.0)  # pitch shift
    polarity: bool = True  # inversion
    p: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for key, least, most in (("gain_db", -200, 200), ("noise", 0, 1), ("semitones", -24, 24)):
            low, high = getattr(self, key)
            if not least <= low <= high <= most:
                raise ValueError(f"{key}: {least} <= low <= high <= {most} must hold, but got ({low:g}, {high:g})")
        return self


class Recipe(Card):
    """How a corpus becomes features. Everything here but name and summary is part of the identity of a cache."""

    name: str = ""
    summary: str = ""
    encoder: str = "ntu-spml/distilhubert"  # the default: a hub id or a folder
    precision: Literal["fp32", "bf16"] = "fp32"
    views: int = Field(4, ge=0, le=64)  # augmented views beside the clean one
    sound: Sound = Sound()
    augment: Augment = Augment()
