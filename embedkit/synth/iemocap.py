"""A synthetic corpus in IEMOCAP's layout, and a voice note."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedkit.audio import RATE
from embedkit.errors import UserError
from embedkit.synth.synthesiser import Wave, synthesise_utterance
from embedkit.synth.voices import Speaker

# label: (share of the turns, styles that it is drawn from, the annotators' word, (valence, activation, dominance))
# The last three are means over turns, 1..5.
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
    """Write a corpus to root in IEMOCAP's layout: 5 sessions of a woman and a man, sheets, and a WAV for every turn.

    turns: of all sessions together, at least 60. Deterministic by seed. Every session has the four classes (happiness
    as hap and as exc) and some turns of other labels. Raises UserError for too few turns.
    """
    if turns < 60:
        raise UserError(f"{turns} turns: expected at least 60, so that every session has every class")
    for session in range(1, 6):
        rng = np.random.default_rng([seed, session])
        voices = {"F": Speaker.draw("female", rng), "M": Speaker.draw("male", rng)}
        labels = rng.permutation(_deal_labels((turns * session) // 5 - (turns * (session - 1)) // 5)).tolist()
        for i, stem in enumerate(DIALOGUES):
            dialogue = f"Ses{session:02d}{'FM'[i % 2]}_{stem}"
            _make_dialogue(root / f"Session{session}", dialogue, labels[i :: len(DIALOGUES)], voices, rng)


def _deal_labels(turns: int) -> list[str]:
    """So many labels in the shares of LABELS, equal ones together, in LABELS' order."""
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
        wave = synthesise_utterance(style, voices[actor], seconds, rng, words=np.random.default_rng([text, i]))
        _write_wave(wavs / f"{turn}.wav", wave + _make_noise(len(wave), room, rng))
        blocks.append(_format_sheet_block(turn, label, clock, clock + seconds, rng))
        clock += seconds + rng.uniform(0.1, 1.0)
    (sheets / f"{dialogue}.txt").write_text("\n".join(blocks) + "\n")


def _format_sheet_block(turn: str, label: str, start: float, end: float, rng: np.random.Generator) -> str:
    """A turn's lines of a sheet: the label and mean scales, the words of three raters and of the actor, and the scales
    of two raters."""
    words = [word for *_, word, _ in LABELS.values() if word]
    own_word = LABELS[label][2]
    votes = [own_word or words[(int(rng.integers(len(words))) + i) % len(words)] for i in range(3)]
    if own_word and rng.random() < 0.4:
        votes[int(rng.integers(3))] = str(rng.choice(words))
    votes.append(own_word or str(rng.choice(words)))
    scales = np.clip(np.rint(np.array(LABELS[label][3]) + 0.7 * rng.standard_normal((2, 3))), 1, 5).astype(int)
    mean = ", ".join(f"{value:.4f}" for value in scales.mean(axis=0))
    lines = [f"[{start:.4f} - {end:.4f}]\t{turn}\t{label}\t[{mean}]"]
    lines += [f"C-{who}:\t{vote};\t()" for who, vote in zip(("E2", "E3", "E4", turn[5] + "1"), votes, strict=True)]
    lines += [f"A-{who}:\tval {v}; act {a}; dom  {d};\t()" for who, (v, a, d) in zip(("E3", "E4"), scales, strict=True)]
    return "\n".join(lines) + "\n"


def make_voice_note(path: Path, seconds: float = 120.0, seed: int = 0) -> list[tuple[float, float, str]]:
    """Write a WAV of so many seconds: one voice that speaks in turns, with pauses of 1.5 to 5 s, in a room's noise.

    Returns the turns in order: where each begins and ends (s), and its emotion (a key of STYLES).
    """
    rng = np.random.default_rng([seed, 6])
    speaker = Speaker.draw(str(rng.choice(["female", "male"])), rng)
    wave = _make_noise(round(seconds * RATE), -55.0, rng)
    turns = []
    emotion, clock = "neutral", 1.5
    while clock + 3.0 < seconds:
        if rng.random() < 0.4:
            emotion = str(rng.choice(["anger", "happiness", "neutral", "sadness"]))
        length = min(float(rng.uniform(3.0, 9.0)), seconds - clock - 0.5)
        speech = synthesise_utterance(emotion, speaker, length, rng)
        begin = round(clock * RATE)
        wave[begin : begin + len(speech)] += speech
        turns.append((clock, clock + length, emotion))
        clock += length + float(rng.uniform(1.5, 5.0))
    _write_wave(path, wave)
    return turns


def _make_noise(samples: int, decibels: float, rng: np.random.Generator) -> Wave:
    """The noise of a quiet room, which falls by about 6 dB an octave above 300 Hz. decibels: RMS re full scale."""
    from scipy.signal import lfilter

    noise = np.asarray(lfilter([1.0], [1.0, -0.89], rng.standard_normal(samples)))
    return np.asarray(noise * (10 ** (decibels / 20) / noise.std()), np.float32)


def _write_wave(path: Path, wave: Wave) -> None:
    """Write a 16-bit WAV, 16 kHz."""
    import soundfile

    soundfile.write(path, np.clip(wave, -1, 1), RATE, subtype="PCM_16")
