"""One clip: its views, prepared and encoded, or the reason why it cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedkit import audio, augment, encoders
from embedkit.audio import Wave
from embedkit.cards import Recipe
from embedkit.corpora import Utterance, read_sound
from embedkit.errors import ClipError


@dataclass(frozen=True)
class Task:
    """A row to be encoded."""

    row: int
    utterance: Utterance

    def __str__(self) -> str:
        return self.utterance.id


@dataclass
class Clip:
    """The clip of a task: its waves, later its features, or the reason why it cannot be used."""

    row: int
    seconds: float = float("nan")  # as decoded
    digest: str = ""  # of the decoded samples
    waves: list[Wave] = field(default_factory=list)  # by view
    features: npt.NDArray[np.float16] | None = None  # [view, layer, stat, dim]
    reason: str = ""


@dataclass(frozen=True)
class ClipLoader:
    """Loads the views of a clip, prepared and cut as the recipe says, ready to be encoded."""

    folder: Path  # what the file of an utterance is relative to
    recipe: Recipe
    views: int  # augmented ones beside the clean one

    def __call__(self, task: Task) -> Clip:
        """The clip with its waves; what cannot be used has a reason instead."""
        clip = Clip(task.row)
        try:
            wave = read_sound(self.folder, task.utterance)
            clip.seconds, clip.digest = len(wave) / audio.RATE, audio.digest(wave)
            prepared = audio.prepare(wave, self.recipe.sound)
            views = augment.make_views(prepared, self.recipe, task.utterance.id, self.views) if self.views else []
            clip.waves = [audio.cut_to_length(view, self.recipe.sound) for view in (prepared, *views)]
        except ClipError as error:
            clip.reason = str(error)
        return clip

    @property
    def pad_to(self) -> int:
        """The length (samples) to which the encoder pads each wave; 0: it does not."""
        return audio.padded_length(self.recipe.sound)


class ClipEncoder:
    """Loads a clip and encodes it on a CPU. The encoder is loaded when the first clip with sound comes."""

    def __init__(self, loader: ClipLoader, spec: encoders.Spec) -> None:
        self.loader, self.spec = loader, spec
        self._encoder: encoders.Encoder | None = None

    def __call__(self, task: Task) -> Clip:
        """The clip with its features; what cannot be used has a reason instead."""
        clip = self.loader(task)
        if not clip.reason:
            if self._encoder is None:
                recipe = self.loader.recipe
                self._encoder = encoders.load(self.spec, recipe.precision, "cpu", recipe.sound.crop)
            pool_clip(clip, self._encoder, self.loader.pad_to)
        return clip


def pool_clip(clip: Clip, encoder: encoders.Encoder, pad_to: int) -> None:
    """Turn the waves of a clip into features, one by one. pad_to: see `Encoder.pool`."""
    try:
        store_features(clip, [encoder.pool(wave, pad_to=pad_to) for wave in clip.waves])
    except ClipError as error:
        clip.waves, clip.reason = [], str(error)


def store_features(clip: Clip, pooled: Sequence[npt.NDArray[np.float32]]) -> None:
    """Round the features of a clip, [layer, stat, dim] of each view, to float16. What does not fit is its reason."""
    exact = np.stack(pooled)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(np.float16)
    clip.waves = []
    if np.isfinite(rounded).all():
        clip.features = rounded
        return
    view, layer, stat, position = np.argwhere(~np.isfinite(rounded))[0]
    value = exact[view, layer, stat, position]
    clip.reason = (
        f"view {view}, layer {layer}: its {encoders.STATS[stat]} holds {value:.6g}, outside float16 (at most 65504)"
    )
