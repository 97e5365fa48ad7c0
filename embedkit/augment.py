"""Augmented views: gain, noise, pitch, polarity, each applied with the recipe's probability. Samples are not clipped.

A view's seed is a digest of the recipe's sound and augmentation, the utterance's id and the view's number. So a view
depends neither on the order of utterances, nor on the number of jobs, nor on the machine.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from embedkit.audio import RATE, Wave

if TYPE_CHECKING:
    from audiomentations import Compose
    from audiomentations.core.transforms_interface import BaseWaveformTransform

    from embedkit.cards import Augment, Recipe

_generator_lock = threading.Lock()  # of the two global generators, from which audiomentations draws


def make_views(prepared: Wave, recipe: Recipe, utterance_id: str, count: int) -> list[Wave]:
    """Views 1..count of a prepared waveform, float32 [samples] each, all as long as it is (they are cut afterwards).

    The global generators of `random` and `numpy.random` stay as they were.
    """
    transform = _build_transform(recipe.augment)
    result = []
    for number in range(1, count + 1):
        with _seed_generators(derive_seed(recipe, utterance_id, number)):
            view = transform(prepared.copy(), sample_rate=RATE)
        result.append(np.ascontiguousarray(view, np.float32))
    return result


def derive_seed(recipe: Recipe, utterance_id: str, view: int) -> int:
    """32 bits from everything that shapes a view, and from nothing else (not the recipe's name, not its encoder)."""
    sound = recipe.sound.model_dump(exclude={"crop"})  # which concerns the encoder, not the view
    text = json.dumps([sound, recipe.augment.model_dump(), utterance_id, view], sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def _build_transform(augment: Augment) -> Compose:
    """The recipe's steps, in the order of its keys; a range of (0, 0) leaves a step out."""
    from audiomentations import AddGaussianNoise, Compose, Gain, PitchShift, PolarityInversion

    steps: list[BaseWaveformTransform] = []
    if augment.gain_db != (0, 0):
        low, high = augment.gain_db
        steps.append(Gain(min_gain_db=low, max_gain_db=high, p=augment.p))
    if augment.noise != (0, 0):
        low, high = augment.noise
        low = max(low, 1e-9)  # audiomentations refuses 0
        steps.append(AddGaussianNoise(min_amplitude=low, max_amplitude=high, p=augment.p))
    if augment.semitones != (0, 0):
        low, high = augment.semitones
        steps.append(PitchShift(min_semitones=low, max_semitones=high, p=augment.p))
    if augment.polarity:
        steps.append(PolarityInversion(p=augment.p))
    return Compose(steps)


@contextmanager
def _seed_generators(value: int) -> Iterator[None]:
    """Both global generators seeded; afterwards they are as they were."""
    with _generator_lock:
        python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what audiomentations draws from)
        random.seed(value)
        np.random.seed(value)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
