"""Synthetic emotional speech in IEMOCAP's own layout: the corpus of `embedkit demo`, and sound for tests.

A source-filter synthesiser (Fant 1960; Klatt & Klatt, JASA 87(2), 1990) says nonsense syllables. The source is a train
of Rosenberg-type glottal pulses (KLGLOTT88) with jitter, shimmer and flutter, and aspiration noise that follows the
open phase; the filter is a cascade of seven formant resonators that glide between vowels and consonants; closures,
bursts and friction make the consonants; phrases have a declining F0, accents and a final fall.

An emotion moves a speaker's own voice as the reviews report (Scherer, Speech Communication 40, 2003, table 2; Juslin &
Laukka, Psychological Bulletin 129(5), 2003, table 7): anger and joy raise F0, its range, intensity, rate and the share
of high frequencies; anger presses the voice and makes it rougher; sadness lowers all of these, adds pauses and breath.
Speakers differ by more than most emotions do, each turn is acted more or less strongly, and some hardly at all, so
what is learned from some speakers is right for others only part of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedkit.errors import UserError

RATE = 16_000  # Hz
STEP = 80  # samples between two settings of the synthesiser: 5 ms

Wave = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
Frames = npt.NDArray[np.intp]  # the event that each frame lies in


# ---------------------------------------------------------------- voices and emotions


@dataclass(frozen=True)
class Speaker:
    """A voice at rest."""

    gender: str  # "female" or "male"
    f0: float  # Hz
    tract: float  # formant frequencies relative to an average man's
    range: float = 1.0  # size of F0 movements; 1: declination of 3 and accents of 1 to 3.5 semitones
    rate: float = 1.0  # 1: about 4.5 syllables a second
    tilt: float = 9.0  # attenuation of the source at 3 kHz (dB)
    open_quotient: float = 0.6  # share of the period in which the glottis is open
    breath: float = -32.0  # aspiration noise against voicing (dB)
    jitter: float = 0.008  # sd of the period, relative
    level: float = -30.0  # RMS (dB re full scale)
    expression: float = 1.0  # how far emotions move this voice

    @classmethod
    def draw(cls, gender: str, rng: np.random.Generator) -> Speaker:
        """A voice such as adults have (F0 about 120 Hz for men and 205 Hz for women)."""
        female = gender == "female"
        return cls(
            gender=gender,
            f0=(205.0 if female else 120.0) * 2 ** (rng.normal(0, 2.2) / 12),
            tract=(1.16 if female else 1.0) * rng.uniform(0.94, 1.06),
            range=float(np.exp(rng.normal(0, 0.25))),
            rate=float(np.exp(rng.normal(0, 0.12))),
            tilt=float(rng.normal(11 if female else 9, 2.5)),
            open_quotient=float(np.clip(rng.normal(0.65 if female else 0.58, 0.05), 0.45, 0.8)),
            breath=float(rng.normal(-29 if female else -33, 4)),
            jitter=float(rng.uniform(0.004, 0.014)),
            level=float(rng.normal(-30, 3)),
            expression=float(np.clip(rng.normal(1, 0.25), 0.5, 1.5)),
        )


class Style(NamedTuple):
    """How an emotion moves a voice at full strength; all zero: neutral."""

    f0: float = 0.0  # semitones
    range: float = 0.0  # log2 of the factor on F0 movements
    level: float = 0.0  # dB
    rate: float = 0.0  # log2 of the factor
    open_quotient: float = 0.0
    tilt: float = 0.0  # dB at 3 kHz; negative: brighter
    jitter: float = 0.0  # log2 of the factor
    breath: float = 0.0  # dB
    pauses: float = 0.0  # log2 of the factor on their length
    final: float = -3.0  # the phrase's last F0 movement (semitones)
    formants: float = 0.0  # log2 of the factor: a smile spreads the lips


STYLES = {  # values in the order of Style's fields
    "neutral": Style(),
    "anger": Style(3.0, 0.6, 8, 0.18, -0.13, -8, 0.9, -5, -0.4, -5, 0.03),
    "happiness": Style(5.0, 0.9, 4, 0.12, 0.0, -2, 0.0, 0, -0.3, 1, 0.09),
    "excitement": Style(6.5, 1.1, 6, 0.22, -0.03, -3, 0.2, 0, -0.5, 2, 0.09),
    "sadness": Style(-2.0, -1.0, -6, -0.32, 0.10, 6, 0.5, 8, 0.9, -2, -0.05),
    "frustration": Style(1.5, 0.2, 4, -0.05, -0.08, -4, 0.5, -2, 0.2, -4, 0.0),
    "surprise": Style(6.0, 1.1, 3, 0.10, 0.00, -2, 0.0, 2, 0.0, 5, 0.0),
}
# What a turn adds of its own (sd), whatever the emotion: with the speakers' differences it makes emotions overlap.
SCATTER = Style(1.1, 0.25, 2.5, 0.10, 0.03, 2.0, 0.4, 2.5, 0.3, 1.5, 0.015)


def _acted(emotion: str, speaker: Speaker, rng: np.random.Generator) -> Style:
    """One turn's style: the emotion, more or less strong, and chance."""
    strength = float(np.clip(rng.normal(1.0, 0.3), 0.1, 1.5)) * speaker.expression
    target, rest, chance = np.array(STYLES[emotion]), np.array(STYLES["neutral"]), np.array(SCATTER)
    return Style(*(rest + strength * (target - rest) + chance * rng.standard_normal(len(chance))))


