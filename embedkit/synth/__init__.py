"""Synthetic emotional speech in IEMOCAP's own layout: the corpus of `embedkit demo`, and sound for tests.

A source-filter synthesiser (Fant 1960; Klatt & Klatt, JASA 87(2), 1990) says nonsense syllables. The source is a train
of Rosenberg-type glottal pulses (KLGLOTT88) with jitter, shimmer and flutter, and aspiration noise that follows the
open phase; the filter is a cascade of seven formant resonators that glide between vowels and consonants; closures,
bursts and friction make the consonants; phrases have a declining F0, accents and a final fall.

An emotion moves a speaker's own voice as the reviews report (Scherer, Speech Communication 40, 2003, table 2; Juslin &
Laukka, Psychological Bulletin 129(5), 2003, table 7): anger and joy raise F0, its range, intensity, rate and the share
of high frequencies; anger presses the voice and makes it rougher; sadness lowers all of these, adds pauses and breath.
Speakers differ by more than most emotions do, and each turn is acted more or less strongly, some hardly at all. So what
is learned from some speakers is right for others only part of the time.
"""

from __future__ import annotations

from embedkit.synth.iemocap import make_iemocap, make_voice_note
from embedkit.synth.synthesiser import STEP, synthesise_utterance
from embedkit.synth.voices import Speaker, Style

__all__ = ["STEP", "Speaker", "Style", "make_iemocap", "make_voice_note", "synthesise_utterance"]
