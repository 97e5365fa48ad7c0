"""RAVDESS, speech: 24 actors say 2 English sentences in 8 emotions, 1,440 clips; no sessions.

Source: Livingstone & Russo, "The Ryerson audio-visual database of emotional speech and song", PLoS ONE 13(5), 2018.
A name such as `03-01-05-02-01-02-24.wav` is modality (03: sound alone), channel (01: speech, 02: song), emotion,
intensity, statement, repetition and actor (odd: male, even: female).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from embedkit.corpora._base import Utterance, list_recordings, locate_corpus

SOURCE = "https://zenodo.org/records/1188976 (Audio_Speech_Actors_01-24.zip); root is the folder that holds Actor_01/"
LICENCE = "CC BY-NC-SA 4.0"
LABELS = {"anger": ["angry"], "happiness": ["happy"], "neutral": ["neutral", "calm"], "sadness": ["sad"]}

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # 01 to 08
ACTORS = "Actor_[0-9][0-9]"
NAME = re.compile(r"03-01-(?P<emotion>0[1-8])-0[12]-(?P<statement>\d\d)-\d\d-(?P<actor>\d\d)")


def folder(root: Path) -> Path:
    """The folder that holds Actor_01/ and so on: root, or one in it."""
    return locate_corpus("RAVDESS", root, ACTORS)


def read(root: Path) -> Iterator[Utterance]:
    """Yield every speech clip, sorted by folder of the actor and name. text is the statement ("01": kids, "02": dogs).

    Many copies hold every clip a second time, one folder lower (Audio_Speech_Actors_01-24/): a name counts once.
    """
    place = folder(root)
    seen = set()
    for actor in [*sorted(place.glob(ACTORS)), *sorted(place.glob(f"*/{ACTORS}"))]:
        for stem, path in list_recordings(actor).items():
            name = NAME.fullmatch(stem)
            if not name or stem in seen:
                continue
            seen.add(stem)
            yield Utterance(
                id=stem,
                file=path.relative_to(place).as_posix(),
                label=EMOTIONS[int(name["emotion"]) - 1],
                speaker=name["actor"],
                text=name["statement"],
                gender="male" if int(name["actor"]) % 2 else "female",
            )
