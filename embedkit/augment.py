"""Augmented views: gain, noise, pitch, polarity, each taken with the recipe's probability and never clipped.

A view's seed is a digest of the recipe's sound and augmentation, the utterance's id and the view's number, so it is
the same view whatever the order, the number of jobs or the machine.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.audio import RATE, Wave

if TYPE_CHECKING:
    from embedkit.cards import Augment, Recipe

_generator_lock = threading.Lock()  # audiomentations draws from the two global generators


def make_views(prepared: Wave, recipe: Recipe, utterance_id: str, count: int) -> list[Wave]:
    """Views 1..count of a prepared waveform, float32 [samples] each, as long as it is (to be cut afterwards).

    The caller's `random` and `numpy.random` stay as they were.
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
    sound = recipe.sound.model_dump(exclude={"crop"})  # is the encoder's
    text = json.dumps([sound, recipe.augment.model_dump(), utterance_id, view], sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def _build_transform(augment: Augment) -> Any:
    """The recipe's steps in the contract's order; a range of (0, 0) leaves its step out."""
    from audiomentations import AddGaussianNoise, Compose, Gain, PitchShift, PolarityInversion

    steps: list[Any] = []
    if augment.gain_db != (0, 0):
        low, high = augment.gain_db
        steps.append(Gain(min_gain_db=low, max_gain_db=high, p=augment.p))
    if augment.noise != (0, 0):
        low, high = augment.noise
        steps.append(AddGaussianNoise(min_amplitude=max(low, 1e-9), max_amplitude=high, p=augment.p))  # 0 is refused
    if augment.semitones != (0, 0):
        low, high = augment.semitones
        steps.append(PitchShift(min_semitones=low, max_semitones=high, p=augment.p))
    if augment.polarity:
        steps.append(PolarityInversion(p=augment.p))
    return Compose(steps)


@contextmanager
def _seed_generators(value: int) -> Iterator[None]:
    """Seed both global generators, and put them back as they were."""
    with _generator_lock:
        python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what audiomentations draws from)
        random.seed(value)
        np.random.seed(value)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
