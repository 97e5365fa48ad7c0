"""Sound: a recording becomes float32 samples, 16 kHz mono, and then what a recipe asks for.

A recording that cannot be used raises ClipError with the reason, without its name, which the caller knows.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from embedkit.errors import ClipError

if TYPE_CHECKING:  # prediction needs neither pydantic nor, for sound in memory, soundfile
    import soundfile

    from embedkit.cards import Sound

RATE = 16_000  # Hz, of every waveform in embedkit
LONGEST = 600.0  # s; a longer recording holds many utterances
SILENT = 1e-4  # the largest |sample| of a silent clip, full scale = 1 (-80 dB)
BLOCK = 1 << 18  # frames decoded at a time: 16 s at 16 kHz
FRAME, HOP = 2048, 512  # samples: length of the frames whose loudness decides what is trimmed, and their distance
QUIET = 1e-10  # power; a frame's power counts as at least this (librosa's amin)
SLACK = 0.1  # s that an utterance may end after its file: annotations are rounded
LFS_POINTER = b"version https://git-lfs"

Wave = npt.NDArray[np.float32]


def read(path: str | Path, start: float = math.nan, end: float = math.nan) -> Wave:
    """An utterance as float32 [samples], 16 kHz mono (mean of the channels), about -1 to 1.

    start, end: its place in the file (s); NaN: the file's own start and end.
    Raises ClipError where the file is missing, a Git LFS pointer, no sound, truncated, empty, longer than 600 s, does
    not reach from start to end, or holds NaN or infinity.
    """
    return np.concatenate(list(read_blocks(path, start, end, longest=LONGEST)))


def read_blocks(
    path: str | Path, start: float = math.nan, end: float = math.nan, *, longest: float = math.inf
) -> Iterator[Wave]:
    """The same samples as `read`, bit by bit, in blocks of at most about 16 s: a file of any length in constant memory.

    start, end: as of `read`. longest: the length from which an utterance is refused (s). Raises ClipError as `read`
    does.
    """
    with _open_sound(Path(path)) as sound:
        first, last = _find_frame_span(sound.frames, sound.samplerate, start, end)
        if last - first > longest * sound.samplerate:
            raise ClipError(
                f"{(last - first) / sound.samplerate:.0f} s long, at most {longest:.0f} s are expected; give each"
                " utterance's start and end in a manifest"
            )
        empty = True
        for block in _resample_blocks(_decode_blocks(sound, first, last), sound.samplerate):
            if len(block):
                empty = False
                yield block
        if empty:
            raise ClipError("no samples (0 s of sound)")


def prepare(wave: Wave, sound: Sound) -> Wave:
    """Trim, pre-emphasise, scale to the peak, in this order, each where the recipe asks for it. float32 [samples].

    Pre-emphasis is y[0] = x[0], y[t] = x[t] - a x[t-1]. Raises ClipError for a silent clip, whatever the recipe.
    """
    refuse_silence(wave)
    if sound.trim_db:
        wave = trim_silence(wave, sound.trim_db)
    if sound.pre_emphasis:
        wave = np.concatenate([wave[:1], wave[1:] - np.float32(sound.pre_emphasis) * wave[:-1]])
    if sound.peak:
        wave = wave * np.float32(sound.peak / np.abs(wave).max())
    return np.ascontiguousarray(wave, np.float32)


def trim_silence(wave: Wave, top_db: float) -> Wave:
    """The part from the first to the last frame that is less than top_db (dB) below the loudest one.

    The same as librosa.effects.trim: centred frames of 2,048 samples, one every 512. Importing librosa would cost each
    process 155 MB and a second, for numba, scikit-learn and pandas.
    """
    padded = np.pad(wave, FRAME // 2)
    blocks = padded[: (len(wave) // HOP + FRAME // HOP) * HOP].reshape(-1, HOP)
    energy = np.einsum("bs,bs->b", blocks, blocks, dtype=np.float64)
    power = np.maximum(np.convolve(energy, np.ones(FRAME // HOP), "valid") / FRAME, QUIET)
    loud = np.flatnonzero(power > power.max() * 10 ** (-top_db / 10))
    return wave[loud[0] * HOP : (loud[-1] + 1) * HOP]


def cut_to_length(wave: Wave, sound: Sound) -> Wave:
    """The first `max_seconds` of a prepared (and augmented) waveform."""
    return wave[: round(sound.max_seconds * RATE)] if sound.max_seconds else wave


def padded_length(sound: Sound) -> int:
    """The length up to which an encoder pads a clip with zeros before it pools all frames (samples); 0: it does not."""
    return round(sound.max_seconds * RATE) if sound.pad else 0


def refuse_silence(wave: Wave) -> None:
    """Raise ClipError where the largest |sample| is below 1e-4: such a clip is the recorder's noise, not speech."""
    peak = float(np.abs(wave).max(initial=0.0))
    if peak < SILENT:
        raise ClipError(f"silent (the largest |sample| is {peak:.1e}, at least {SILENT:.0e} is expected)")