# ---------------------------------------------------------------- what is said


class Phone(NamedTuple):
    """Targets of the synthesiser; formants of an average man (Hz), amplitudes 0..1."""

    seconds: float
    formants: tuple[float, float, float]
    voice: float = 0.0
    breath: float = 0.0
    hiss: float = 0.0  # friction or burst, beside the vocal tract
    centre: float = 0.0  # of the hiss (Hz)
    width: float = 1.0  # of the hiss (Hz)


# Formants of vowels: Peterson & Barney, JASA 24, 1952.
VOWELS = {
    name: Phone(0.1, formants, voice=1.0)
    for name, formants in {
        "i": (270, 2290, 3010),
        "I": (390, 1990, 2550),
        "E": (530, 1840, 2480),
        "ae": (660, 1720, 2410),
        "a": (730, 1090, 2440),
        "O": (570, 840, 2410),
        "U": (440, 1020, 2240),
        "u": (300, 870, 2240),
        "V": (640, 1190, 2390),
        "er": (490, 1350, 1690),
    }.items()
}


def _stop(formants: tuple[float, float, float], centre: float, voiced: bool) -> list[Phone]:
    closure = Phone(0.06, formants, voice=0.12 if voiced else 0.0)
    burst = Phone(0.012, formants, hiss=0.5, centre=centre, width=0.6 * centre)
    return [closure, burst] if voiced else [closure, burst, Phone(0.035, formants, breath=0.25)]


LABIAL, ALVEOLAR, VELAR = (250.0, 900.0, 2200.0), (250.0, 1750.0, 2600.0), (250.0, 2000.0, 2300.0)
CONSONANTS = {
    "p": _stop(LABIAL, 900, False),
    "t": _stop(ALVEOLAR, 4200, False),
    "k": _stop(VELAR, 2100, False),
    "b": _stop(LABIAL, 900, True),
    "d": _stop(ALVEOLAR, 4000, True),
    "g": _stop(VELAR, 2000, True),
    "s": [Phone(0.11, ALVEOLAR, hiss=0.35, centre=5800, width=1800)],
    "S": [Phone(0.11, ALVEOLAR, hiss=0.40, centre=3000, width=1400)],
    "f": [Phone(0.09, LABIAL, hiss=0.12, centre=4500, width=5000)],
    "z": [Phone(0.08, ALVEOLAR, voice=0.35, hiss=0.18, centre=5600, width=1800)],
    "v": [Phone(0.06, LABIAL, voice=0.45, hiss=0.05, centre=4500, width=5000)],
    "h": [Phone(0.06, (500, 1500, 2500), breath=0.35)],
    "m": [Phone(0.07, (250, 1000, 2200), voice=0.40)],
    "n": [Phone(0.07, (250, 1500, 2500), voice=0.40)],
    "l": [Phone(0.06, (360, 1100, 2700), voice=0.65)],
    "r": [Phone(0.06, (330, 1150, 1600), voice=0.65)],
    "w": [Phone(0.06, (290, 650, 2200), voice=0.60)],
    "j": [Phone(0.06, (270, 2250, 3000), voice=0.60)],
}
CODAS = ["n", "m", "l", "r", "s", "t", "k", "z"]
PAUSE = Phone(0.25, (500, 1500, 2500))


