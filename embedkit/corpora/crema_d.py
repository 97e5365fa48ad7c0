"""CREMA-D: 91 actors say 12 English sentences in 6 emotions, 7,442 clips; no sessions.

Source: Cao et al., "CREMA-D: Crowd-sourced emotional multimodal actors dataset", IEEE Transactions on Affective
Computing 5(4), 2014. A name such as `1001_IEO_ANG_HI.wav` is actor, sentence, emotion (ANG DIS FEA HAP NEU SAD) and
level (LO MD HI, XX for unspecified). The label is the emotion that the actor was asked for, not what raters heard.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from embedkit.corpora._base import Utterance, list_recordings, locate_corpus

SOURCE = "https://github.com/CheyneyComputerScience/CREMA-D (with Git LFS); root is its folder, which holds AudioWAV/"
LICENCE = "ODbL 1.0"
LABELS = {"anger": ["ANG"], "happiness": ["HAP"], "neutral": ["NEU"], "sadness": ["SAD"]}

# In old copies one name has a single X: 1040_ITH_SAD_X.
NAME = re.compile(r"(?P<actor>\d{4})_(?P<sentence>[A-Z]{3})_(?P<label>[A-Z]{3})_(?P<level>LO|MD|HI|XX?)")


def folder(root: Path) -> Path:
    """The folder with AudioWAV/: root, or one in it. root may also be a folder of the clips themselves."""
    if root.is_dir() and any(NAME.fullmatch(stem) for stem in list_recordings(root)):
        return root
    return locate_corpus("CREMA-D", root, "AudioWAV")


def read(root: Path) -> Iterator[Utterance]:
    """Yield every clip, sorted by name. text is the sentence's code ("IEO").

    gender is known where VideoDemographics.csv, a table of the corpus, lies beside AudioWAV/. A clip whose name has a
    single X gets an id with XX, so that ids are the same in every copy.
    """
    place = folder(root)
    clips = place / "AudioWAV" if (place / "AudioWAV").is_dir() else place
    genders = _read_genders(place / "VideoDemographics.csv")
    seen = set()
    for stem, path in list_recordings(clips).items():
        name = NAME.fullmatch(stem)
        if not name:
            continue
        clip = re.sub("_X$", "_XX", stem)
        if clip in seen:
            continue
        seen.add(clip)
        yield Utterance(
            id=clip,
            file=path.relative_to(place).as_posix(),
            label=name["label"],
            speaker=name["actor"],
            text=name["sentence"],
            gender=genders.get(name["actor"], ""),
        )


def _read_genders(table: Path) -> dict[str, str]:
    """{actor: "female" or "male"}, empty where there is no such table."""
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        genders = {row.get("ActorID") or "": (row.get("Sex") or "").lower() for row in csv.DictReader(lines)}
    return {actor: sex for actor, sex in genders.items() if sex in ("female", "male")}