def digest(wave: Wave) -> str:
    """A digest of the decoded samples, 32 hexadecimal characters, by which a changed recording is noticed.

    >>> digest(np.zeros(4, np.float32))
    '463be1d58a72e9618ea59884367c4358'
    """
    return hashlib.blake2b(np.ascontiguousarray(wave, "<f4").tobytes(), digest_size=16).hexdigest()


# ---------------------------------------------------------------- decoding


@contextmanager
def _open_sound(path: Path) -> Iterator[soundfile.SoundFile]:
    """The opened file. Raises ClipError in place of libsndfile's errors, also from within the block."""
    import soundfile

    _refuse_unreadable_file(path)
    try:
        with soundfile.SoundFile(path) as sound:
            yield sound
    except soundfile.LibsndfileError as error:
        reason = str(error).partition(f"{str(path)!r}: ")[2] or str(error)
        raise ClipError(
            f"not sound that can be decoded, or truncated ({reason.removeprefix('Error : ').rstrip('.')});"
            " expected a whole WAV or FLAC file"
        ) from None


def _refuse_unreadable_file(path: Path) -> None:
    """Raise ClipError for a file that libsndfile would misread, or of which its error would say too little."""
    if path.is_dir():
        raise ClipError("a folder, not a recording")
    try:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ClipError("a Git LFS pointer, not the recording itself; run: git lfs pull")
            file.seek(0)
            missing = _count_missing_bytes(file)
    except FileNotFoundError:
        raise ClipError("no such file") from None
    except OSError as error:
        raise ClipError(f"cannot be read: {error.strerror}") from None
    if missing > 0:
        raise ClipError(f"truncated: {missing:,} bytes that the WAV header promises are missing; copy it again")


def _count_missing_bytes(file: BinaryIO) -> int:
    """How many bytes of samples a WAV's header promises and its file lacks; 0 for any other file.

    libsndfile reads such a file as a shorter one and reports nothing. Programs that write into a pipe leave the length
    at 0 or near 2 or 4 GiB: it is unknown then, and nothing counts as missing.
    """
    size = os.fstat(file.fileno()).st_size
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return 0
    while len(chunk := file.read(8)) == 8:
        length = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            return 0 if length >= 0x7FFF_0000 else max(0, file.tell() + length - size)
        file.seek(length + length % 2, os.SEEK_CUR)  # chunks begin at even places
    return 0


def _find_frame_span(frames: int, rate: int, start: float, end: float) -> tuple[int, int]:
    """First and last frame (exclusive) of an utterance. Raises ClipError where the file does not contain it.

    frames, rate: of the file. start, end: in s, NaN for the file's own.
    """
    seconds = frames / rate
    begin = 0.0 if math.isnan(start) else start
    stop = seconds if math.isnan(end) else end
    if frames and not (0 <= begin < min(stop, seconds) and stop <= seconds + SLACK):
        raise ClipError(f"{begin:g} to {stop:g} s is not a part of this file, which is {seconds:.3f} s long")
    return round(begin * rate), min(round(stop * rate), frames)


def _decode_blocks(sound: soundfile.SoundFile, first: int, last: int) -> Iterator[Wave]:
    """Blocks at the file's own rate, mono. Raises ClipError where samples are missing at the end, NaN or infinite."""
    sound.seek(first)
    left = last - first
    while left > 0:
        block = sound.read(min(BLOCK, left), dtype="float32", always_2d=True)
        if not len(block):
            if sound.format == "FLAC":
                raise ClipError(f"truncated: {left:,} samples that the FLAC header promises are missing; copy it again")
            return  # the length of a compressed stream may be an estimate
        left -= len(block)
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise ClipError("holds samples that are NaN or infinite")
        yield np.ascontiguousarray(mono)


def _resample_blocks(blocks: Iterator[Wave], rate: int) -> Iterator[Wave]:
    """The blocks at 16 kHz, by soxr HQ: bit by bit the same as resampling all samples at once. rate: theirs (Hz)."""
    if rate == RATE:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
