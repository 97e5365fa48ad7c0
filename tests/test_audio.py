"""Sound: decoding is exact, bad recordings end in one line, and each step of a recipe does what its formula says."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkit import audio
from embedkit.cards import Sound
from embedkit.errors import ClipError

PLAIN = Sound(trim_db=0, pre_emphasis=0, peak=0)


def tone(seconds: float = 1.0, rate: int = 16_000, hz: float = 220.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def reason(path: Path, *place: float) -> str:
    """Why a recording is refused, in one line."""
    with pytest.raises(ClipError) as caught:
        audio.read(path, *place)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_16_khz_mono_is_read_as_stored(tmp_path: Path, name: str) -> None:
    """16-bit samples come back exactly, as float32 of full scale 1."""
    stored = (tone() * 32768).astype(np.int16)
    soundfile.write(tmp_path / name, stored, 16_000)
    wave = audio.read(tmp_path / name)
    assert wave.dtype == np.float32
    assert np.array_equal(wave, stored / np.float32(32768))


def test_stereo_is_the_mean_of_its_channels(tmp_path: Path) -> None:
    left, right = tone(hz=200), tone(hz=300)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    assert np.allclose(audio.read(path), (left + right) / 2, atol=1e-7)


def test_8_bit_is_within_half_a_step(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(), subtype="PCM_U8")
    assert np.abs(audio.read(path) - tone()).max() <= 1 / 128


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 96_000])
def test_other_rates_equal_resampling_the_whole(tmp_path: Path, rate: int) -> None:
    """Fed block by block, soxr gives what it gives for the whole, bit by bit; a 220 Hz tone stays one."""
    path = write(tmp_path / "a.wav", tone(20, rate), rate, "FLOAT")  # several blocks
    wave = audio.read(path)
    assert np.array_equal(wave, soxr.resample(tone(20, rate), rate, 16_000, quality="HQ"))
    assert len(wave) == 20 * 16_000
    assert np.abs(wave - tone(20))[1_000:-1_000].max() < 1e-3


def test_a_part_is_cut_at_its_times(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(3), subtype="FLOAT")
    assert np.array_equal(audio.read(path, 0.5, 1.25), tone(3)[8_000:20_000])
    assert np.array_equal(audio.read(path, start=2.0), tone(3)[32_000:])
    assert np.array_equal(audio.read(path, end=1.0), tone(3)[:16_000])
    assert len(audio.read(path, 2.0, 3.05)) == 16_000  # annotations are rounded


@pytest.mark.parametrize("place", [(-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, 3.5), (4.0, 5.0), (0.0, np.inf)])
def test_a_part_that_is_not_there_is_refused(tmp_path: Path, place: tuple[float, float]) -> None:
    assert "not a part of this file, which is 3.000 s" in reason(write(tmp_path / "a.wav", tone(3)), *place)


def test_blocks_are_the_same_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", tone(70, 48_000), 48_000)
    parts = list(audio.read_blocks(path))
    assert len(parts) > 3
    assert np.array_equal(np.concatenate(parts), audio.read(path))


def test_blocks_of_a_long_file_take_constant_memory(tmp_path: Path) -> None:
    """30 minutes of 16 kHz float32 are 115 MB; reading them in blocks takes a small part of that."""
    path = write(tmp_path / "long.wav", np.tile(tone(60), 30))
    tracemalloc.start()
    seconds = sum(len(block) for block in audio.read_blocks(path)) / audio.RATE
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds == 1_800
    assert peak < 10e6


def test_real_recordings_are_read(shared: Path) -> None:
    """RAVDESS at 16 and 48 kHz, mono and stereo, FLAC: against soundfile and soxr used plainly."""
    files = sorted((shared / "data/ravdess/Actor_01").glob("03-01-0[12]-01-0*.flac"))
    assert {soundfile.info(f).channels for f in files} == {1, 2}
    for file in files:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        plain = soxr.resample(samples.mean(axis=1), rate, 16_000)
        assert np.abs(audio.read(file) - plain).max() < 1e-6


# ---------------------------------------------------------------- what is refused


def test_missing(tmp_path: Path) -> None:
    assert reason(tmp_path / "none.wav") == "no such file"
    assert "folder" in reason(tmp_path)


def test_git_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "1001_DFA_ANG_XX.wav"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 86114\n")
    assert "git lfs pull" in reason(path)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"a text that is called .wav\n" * 50])
def test_no_sound(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert "not sound" in reason(path)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_truncated(tmp_path: Path, name: str, share: float) -> None:
    """A file cut short is refused wherever it is cut, and never read as a shorter one (as libsndfile does with WAV)."""
    path = write(tmp_path / name, np.random.default_rng(0).normal(0, 0.1, 48_000))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "truncated" in reason(path)


def test_flac_cut_between_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the border of a FLAC frame too; and where a libsndfile only reads less than the header announces."""
    path = write(tmp_path / "a.flac", np.random.default_rng(0).normal(0, 0.1, 48_000))
    whole = path.read_bytes()
    borders = [i for i in range(200, len(whole)) if whole[i : i + 2] == b"\xff\xf8"]
    assert borders
    for border in borders:
        path.write_bytes(whole[:border])
        assert "truncated" in reason(path)
    path.write_bytes(whole)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: np.zeros((0, 1), np.float32))
    assert "truncated: 48,000 samples" in reason(path)


