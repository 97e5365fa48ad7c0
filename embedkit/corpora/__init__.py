"""Corpora: each module of this folder reads one; being in the folder is the registration.

A reader yields what the corpus itself says. Which of its labels count as which class is a study's choice (the label
map in `embedkit.cards`), so an annotator's code (`exc`) is kept as it stands.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from embedkit.errors import CorpusError, did_you_mean


@dataclass(frozen=True, slots=True)
class Utterance:
    """One labelled recording, or one part of a recording. Unknown texts are "", unknown numbers NaN."""

    id: str  # unique in its corpus
    file: str  # relative to the corpus's root, with forward slashes
    label: str  # the corpus's own word
    speaker: str  # a reader gives the corpus's own id; `load` makes it "<corpus>:<id>"
    session: str = ""
    text: str = ""  # what is said: the sentence's id, where the corpus has one (shared between speakers)
    dialogue: str = ""
    gender: str = ""  # "female", "male" or ""
    start: float = math.nan  # where it begins and ends in `file` (s); NaN: the whole file
    end: float = math.nan
    valence: float = math.nan
    activation: float = math.nan
    dominance: float = math.nan


class Reader(Protocol):
    """What a module of this folder offers."""

    LICENCE: str  # the terms, in a few words
    SOURCE: str  # how to get it
    LABELS: dict[str, list[str]]  # the default label map: class -> the corpus's own labels

    def read(self, root: Path) -> Iterator[Utterance]:
        """Yield every labelled utterance in one order on every machine; CorpusError where root is not this corpus."""
        ...


def names() -> list[str]:
    """Every corpus that has a module, as the command line spells it ("crema-d")."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__))


def reader(name: str, root: Path | None = None) -> Reader:
    """The reader of a corpus. Any name whose place is a .csv is read as a manifest.

    Raises CorpusError with the nearest known name.
    """
    if name not in names():
        if root is None or root.suffix.lower() != ".csv":
            raise CorpusError(f"unknown corpus '{name}'{did_you_mean(name, names())}")
        name = "manifest"
    return cast(Reader, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))


def load(name: str, root: Path) -> list[Utterance]:
    """Every labelled utterance of the corpus at root, speakers named "<corpus>:<id>".

    Raises CorpusError where root is missing, holds nothing that the reader knows, or names an utterance twice.
    """
    if not root.exists():
        raise CorpusError(
            f"{root}: no such file or folder; where does {name} lie? (--root, or [corpora] in embedkit.toml)"
        )
    rows = [replace(u, speaker=f"{name}:{u.speaker}") for u in reader(name, root).read(root)]
    if not rows:
        raise CorpusError(f"{root}: no labelled utterance of {name} found")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise CorpusError(f"{root}: utterance '{row.id}' is there twice")
        seen.add(row.id)
    return rows
