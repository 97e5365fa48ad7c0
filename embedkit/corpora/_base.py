"""What the reader of a corpus offers and yields, and how readers find their files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypedDict

from embedkit.errors import CorpusError

SUFFIXES = (".wav", ".flac")  # where a clip is there in both formats, the first counts


@dataclass(frozen=True, slots=True)
class Utterance:
    """One labelled recording, or one part of a recording. Unknown texts are "", unknown numbers NaN."""

    id: str  # unique in the corpus
    file: str  # relative to the corpus's root, with forward slashes
    label: str  # as the corpus has it
    speaker: str  # a reader gives the id that the corpus has; `load` makes it "<corpus>:<id>"
    session: str = ""
    text: str = ""  # the id of the spoken sentence or script, where the corpus has one (shared between speakers)
    dialogue: str = ""
    gender: str = ""  # "female", "male" or ""
    start: float = math.nan  # where the utterance begins and ends in `file` (s); NaN: the whole file
    end: float = math.nan
    valence: float = math.nan
    activation: float = math.nan
    dominance: float = math.nan


class SkippedClip(TypedDict):
    """An utterance that could not be used, and why: one line."""

    id: str
    reason: str


class Reader(Protocol):
    """What each module of this folder offers: the names below, as names of the module."""

    LICENCE: str  # the terms, in a few words
    SOURCE: str  # how to get it
    LABELS: dict[str, list[str]]  # the default label map: class -> the corpus's own labels

    def folder(self, root: Path) -> Path:
        """The folder that `Utterance.file` is relative to: root, or the folder of the corpus in it."""
        ...

    def read(self, root: Path) -> Iterator[Utterance]:
        """Yield every labelled utterance, in the same order on every machine.

        Raises CorpusError where root is not this corpus.
        """
        ...


def locate_corpus(name: str, root: Path, marker: str) -> Path:
    """root, or the only folder directly in it, that contains something matching marker (a glob).

    Raises CorpusError where there is none or several; it names the right folder where that is near by.
    """
    if not root.is_dir():
        raise CorpusError(f"{root}: a file; expected the folder of {name} that holds {marker}")
    if _contains_marker(root, marker):
        return root
    below = [p for p in sorted(root.iterdir()) if p.is_dir() and _contains_marker(p, marker)]
    if len(below) == 1:
        return below[0]
    if below:
        raise CorpusError(f"{root}: {name} lies there {len(below)} times; give one: {', '.join(p.name for p in below)}")
    above = next((p for p in root.resolve().parents if _contains_marker(p, marker)), None)
    hint = f"give the folder above: {above}" if above else "is this the right folder, and is it unpacked?"
    raise CorpusError(f"{root}: not {name}: it holds no {marker}; {hint}")


def list_recordings(place: Path) -> dict[str, Path]:
    """{stem: path} of the sound files directly in place, sorted; none where there is no such folder.

    Files of macOS that begin with `._` are left out; a .wav is preferred to a .flac of the same name.
    """
    if not place.is_dir():
        return {}
    paths = [p for p in place.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("._")]
    paths.sort(key=lambda p: (p.stem, -SUFFIXES.index(p.suffix.lower())))
    return {p.stem: p for p in paths}  # where a stem is there twice, the last one counts, the .wav


def _contains_marker(place: Path, marker: str) -> bool:
    return next(place.glob(marker), None) is not None