@pytest.mark.parametrize("length", [0xFFFF_FFFF, 0x7FFF_FFFF])
def test_a_wav_of_unknown_length_is_read(tmp_path: Path, length: int) -> None:
    """Programs that write into a pipe cannot know the length, and put in a placeholder."""
    path = write(tmp_path / "a.wav", tone())
    data = bytearray(path.read_bytes())
    assert data[36:40] == b"data"
    data[4:8] = data[40:44] = struct.pack("<I", length)
    path.write_bytes(data)
    assert len(audio.read(path)) == 16_000


def test_a_wav_with_more_after_its_samples_is_read(tmp_path: Path) -> None:
    """Chunks around the samples, of odd length too, do not look like missing bytes."""
    path = write(tmp_path / "a.wav", tone())
    data = path.read_bytes()
    odd = b"note" + struct.pack("<I", 3) + b"abc\0"
    path.write_bytes(data[:36] + odd + data[36:] + odd)
    assert np.array_equal(audio.read(path), audio.read(write(tmp_path / "b.wav", tone())))
    path.write_bytes((data[:36] + odd + data[36:])[:-100])
    assert "truncated: 100 bytes" in reason(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan(tmp_path: Path, bad: float) -> None:
    samples = tone(20)
    samples[-1] = bad  # in the second block
    assert "NaN" in reason(write(tmp_path / "a.wav", samples, subtype="FLOAT"))


def test_no_samples(tmp_path: Path) -> None:
    assert "no samples" in reason(write(tmp_path / "a.wav", tone(0)))
    assert "no samples" in reason(write(tmp_path / "b.wav", tone()[:1], 96_000))  # nothing is left at 16 kHz
    assert reason(write(tmp_path / "a.flac", tone(0)))


def test_thirty_minutes(tmp_path: Path) -> None:
    """Too long for an utterance, but a part of it is one."""
    path = write(tmp_path / "a.wav", np.tile(tone(60), 30))
    assert "1800 s long, at most 600 s" in reason(path)
    assert len(audio.read(path, 1_000, 1_004.5)) == 72_000


def test_unreadable(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = write(tmp_path / "a.wav", tone())
    path.chmod(0)
    assert "cannot be read" in reason(path)


@pytest.mark.parametrize("sound", [Sound(), PLAIN])
@pytest.mark.parametrize("level", [0.0, 5e-5])
def test_silent(sound: Sound, level: float) -> None:
    """Silence is refused whatever the recipe; just above the limit is a clip."""
    with pytest.raises(ClipError, match="silent"):
        audio.prepare(np.full(16_000, level, np.float32), sound)
    assert len(audio.prepare(np.full(16_000, 2e-4, np.float32), sound)) == 16_000


def test_the_silent_recording_of_crema_d(shared: Path) -> None:
    with pytest.raises(ClipError, match="silent"):
        audio.prepare(audio.read(shared / "data/crema-d/AudioWAV/1076_MTI_SAD_XX.flac"), Sound())


# ---------------------------------------------------------------- a recipe's sound


def padded_tone() -> np.ndarray:
    return np.concatenate([np.zeros(8_000, np.float32), tone(), np.zeros(12_000, np.float32)])


def slowly_trimmed(wave: np.ndarray, top_db: float) -> np.ndarray:
    """librosa's rule, frame by frame: centred frames of 2,048, hop 512, against the loudest one."""
    padded = np.pad(wave.astype(np.float64), 1_024)
    count = 1 + len(wave) // 512
    power = np.array([np.mean(padded[i * 512 : i * 512 + 2_048] ** 2) for i in range(count)])
    loud = np.flatnonzero(10 * np.log10(np.maximum(power, 1e-10) / power.max()) > -top_db)
    return wave[loud[0] * 512 : min(len(wave), (loud[-1] + 1) * 512)]


def slowly_emphasised(wave: np.ndarray, a: float) -> np.ndarray:
    out = wave.astype(np.float64)
    for t in range(len(wave) - 1, 0, -1):
        out[t] -= a * out[t - 1]
    return out


def test_trim() -> None:
    only = Sound(trim_db=20, pre_emphasis=0, peak=0)
    trimmed = audio.prepare(padded_tone(), only)
    assert 16_000 <= len(trimmed) < 16_000 + 4 * 512
    assert np.array_equal(trimmed, slowly_trimmed(padded_tone(), 20))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9_000), st.integers(0, 2**32 - 1), st.sampled_from([5, 20, 60]))
