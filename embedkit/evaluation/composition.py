"""Long recordings composed of a corpus's clips."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedkit import audio
from embedkit.audio import RATE, Wave
from embedkit.corpora import SkippedClip, Utterance, read_sound
from embedkit.errors import ClipError, UserError
from embedkit.evaluation.document import CompositionDocument
from embedkit.evaluation.fold_heads import FoldPredictors


@dataclass(frozen=True)
class Composition:
    """How recordings are composed. Raises UserError for values out of range.

    clips: the least number of clips in a recording (of a speaker who has fewer, all of them); gap: the shortest and the
    longest pause (s). Half of the pauses are digital silence, the others white noise; noise: its level (dB, root mean
    square) relative to that of the clips. seed: of the order, the lengths of pauses, which of them are noise, and the
    noise.
    """

    clips: int = 4
    gap: tuple[float, float] = (1.0, 6.0)
    noise: float = -30.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clips < 1 or not 0 <= self.gap[0] <= self.gap[1] < np.inf or not -np.inf < self.noise <= 0:
            raise UserError(
                f"{self.clips} clips, pauses of {self.gap[0]:g} to {self.gap[1]:g} s, noise at {self.noise:g} dB:"
                " expected at least 1 clip, 0 <= shortest <= longest, and noise at 0 dB or below"
            )

    def compose(self, clips: Sequence[Wave], name: str) -> Wave:
        """Pause, clip, pause, clip, ..., pause, as float32 [samples]. The same name gives the same pauses."""
        rng = self.seed_generator(name)
        level = float(np.sqrt(np.mean(np.concatenate(clips).astype(np.float64) ** 2))) * 10 ** (self.noise / 20)
        parts = [self._draw_pause(rng, level)]
        for clip in clips:
            parts += [clip, self._draw_pause(rng, level)]
        return np.concatenate(parts)

    def seed_generator(self, name: str) -> np.random.Generator:
        """The generator of random numbers for one recording, whatever was composed before it."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def to_document(self) -> CompositionDocument:
        """The fields, as they are written to JSON."""
        return {"clips": self.clips, "gap": self.gap, "noise": self.noise, "seed": self.seed}

    def _draw_pause(self, rng: np.random.Generator, level: float) -> Wave:
        samples = round(rng.uniform(*self.gap) * RATE)
        noisy = rng.random() < 0.5
        return (rng.normal(0, level, samples) if noisy else np.zeros(samples)).astype(np.float32)


@dataclass(frozen=True)
class RecordingPlan:
    """The utterances of one recording: one speaker, one class, one fold."""

    speaker: str
    truth: str
    fold: str
    number: int
    rows: Sequence[Utterance]

    @property
    def name(self) -> str:
        """A name that no other recording has; it seeds the pauses."""
        return f"{self.speaker} {self.truth} {self.fold} {self.number}"


def plan_recordings(
    utterances: Sequence[Utterance], classes: Sequence[str], predictors: FoldPredictors, composition: Composition
) -> Iterator[RecordingPlan]:
    """Put each utterance that has a class and a predictor into one recording.

    The order of clips is drawn for each speaker, class and fold. classes: of each utterance, "" for none.
    """
    grouped: dict[tuple[str, str, str], list[Utterance]] = defaultdict(list)
    for utterance, truth in zip(utterances, classes, strict=True):
        fold = predictors.fold(utterance)
        if truth and fold is not None:
            grouped[utterance.speaker, truth, fold].append(utterance)
    for key, rows in sorted(grouped.items()):
        order = composition.seed_generator(" ".join(key)).permutation(len(rows))
        parts = np.array_split(order, max(1, len(rows) // composition.clips))
        for number, part in enumerate(parts):
            yield RecordingPlan(*key, number, [rows[i] for i in part])


def read_clips(recording: RecordingPlan, folder: Path, skipped: list[SkippedClip]) -> Iterator[Wave]:
    """The clips of a recording that can be used; the others are added to `skipped` with their reasons."""
    for utterance in recording.rows:
        try:
            wave = read_sound(folder, utterance)
            audio.refuse_silence(wave)
        except ClipError as error:
            skipped.append({"id": utterance.id, "reason": str(error)})
        else:
            yield wave
