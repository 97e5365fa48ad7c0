"""Speech and windows: the streaming rules equal slow ones on the whole recording, and lose no sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkit.runtime import speech


def runs(flags: list[bool], value: bool) -> list[tuple[int, int]]:
    """[first, last) of every run of value."""
    found, start = [], None
    for i, flag in enumerate([*flags, not value]):
        if flag == value and start is None:
            start = i
        elif flag != value and start is not None:
            found.append((start, i))
            start = None
    return found


def slowly_decided(probabilities: list[float]) -> list[bool]:
    """The rules of embedkit.runtime.speech, read off the whole recording."""
    flags, speaking = [], False
    for p in probabilities:
        if p >= 0.5:
            speaking = True
        elif p < 0.35:
            speaking = False
        flags.append(speaking)
    for a, b in runs(flags, False):
        if a > 0 and b < len(flags) and b - a < 8:
            flags[a:b] = [True] * (b - a)
    for a, b in runs(flags, True):
        if b - a < 8:
            flags[a:b] = [False] * (b - a)
    return [any(flags[max(0, i - 2) : i + 3]) for i in range(len(flags))]


stretches = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]), st.integers(1, 20)), max_size=15)


@settings(max_examples=300, deadline=None)
@given(stretches)
def test_decisions_equal_the_slow_ones(lengths: list[tuple[float, int]]) -> None:
    """Every frame is decided on, as the rules say, whatever the sequence of loud and quiet stretches."""
    probabilities = [p for p, count in lengths for _ in range(count)]
    assert list(speech.run_stage(speech.chain_decisions(), probabilities)) == slowly_decided(probabilities)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_decisions_come_at_most_19_frames_late(p: float) -> None:
    """So a stream needs no more memory than that, however long it runs, and speech without a pause is let out."""
    heard = 0

    def stream():
        nonlocal heard
        for _ in range(100):
            heard += 1
            yield p

    for decided, _ in enumerate(speech.run_stage(speech.chain_decisions(), stream()), start=1):
        assert heard - decided <= 19


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3_000), max_size=8))
def test_frames_lose_no_sample(sizes: list[int]) -> None:
    """Whatever the blocks' sizes: the same samples in frames of 512, the last one as long as it is."""
    samples = np.arange(sum(sizes), dtype=np.float32)
    blocks = np.split(samples, np.cumsum(sizes)[:-1]) if sizes else []
    frames = list(speech.run_stage(speech.Frames(), blocks))
    assert np.array_equal(np.concatenate([np.zeros(0), *frames]), samples)
    assert all(len(f) == 512 for f in frames[:-1])
    assert all(0 < len(f) <= 512 for f in frames)


def spoken(blocks: list[np.ndarray], detector: speech.Detector) -> list[speech.Piece]:
    return list(speech.run_stage(speech.Chain(speech.Frames(), speech.Speech(detector)), blocks))


def cut(*pieces: speech.Piece) -> list[speech.Window]:
    return list(speech.run_stage(speech.Windows(), pieces))


def marked(block: np.ndarray) -> float:
    """A detector for tests: a frame that holds any positive sample is speech."""
    return float(block.max() > 0)


def test_every_frame_reaches_the_detector_whole() -> None:
    """Also the last, aligned or not: it is filled up with zeros, not dropped."""
    for samples in (512, 512 * 20, 512 * 20 + 1, 100):
        seen: list[int] = []

        def detector(frame: np.ndarray, seen: list[int] = seen) -> float:
            seen.append(len(frame))
            return 1.0

        kept = spoken([np.ones(samples, np.float32)], detector)
        assert seen == [512] * -(-samples // 512)
        assert sum(len(p) for _, p in kept) == (samples if samples > 4_096 else 0)


def test_speech_lies_where_it_was() -> None:
    """Two stretches in 10 s: each piece is the recording's own samples at its place; 0.064 s are kept around."""
    samples = np.zeros(160_000, np.float32)
    samples[20 * 512 : 60 * 512] = 0.5
    samples[200 * 512 : 290 * 512] = 0.5
    noise = -np.abs(np.random.default_rng(0).normal(0, 0.01, 160_000)).astype(np.float32)
    samples = np.where(samples > 0, samples, noise)
    pieces = spoken(np.split(samples, 7 * [0] + [5_000, 5_001, 77_777]), marked)
    assert all(np.array_equal(samples[at : at + len(p)], p) for at, p in pieces)
    assert [at // 512 for at, _ in pieces] == [*range(18, 62), *range(198, 292)]


def piece(seconds: float, at: float = 0.0) -> tuple[int, np.ndarray]:
    first = round(at * 16_000)
    return first, np.arange(first, first + round(seconds * 16_000), dtype=np.float32)


@pytest.mark.parametrize(
    ("seconds", "lengths"),
    [(0.3, [0.3]), (8.0, [8.0]), (8.5, [8.0]), (9.0, [8.0, 1.0]), (16.0, [8.0, 8.0]), (20.0, [8.0, 8.0, 4.0])],
)
def test_windows_of_8_seconds(seconds: float, lengths: list[float]) -> None:
    """Hop 8 s; the last is kept if it has 1 s or is alone; nothing overlaps and nothing else is left out."""
    windows = cut(piece(seconds))
    assert [len(w.samples) / 16_000 for w in windows] == lengths
    joined = np.concatenate([w.samples for w in windows])
    assert np.array_equal(joined, np.arange(len(joined)))
    assert [w.start for w in windows] == list(np.cumsum([0, *lengths])[:-1])
    assert [w.end for w in windows] == list(np.cumsum(lengths))


def test_no_pieces_no_windows() -> None:
    assert cut() == []


def test_a_window_of_several_pieces_says_where_it_begins_and_ends() -> None:
    """5 s at 2 s, 5 s at 60 s: the first window reaches from 2 to 63 s and the second from 63 to 65 s."""
    first, second = cut(piece(5, at=2), piece(5, at=60))
    assert (first.start, first.end, len(first.samples)) == (2.0, 63.0, 128_000)
    assert (second.start, second.end, len(second.samples)) == (63.0, 65.0, 32_000)
    assert second.samples[0] == 63 * 16_000


def test_silero_finds_real_speech(shared) -> None:
    """Real clips between 3 s of faint noise: speech is found in each clip's span and nowhere far from it."""
    from embedkit import audio

    rng = np.random.default_rng(0)
    parts, spans, at = [], [], 0
    for file in sorted((shared / "data/ravdess/Actor_02").glob("*.flac"))[:4]:
        for part in (rng.normal(0, 1e-4, 48_000).astype(np.float32), audio.read(file)):
            parts.append(part)
            at += len(part)
        spans.append((at - len(parts[-1]), at))
    pieces = spoken(parts, speech.load_silero())
    inside = [any(a - 2_048 <= p < b + 2_048 for a, b in spans) for p, _ in pieces]
    assert all(inside)
    for a, b in spans:
        assert sum(len(s) for p, s in pieces if a <= p < b) > 0.25 * (b - a)


def test_silero_remembers_nothing_between_recordings(shared) -> None:
    """A fresh detector for each recording: the second hearing equals the first, bit by bit."""
    from embedkit import audio

    wave = audio.read(shared / "data/ravdess/Actor_02/03-01-05-02-01-01-02.flac")
    frames = [f for f in speech.run_stage(speech.Frames(), [wave]) if len(f) == 512]
    first, second = ([detector(f) for f in frames] for detector in (speech.load_silero(), speech.load_silero()))
    assert first == second
    assert max(first) > 0.5