class Event(NamedTuple):
    """A phone at its place in the phrase."""

    phone: Phone
    seconds: float
    accent: float  # semitones at range 1; 0 without
    begins: float  # where its syllable's phrase begins and ends, as shares of the phrase
    ends: float


def _phrases(words: np.random.Generator, rate: float, pause: float) -> Iterator[list[Event]]:
    """Syllables without end, as events of one syllable or one pause each; `words` alone decides what is said."""
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


def _score(seconds: float, style: Style, speaker: Speaker, words: np.random.Generator) -> list[Event]:
    """As many whole syllables as fit; what is left (s) is silence before and after."""
    events: list[Event] = []
    left = seconds - 0.1
    for syllable in _phrases(words, speaker.rate * 2**style.rate, 2**style.pauses):
        left -= sum(event.seconds for event in syllable)
        if left < 0 and events:
            left += sum(event.seconds for event in syllable)
            break
        events += syllable
    rest = max(0.0, left) + 0.1
    return [Event(PAUSE, 0.4 * rest, 0.0, 0.0, 0.0), *events, Event(PAUSE, 0.6 * rest, 0.0, 1.0, 1.0)]


# ---------------------------------------------------------------- how it sounds


def utterance(
    emotion: str, speaker: Speaker, seconds: float, rng: np.random.Generator, words: np.random.Generator | None = None
) -> Wave:
    """One turn: float32 [round(seconds * 16000)] within [-1, 1], 16 kHz. Deterministic by the state of rng.

    emotion: a key of STYLES. seconds: at least 0.5. words: where given, it alone decides which syllables are said.
    """
    style = _acted(emotion, speaker, rng)
    events = _score(seconds, style, speaker, words if words is not None else rng)
    frames = 2 * -(-round(seconds * RATE) // (2 * STEP))
    ends = np.cumsum([event.seconds for event in events])
    times = (np.arange(frames) + 0.5) * STEP / RATE
    which = np.minimum(np.searchsorted(ends, times, side="right"), len(events) - 1)

    targets = np.array([(*e.phone.formants, e.phone.voice, e.phone.breath, e.phone.hiss) for e in events])[which]
    formants, loudness = _smooth(targets[:, :3], 11), _smooth(targets[:, 3:], 5)
    melody = _melody(events, ends, which, times, speaker.range * 2**style.range, style.final)
    f0 = speaker.f0 * 2 ** ((style.f0 + melody) / 12)
    swell = 10 ** (0.7 * melody / 20)  # the voice is louder where it is higher

    pulses, opening = _glottis(np.clip(f0, 50, 600), speaker, style, rng)
    noise = rng.standard_normal(len(pulses))
    voice, breath, hiss = (_spread(track, len(pulses)) for track in (loudness * swell[:, None]).T)
    airy = 10 ** (np.clip(speaker.breath + style.breath, -45, -14) / 20)
    source = voice * (_tilted(pulses, speaker.tilt + style.tilt) + airy * opening * noise) + 0.25 * breath * noise
    formants = formants * speaker.tract * 2**style.formants
    sound = _tract(source, formants) + _friction(events, which, hiss, noise, speaker.tract)
    return _levelled(sound[: round(seconds * RATE)], speaker.level + style.level)


def _melody(events: list[Event], ends: Array, which: Frames, times: Array, size: float, final: float) -> Array:
    """F0 against the speaker's mean (semitones) [frame]: declination, accents, and the phrase's last movement."""
    length = np.array([e.seconds for e in events])
    begins = np.array([e.begins for e in events])[which]
    over = np.array([e.ends for e in events])[which]
    part = begins + (over - begins) * np.clip((times - (ends - length)[which]) / length[which], 0, 1)
    melody = size * 3.0 * (0.5 - part) + final * np.clip((part - 0.8) / 0.2, 0, 1)
    for i, event in enumerate(events):
        if event.accent:
            centre = ends[i] - length[i] / 2
            melody += size * event.accent * np.exp(-0.5 * ((times - centre) / 0.09) ** 2)
    return _smooth(melody[:, None], 15)[:, 0]


def _glottis(f0: Array, speaker: Speaker, style: Style, rng: np.random.Generator) -> tuple[Array, Array]:
    """Derivative of the glottal flow, and how far the glottis is open (0..1), both [sample].

    KLGLOTT88 at twice the rate, so that little aliases: flow a t^2 - b t^3 while the glottis is open, else none.
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


def _tilted(pulses: Array, decibels: float) -> Array:
    """One-pole low-pass that takes so much away at 3 kHz, with gain 1 at 0 Hz."""
    from scipy.signal import lfilter

    power = 10 ** (np.clip(decibels, 0.5, 24) / 10)
    cosine = np.cos(2 * np.pi * 3000 / RATE)
    # |H|^2 = (1 - p)^2 / (1 - 2 p cos + p^2) = 1 / power, solved for the pole p.
    b = (power - cosine) / (power - 1)
    pole = b - np.sqrt(b * b - 1)
    return np.asarray(lfilter([1 - pole], [1, -pole], pulses))


def _tract(source: Array, formants: Array) -> Array:
    """The cascade of seven resonators, other ones every 10 ms. source [sample], formants [frame, 3] (Hz).

    Overlapping pieces of 20 ms are each filtered by their own frame's response and added up: a filter that changes
    without clicks. 1024 points leave 44 ms for what rings on, by when the narrowest resonator is down by 66 dB.
    """
    hop, points = 2 * STEP, 1024
    response = _response(0.5 * (formants[::2] + formants[1::2]), points)
    pieces = np.lib.stride_tricks.sliding_window_view(np.pad(source, hop // 2), 2 * hop)[::hop]
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(2 * hop) + 0.5) / hop)
    spectrum = np.fft.rfft((pieces * ramp).astype(np.float32), points, axis=1)
    rung = np.fft.irfft(spectrum * response, points, axis=1)
    parts = -(-points // hop)
    rung = np.pad(rung, ((0, 0), (0, parts * hop - points))).reshape(len(rung), parts, hop)
    out = np.zeros(len(source) + parts * hop)
    for k in range(parts):
        out[k * hop : k * hop + len(source)] += rung[:, k].ravel()
    return out[hop // 2 : hop // 2 + len(source)]


def _response(formants: Array, points: int) -> npt.NDArray[np.complex64]:
    """Frequency response [frame, points // 2 + 1] of the cascade: three formants that move, four that stay."""
    upper = formants[:, 2].mean() / 2500 * np.array([3500.0, 4500.0, 5500.0, 6500.0])
    frequency = np.concatenate([formants, np.broadcast_to(upper, (len(formants), 4))], axis=1).clip(150, 7400)
    bandwidth = 50 + 0.035 * frequency + np.where(formants[:, :1] < 300, 40, 0)  # nasals and closures damp
    gain, a1, a2 = (part.astype(np.float32) for part in _resonators(frequency, bandwidth))
    z = np.exp(-2j * np.pi * np.arange(points // 2 + 1) / points).astype(np.complex64)
    denominator = np.ones((len(formants), len(z)), np.complex64)
    for k in range(frequency.shape[1]):
        denominator *= 1 + z * (a1[:, k, None] + a2[:, k, None] * z)
    return np.asarray(gain.prod(axis=1)[:, None] / denominator)


def _resonators(frequency: Array, bandwidth: Array) -> tuple[Array, Array, Array]:
    """Gain at 0 Hz (of 1 / denominator: its inverse), a1 and a2 of Klatt's resonators; frequency, bandwidth in Hz."""
    radius = np.exp(-np.pi * bandwidth / RATE)
    a1, a2 = -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius**2
    return 1 + a1 + a2, a1, a2


def _friction(events: list[Event], which: Frames, hiss: Array, noise: Array, tract: float) -> Array:
    """Noise of fricatives and bursts, each through its own resonator; it does not pass the vocal tract."""
    from scipy.signal import lfilter

    out = np.zeros_like(noise)
    edges = [*np.flatnonzero(np.diff(which, prepend=-1)).tolist(), len(which)]
    for first, after in pairwise(edges):
        phone = events[which[first]].phone
        if phone.hiss:
            part = slice(max(0, first - 2) * STEP, min(len(which), after + 2) * STEP)
            _, a1, a2 = _resonators(np.array(min(7000.0, phone.centre * tract)), np.array(phone.width))
            band = lfilter([1, 0, -1], [1, a1, a2], noise[part])
            out[part] += hiss[part] * band / (np.std(band) + 1e-9) * 0.8
    return out


def _smooth(tracks: Array, frames: int) -> Array:
    """Each column averaged by a Hann window over so many frames, ends held."""
    window = np.hanning(frames + 2)[1:-1]
    window /= window.sum()
    padded = np.pad(tracks, ((frames // 2, frames // 2), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, window, mode="valid") for column in padded.T], axis=1)


def _spread(track: Array, samples: int) -> Array:
    """A track of one value a frame [frame] as one value a sample."""
    return np.interp(np.arange(samples), (np.arange(len(track)) + 0.5) * STEP, track)


def _levelled(sound: Array, decibels: float) -> Wave:
    """Scaled so that its loudest tenth of frames has this RMS (dB re full scale), but never clipped."""
    sound = sound - sound.mean()
    frames = sound[: len(sound) // STEP * STEP].reshape(-1, STEP)
    loud = np.sqrt(np.quantile(np.mean(frames**2, axis=1), 0.8)) + 1e-9
    gain = min(10 ** (decibels / 20) / loud, 0.98 / (np.abs(sound).max() + 1e-9))
    return np.asarray(sound * gain, np.float32)


# ---------------------------------------------------------------- a corpus, and a voice note

# label: share of the turns, styles it is drawn from, the annotators' word, mean valence, activation, dominance (1..5)
LABELS: dict[str, tuple[float, tuple[str, ...], str, tuple[float, float, float]]] = {
    "neu": (0.24, ("neutral",), "Neutral", (3.0, 2.6, 2.8)),
    "ang": (0.20, ("anger",), "Anger", (1.9, 3.6, 4.0)),
    "sad": (0.20, ("sadness",), "Sadness", (2.2, 2.2, 2.7)),
    "exc": (0.11, ("excitement",), "Excited", (4.0, 3.6, 3.4)),
    "hap": (0.09, ("happiness",), "Happiness", (3.9, 3.1, 3.0)),
    "fru": (0.08, ("frustration",), "Frustration", (2.4, 3.1, 3.3)),
    "xxx": (0.05, ("neutral", "frustration", "happiness", "sadness"), "", (2.8, 3.0, 3.1)),
    "sur": (0.03, ("surprise",), "Surprise", (3.2, 3.6, 3.0)),
}
DIALOGUES = ("impro01", "script01_1", "impro02", "script02_1")


def make_iemocap(root: Path, turns: int = 300, seed: int = 0) -> None:
    """Lay a corpus down at root as IEMOCAP does: 5 sessions of a woman and a man, sheets, and a WAV for every turn.

    turns: over all sessions, at least 60. Deterministic by seed. Four classes (hap and exc are both there) in every
    session, and some turns of other labels. Raises UserError for too few turns.
    """
    if turns < 60:
        raise UserError(f"{turns} turns: expected at least 60, so that every session has every class")
    for session in range(1, 6):
        rng = np.random.default_rng([seed, session])
        voices = {"F": Speaker.draw("female", rng), "M": Speaker.draw("male", rng)}
        labels = rng.permutation(_dealt((turns * session) // 5 - (turns * (session - 1)) // 5)).tolist()
        for i, stem in enumerate(DIALOGUES):
            dialogue = f"Ses{session:02d}{'FM'[i % 2]}_{stem}"
            _make_dialogue(root / f"Session{session}", dialogue, labels[i :: len(DIALOGUES)], voices, rng)


def _dealt(turns: int) -> list[str]:
    """So many labels in the shares of LABELS, the most frequent first."""
    ends = np.rint(np.cumsum([share for share, *_ in LABELS.values()]) * turns).astype(int)
    counts = np.diff(ends, prepend=0)
    return [label for label, count in zip(LABELS, counts, strict=True) for _ in range(count)]


def _make_dialogue(
    session: Path, dialogue: str, labels: list[str], voices: dict[str, Speaker], rng: np.random.Generator
) -> None:
    wavs = session / "sentences" / "wav" / dialogue
    sheets = session / "dialog" / "EmoEvaluation"
    for folder in (wavs, sheets):
        folder.mkdir(parents=True, exist_ok=True)
    room = rng.uniform(-62, -50)  # level of the noise (dB re full scale)
    text = sum(dialogue[7:].encode()) if "script" in dialogue else int(rng.integers(2**32))
    blocks, clock = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"], 1.0
    for i, label in enumerate(labels):
        actor = "FM"[(i + (dialogue[5] == "M")) % 2]
        turn = f"{dialogue}_{actor}{i // 2:03d}"
        seconds = float(np.clip(np.exp(rng.normal(0.85, 0.35)), 1.2, 6.0))
        style = str(rng.choice(LABELS[label][1]))
        wave = utterance(style, voices[actor], seconds, rng, words=np.random.default_rng([text, i]))
        _write(wavs / f"{turn}.wav", wave + _noise(len(wave), room, rng))
        blocks.append(_sheet_block(turn, label, clock, clock + seconds, rng))
        clock += seconds + rng.uniform(0.1, 1.0)
    (sheets / f"{dialogue}.txt").write_text("\n".join(blocks) + "\n")


def _sheet_block(turn: str, label: str, start: float, end: float, rng: np.random.Generator) -> str:
    """A turn's lines of a sheet: label and mean of the scales; three raters' words, the actor's; two raters' scales."""
    words = [word for *_, word, _ in LABELS.values() if word]
    mine = LABELS[label][2]
    votes = [mine or words[(int(rng.integers(len(words))) + i) % len(words)] for i in range(3)]
    if mine and rng.random() < 0.4:
        votes[int(rng.integers(3))] = str(rng.choice(words))
    votes.append(mine or str(rng.choice(words)))
    scales = np.clip(np.rint(np.array(LABELS[label][3]) + 0.7 * rng.standard_normal((2, 3))), 1, 5).astype(int)
    mean = ", ".join(f"{value:.4f}" for value in scales.mean(axis=0))
    lines = [f"[{start:.4f} - {end:.4f}]\t{turn}\t{label}\t[{mean}]"]
    lines += [f"C-{who}:\t{vote};\t()" for who, vote in zip(("E2", "E3", "E4", turn[5] + "1"), votes, strict=True)]
    lines += [f"A-{who}:\tval {v}; act {a}; dom  {d};\t()" for who, (v, a, d) in zip(("E3", "E4"), scales, strict=True)]
    return "\n".join(lines) + "\n"


def voice_note(path: Path, seconds: float = 120.0, seed: int = 0) -> list[tuple[float, float, str]]:
    """Write one voice's recording with pauses of 1.5 to 5 s over the noise of a room: a WAV of so many seconds.

    Returns its turns in order: where they begin and end (s), and their emotion (a key of STYLES).
    """
    rng = np.random.default_rng([seed, 6])
    speaker = Speaker.draw(str(rng.choice(["female", "male"])), rng)
    wave = _noise(round(seconds * RATE), -55.0, rng)
    turns = []
    emotion, clock = "neutral", 1.5
    while clock + 3.0 < seconds:
        if rng.random() < 0.4:
            emotion = str(rng.choice(["anger", "happiness", "neutral", "sadness"]))
        length = min(float(rng.uniform(3.0, 9.0)), seconds - clock - 0.5)
        said = utterance(emotion, speaker, length, rng)
        begin = round(clock * RATE)
        wave[begin : begin + len(said)] += said
        turns.append((clock, clock + length, emotion))
        clock += length + float(rng.uniform(1.5, 5.0))
    _write(path, wave)
    return turns


def _noise(samples: int, decibels: float, rng: np.random.Generator) -> Wave:
    """The noise of a quiet room, which falls by about 6 dB an octave above 300 Hz; RMS in dB re full scale."""
    from scipy.signal import lfilter

    noise = np.asarray(lfilter([1.0], [1.0, -0.89], rng.standard_normal(samples)))
    return np.asarray(noise * (10 ** (decibels / 20) / noise.std()), np.float32)


def _write(path: Path, wave: Wave) -> None:
    """16-bit WAV, 16 kHz."""
    import soundfile

    soundfile.write(path, np.clip(wave, -1, 1), RATE, subtype="PCM_16")
