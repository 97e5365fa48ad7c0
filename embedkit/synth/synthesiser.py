"""The synthesiser: nonsense syllables by a source and a filter (Fant 1960; Klatt & Klatt, JASA 87(2), 1990).

The source is a train of glottal pulses and noise, the filter a cascade of formant resonators; friction and bursts are
added beside it. All of them follow tracks with one value every 5 ms (a frame).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedkit.audio import RATE
from embedkit.synth.phones import CODAS, CONSONANTS, PAUSE, VOWELS, Phone
from embedkit.synth.voices import Speaker, Style, draw_style

STEP = 80  # samples of a frame: 5 ms

Wave = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
Frames = npt.NDArray[np.intp]  # [frame]: the place of the event that each frame lies in


class Event(NamedTuple):
    """A phone at its place in the phrase."""

    phone: Phone
    seconds: float
    accent: float  # rise of F0 for a speaker of range 1 (semitones); 0: none
    begins: float  # where its syllable begins and ends, as shares of its phrase
    ends: float


def _generate_phrases(words: np.random.Generator, rate: float, pause: float) -> Iterator[list[Event]]:
    """Syllables and pauses without end, each as its events; the generator `words` alone decides which syllables."""
    vowels, onsets = list(VOWELS.values()), list(CONSONANTS.values())
    while True:
        count = int(words.integers(4, 10))
        stressed = int(words.integers(0, 3))
        for i in range(count):
            stress = (i - stressed) % 3 == 0
            last = i == count - 1
            vowel = vowels[words.integers(len(vowels))]
            length = (0.15 if stress else 0.085) * words.uniform(0.85, 1.15) * (1.5 if last else 1.0)
            onset = onsets[words.integers(len(onsets))] if words.random() < 0.85 else []
            coda = CONSONANTS[CODAS[words.integers(len(CODAS))]] if words.random() < 0.3 else []
            accent = words.uniform(1.0, 3.5) if stress else 0.0
            place = (i / count, (i + 1) / count)
            yield [
                *(Event(p, p.seconds / rate, 0.0, *place) for p in onset),
                Event(vowel, length / rate, accent, *place),
                *(Event(p, p.seconds / rate, 0.0, *place) for p in coda),
            ]
        yield [Event(PAUSE, PAUSE.seconds * words.uniform(0.5, 1.5) * pause, 0.0, 1.0, 1.0)]


def _compose_events(seconds: float, style: Style, speaker: Speaker, words: np.random.Generator) -> list[Event]:
    """The events of as many whole syllables as fit into `seconds`; the rest is silence before and after them."""
    events: list[Event] = []
    left = seconds - 0.1
    for syllable in _generate_phrases(words, speaker.rate * 2**style.rate, 2**style.pauses):
        left -= sum(event.seconds for event in syllable)
        if left < 0 and events:
            left += sum(event.seconds for event in syllable)
            break
        events += syllable
    rest = max(0.0, left) + 0.1
    return [Event(PAUSE, 0.4 * rest, 0.0, 0.0, 0.0), *events, Event(PAUSE, 0.6 * rest, 0.0, 1.0, 1.0)]


def synthesise_utterance(
    emotion: str, speaker: Speaker, seconds: float, rng: np.random.Generator, words: np.random.Generator | None = None
) -> Wave:
    """One turn: float32 [round(seconds * 16000)] within [-1, 1], 16 kHz. Deterministic by the state of rng.

    emotion: a key of STYLES. seconds: at least 0.5. words: the generator that decides which syllables are spoken; None:
    rng.
    """
    style = draw_style(emotion, speaker, rng)
    events = _compose_events(seconds, style, speaker, words if words is not None else rng)
    frames = 2 * -(-round(seconds * RATE) // (2 * STEP))
    ends = np.cumsum([event.seconds for event in events])
    times = (np.arange(frames) + 0.5) * STEP / RATE
    which = np.minimum(np.searchsorted(ends, times, side="right"), len(events) - 1)

    targets = np.array([(*e.phone.formants, e.phone.voice, e.phone.breath, e.phone.hiss) for e in events])[which]
    formants, loudness = _smooth_tracks(targets[:, :3], 11), _smooth_tracks(targets[:, 3:], 5)
    melody = _make_melody(events, ends, which, times, speaker.range * 2**style.range, style.final)
    f0 = speaker.f0 * 2 ** ((style.f0 + melody) / 12)
    swell = 10 ** (0.7 * melody / 20)  # the voice is louder where it is higher

    pulses, opening = _make_glottal_pulses(np.clip(f0, 50, 600), speaker, style, rng)
    noise = rng.standard_normal(len(pulses))
    voice, breath, hiss = (_upsample_track(track, len(pulses)) for track in (loudness * swell[:, None]).T)
    airy = 10 ** (np.clip(speaker.breath + style.breath, -45, -14) / 20)
    source = voice * (_apply_tilt(pulses, speaker.tilt + style.tilt) + airy * opening * noise) + 0.25 * breath * noise
    formants = formants * speaker.tract * 2**style.formants
    sound = _apply_vocal_tract(source, formants) + _make_friction(events, which, hiss, noise, speaker.tract)
    return _set_level(sound[: round(seconds * RATE)], speaker.level + style.level)


def _make_melody(events: list[Event], ends: Array, which: Frames, times: Array, size: float, final: float) -> Array:
    """F0 relative to the speaker's mean (semitones) [frame]: declination, accents, and the phrase's last movement.

    ends: of the events (s); which, times: the event and the middle (s) of each frame; size: the factor on all movements
    but the last one, which is `final` (semitones).
    """
    length = np.array([e.seconds for e in events])
    begins = np.array([e.begins for e in events])[which]
    over = np.array([e.ends for e in events])[which]
    part = begins + (over - begins) * np.clip((times - (ends - length)[which]) / length[which], 0, 1)
    melody = size * 3.0 * (0.5 - part) + final * np.clip((part - 0.8) / 0.2, 0, 1)
    for i, event in enumerate(events):
        if event.accent:
            centre = ends[i] - length[i] / 2
            melody += size * event.accent * np.exp(-0.5 * ((times - centre) / 0.09) ** 2)
    return _smooth_tracks(melody[:, None], 15)[:, 0]


def _make_glottal_pulses(f0: Array, speaker: Speaker, style: Style, rng: np.random.Generator) -> tuple[Array, Array]:
    """Derivative of the glottal flow, and how far the glottis is open (0..1), both [sample]. f0: Hz [frame].

    KLGLOTT88 at twice the rate, against aliasing: the flow is a t^2 - b t^3 while the glottis is open, else 0.
    """
    from scipy.signal import resample_poly

    jitter = min(0.04, speaker.jitter * 2**style.jitter)
    times = np.arange(len(f0)) * STEP / RATE
    flutter = sum(np.sin(2 * np.pi * hertz * times + rng.uniform(0, 6)) for hertz in (12.7, 7.1, 4.7))
    track = (f0 * (1 + 0.004 * flutter)).tolist()
    draws = iter(rng.standard_normal(int(1.5 * len(f0) * STEP / RATE * 600) + 64).tolist())
    begins, t, drift = [], -0.01, 0.0
    while t < len(track) * STEP / RATE:
        begins.append(t)
        drift = 0.8 * drift + 0.6 * next(draws)  # neighbouring periods are alike
        t += max(0.5, 1 + jitter * drift) / track[min(max(int(t * RATE / STEP), 0), len(track) - 1)]
    edges = np.array([*begins, t])
    strength = 1 + 4 * jitter * rng.standard_normal(len(begins))
    clock = np.arange(len(f0) * STEP * 2) / (2 * RATE)
    cycle = np.searchsorted(edges, clock, side="right") - 1
    quotient = float(np.clip(speaker.open_quotient + style.open_quotient, 0.35, 0.88))
    x = (clock - edges[cycle]) / np.diff(edges)[cycle] / quotient
    is_open = x < 1
    flow = np.where(is_open, 6.75 * (x**2 - x**3), 0.0)
    slope = np.where(is_open, 2 * x - 3 * x**2, 0.0) * strength[cycle]
    return resample_poly(slope, 1, 2), 0.3 + 0.7 * flow[::2]


def _apply_tilt(pulses: Array, decibels: float) -> Array:
    """A one-pole low-pass filter that attenuates by so much (dB) at 3 kHz, with gain 1 at 0 Hz."""
    from scipy.signal import lfilter

    power = 10 ** (np.clip(decibels, 0.5, 24) / 10)
    cosine = np.cos(2 * np.pi * 3000 / RATE)
    # |H|^2 = (1 - p)^2 / (1 - 2 p cos + p^2) = 1 / power, solved for the pole p.
    b = (power - cosine) / (power - 1)
    pole = b - np.sqrt(b * b - 1)
    return np.asarray(lfilter([1 - pole], [1, -pole], pulses))


def _apply_vocal_tract(source: Array, formants: Array) -> Array:
    """The cascade of seven resonators, which change every 10 ms. source [sample], formants [frame, 3] (Hz).

    Overlapping pieces of 20 ms are each filtered by their own frame's response and added up, so that the filter changes
    without clicks. 1,024 points leave 44 ms for the filter's ringing; after that the narrowest resonator has fallen by
    66 dB.
    """
    hop, points = 2 * STEP, 1024
    response = _compute_response(0.5 * (formants[::2] + formants[1::2]), points)
    pieces = np.lib.stride_tricks.sliding_window_view(np.pad(source, hop // 2), 2 * hop)[::hop]
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(2 * hop) + 0.5) / hop)
    spectrum = np.fft.rfft((pieces * ramp).astype(np.float32), points, axis=1)
    filtered = np.fft.irfft(spectrum * response, points, axis=1)
    parts = -(-points // hop)
    filtered = np.pad(filtered, ((0, 0), (0, parts * hop - points))).reshape(len(filtered), parts, hop)
    out = np.zeros(len(source) + parts * hop)
    for k in range(parts):
        out[k * hop : k * hop + len(source)] += filtered[:, k].ravel()
    return out[hop // 2 : hop // 2 + len(source)]


def _compute_response(formants: Array, points: int) -> npt.NDArray[np.complex64]:
    """Frequency response [frame, points // 2 + 1] of the cascade: three formants [frame, 3] (Hz) and four that stay."""
    upper = formants[:, 2].mean() / 2500 * np.array([3500.0, 4500.0, 5500.0, 6500.0])
    frequency = np.concatenate([formants, np.broadcast_to(upper, (len(formants), 4))], axis=1).clip(150, 7400)
    bandwidth = 50 + 0.035 * frequency + np.where(formants[:, :1] < 300, 40, 0)  # nasals and closures damp
    gain, a1, a2 = (part.astype(np.float32) for part in _compute_resonators(frequency, bandwidth))
    z = np.exp(-2j * np.pi * np.arange(points // 2 + 1) / points).astype(np.complex64)
    denominator = np.ones((len(formants), len(z)), np.complex64)
    for k in range(frequency.shape[1]):
        denominator *= 1 + z * (a1[:, k, None] + a2[:, k, None] * z)
    return np.asarray(gain.prod(axis=1)[:, None] / denominator)


def _compute_resonators(frequency: Array, bandwidth: Array) -> tuple[Array, Array, Array]:
    """Klatt's resonators gain / (1 + a1 z^-1 + a2 z^-2), as (gain, a1, a2); frequency, bandwidth in Hz."""
    radius = np.exp(-np.pi * bandwidth / RATE)
    a1, a2 = -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius**2
    return 1 + a1 + a2, a1, a2


def _make_friction(events: list[Event], which: Frames, hiss: Array, noise: Array, tract: float) -> Array:
    """Noise of fricatives and bursts [sample], each through a resonator of its own; the vocal tract does not filter it.

    hiss: its amplitude [sample]; tract: the speaker's factor on frequencies.
    """
    from scipy.signal import lfilter

    out = np.zeros_like(noise)
    edges = [*np.flatnonzero(np.diff(which, prepend=-1)).tolist(), len(which)]
    for first, after in pairwise(edges):
        phone = events[which[first]].phone
        if phone.hiss:
            part = slice(max(0, first - 2) * STEP, min(len(which), after + 2) * STEP)
            _, a1, a2 = _compute_resonators(np.array(min(7000.0, phone.centre * tract)), np.array(phone.width))
            band = lfilter([1, 0, -1], [1, a1, a2], noise[part])
            out[part] += hiss[part] * band / (np.std(band) + 1e-9) * 0.8
    return out


def _smooth_tracks(tracks: Array, frames: int) -> Array:
    """Each column of [frame, track] averaged by a Hann window over so many frames; beyond the ends the end values."""
    window = np.hanning(frames + 2)[1:-1]
    window /= window.sum()
    padded = np.pad(tracks, ((frames // 2, frames // 2), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, window, mode="valid") for column in padded.T], axis=1)


def _upsample_track(track: Array, samples: int) -> Array:
    """A track [frame] interpolated to one value a sample [samples]."""
    return np.interp(np.arange(samples), (np.arange(len(track)) + 0.5) * STEP, track)


def _set_level(sound: Array, decibels: float) -> Wave:
    """Scaled so that the RMS of a loud frame (the 0.8 quantile) is this (dB re full scale), but never clipped."""
    sound = sound - sound.mean()
    frames = sound[: len(sound) // STEP * STEP].reshape(-1, STEP)
    loud = np.sqrt(np.quantile(np.mean(frames**2, axis=1), 0.8)) + 1e-9
    gain = min(10 ** (decibels / 20) / loud, 0.98 / (np.abs(sound).max() + 1e-9))
    return np.asarray(sound * gain, np.float32)
