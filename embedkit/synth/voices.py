"""Voices, and how an emotion changes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Speaker:
    """A voice without emotion."""

    gender: str  # "female" or "male"
    f0: float  # Hz
    tract: float  # formant frequencies relative to an average man's
    range: float = 1.0  # size of F0 movements; 1: declination of 3 and accents of 1 to 3.5 semitones
    rate: float = 1.0  # 1: about 4.5 syllables a second
    tilt: float = 9.0  # attenuation of the source at 3 kHz (dB)
    open_quotient: float = 0.6  # share of the period in which the glottis is open
    breath: float = -32.0  # aspiration noise against voicing (dB)
    jitter: float = 0.008  # sd of the period, relative
    level: float = -30.0  # RMS (dB re full scale)
    expression: float = 1.0  # how far emotions move this voice

    @classmethod
    def draw(cls, gender: str, rng: np.random.Generator) -> Speaker:
        """An adult's voice at random, F0 about 120 Hz for men and 205 Hz for women. gender: "female" or "male"."""
        female = gender == "female"
        return cls(
            gender=gender,
            f0=(205.0 if female else 120.0) * 2 ** (rng.normal(0, 2.2) / 12),
            tract=(1.16 if female else 1.0) * rng.uniform(0.94, 1.06),
            range=float(np.exp(rng.normal(0, 0.25))),
            rate=float(np.exp(rng.normal(0, 0.12))),
            tilt=float(rng.normal(11 if female else 9, 2.5)),
            open_quotient=float(np.clip(rng.normal(0.65 if female else 0.58, 0.05), 0.45, 0.8)),
            breath=float(rng.normal(-29 if female else -33, 4)),
            jitter=float(rng.uniform(0.004, 0.014)),
            level=float(rng.normal(-30, 3)),
            expression=float(np.clip(rng.normal(1, 0.25), 0.5, 1.5)),
        )


class Style(NamedTuple):
    """What an emotion adds to a voice at full strength. The defaults are those of neutral speech."""

    f0: float = 0.0  # semitones
    range: float = 0.0  # log2 of the factor on F0 movements
    level: float = 0.0  # dB
    rate: float = 0.0  # log2 of the factor
    open_quotient: float = 0.0
    tilt: float = 0.0  # dB at 3 kHz; negative: brighter
    jitter: float = 0.0  # log2 of the factor
    breath: float = 0.0  # dB
    pauses: float = 0.0  # log2 of the factor on their length
    final: float = -3.0  # the phrase's last F0 movement (semitones)
    formants: float = 0.0  # log2 of the factor: a smile spreads the lips


STYLES = {  # values in the order of Style's fields
    "neutral": Style(),
    "anger": Style(3.0, 0.6, 8, 0.18, -0.13, -8, 0.9, -5, -0.4, -5, 0.03),
    "happiness": Style(5.0, 0.9, 4, 0.12, 0.0, -2, 0.0, 0, -0.3, 1, 0.09),
    "excitement": Style(6.5, 1.1, 6, 0.22, -0.03, -3, 0.2, 0, -0.5, 2, 0.09),
    "sadness": Style(-2.0, -1.0, -6, -0.32, 0.10, 6, 0.5, 8, 0.9, -2, -0.05),
    "frustration": Style(1.5, 0.2, 4, -0.05, -0.08, -4, 0.5, -2, 0.2, -4, 0.0),
    "surprise": Style(6.0, 1.1, 3, 0.10, 0.00, -2, 0.0, 2, 0.0, 5, 0.0),
}
# What chance adds to a turn (sd), whatever the emotion. With the speakers' differences it makes emotions overlap.
SCATTER = Style(1.1, 0.25, 2.5, 0.10, 0.03, 2.0, 0.4, 2.5, 0.3, 1.5, 0.015)


def draw_style(emotion: str, speaker: Speaker, rng: np.random.Generator) -> Style:
    """One turn's style: the emotion, more or less strongly, and chance. emotion: a key of STYLES."""
    strength = float(np.clip(rng.normal(1.0, 0.3), 0.1, 1.5)) * speaker.expression
    target, rest, chance = np.array(STYLES[emotion]), np.array(STYLES["neutral"]), np.array(SCATTER)
    return Style(*(rest + strength * (target - rest) + chance * rng.standard_normal(len(chance))))