def test_trim_is_librosas(samples: int, seed: int, top_db: int) -> None:
    """Any length, any loudness along the way, down to what counts as quiet."""
    import librosa

    rng = np.random.default_rng(seed)
    loudness = 10 ** np.interp(np.arange(samples), np.linspace(0, samples, 9), rng.uniform(-6, 0, 9))
    wave = (rng.standard_normal(samples) * loudness).astype(np.float32)
    expected, _ = librosa.effects.trim(wave, top_db=top_db, frame_length=2048, hop_length=512)
    np.testing.assert_array_equal(audio.trim_silence(wave, top_db), expected)


def test_trim_is_librosas_on_real_speech(shared: Path) -> None:
    import librosa

    files = sorted(shared.glob("data/ravdess/Actor_0[1-4]/*.flac"))
    assert files
    for file in files:
        wave = audio.read(file)
        np.testing.assert_array_equal(audio.trim_silence(wave, 20), librosa.effects.trim(wave, top_db=20)[0])


def test_pre_emphasis() -> None:
    only = Sound(trim_db=0, pre_emphasis=0.97, peak=0)
    assert np.allclose(audio.prepare(tone(), only), slowly_emphasised(tone(), 0.97), atol=1e-6)


def test_peak() -> None:
    assert np.abs(audio.prepare(tone(), Sound(trim_db=0, pre_emphasis=0, peak=0.95))).max() == pytest.approx(0.95)


def test_all_steps_in_their_order(shared: Path) -> None:
    """Trim before pre-emphasis before peak, on real speech: to 1e-6."""
    wave = audio.read(shared / "data/ravdess/Actor_02/03-01-05-02-01-01-02.flac")
    slow = slowly_emphasised(slowly_trimmed(wave, 20), 0.97)
    prepared = audio.prepare(wave, Sound())
    assert prepared.dtype == np.float32
    assert len(prepared) < len(wave)
    assert np.allclose(prepared, slow * 0.95 / np.abs(slow).max(), atol=1e-6)


def test_plain_changes_nothing() -> None:
    assert np.array_equal(audio.prepare(padded_tone(), PLAIN), padded_tone())


def test_preparing_leaves_its_input_alone() -> None:
    wave = padded_tone()
    audio.prepare(wave, Sound())
    assert np.array_equal(wave, padded_tone())


def test_cut() -> None:
    assert len(audio.cut_to_length(tone(9), Sound())) == 128_000
    assert len(audio.cut_to_length(tone(2), Sound())) == 32_000
    assert len(audio.cut_to_length(tone(9), Sound(max_seconds=0))) == 144_000


def test_digest_sees_every_sample() -> None:
    changed = tone()
    changed[-1] = np.nextafter(changed[-1], np.float32(1))
    assert audio.digest(tone()) == audio.digest(tone()[::1].astype(">f4")) != audio.digest(changed)
    assert len(audio.digest(tone())) == 32


@pytest.mark.parametrize("use", ["import embedkit.audio", "from embedkit import audio; audio.read(path)"])
def test_reading_needs_no_heavy_library(tmp_path: Path, use: str) -> None:
    """librosa takes seconds to import, and the runtime lives without it (and without pydantic)."""
    path = write(tmp_path / "a.wav", tone(1, 48_000), 48_000)
    script = f"import sys; path = {str(path)!r}; {use}; print({{'librosa', 'pydantic', 'numba'}} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"
