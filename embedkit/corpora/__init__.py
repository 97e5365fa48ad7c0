"""Corpora: each module of this folder reads one; being in the folder is the registration.

A reader yields what the corpus itself says. Which of its labels count as which class is a study's choice (the label
map in `embedkit.cards`), so an annotator's code (`exc`) is kept as it stands.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from embedkit.errors import CorpusError, did_you_mean

SUFFIXES = (".wav", ".flac")  # where a clip is there as both, the first counts


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

    def folder(self, root: Path) -> Path:
        """The folder that `Utterance.file` is relative to: root, or the one in it that is meant."""
        ...

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
    rows = [replace(u, speaker=f"{name}:{u.speaker}") for u in _reader_at(name, root).read(root)]
    if not rows:
        raise CorpusError(f"{root}: no labelled utterance of {name} found")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise CorpusError(f"{root}: utterance '{row.id}' is there twice")
        seen.add(row.id)
    return rows


def folder(name: str, root: Path) -> Path:
    """The folder that `Utterance.file` is relative to: a manifest's own, else root or the folder in it that is meant.

    Raises CorpusError as `load` does.
    """
    return _reader_at(name, root).folder(root)


def classes_of(utterances: Iterable[Utterance], label_map: Mapping[str, Sequence[str]]) -> list[str]:
    """Each utterance's class, "" where the label map (class -> the corpus's labels) does not name its label.

    >>> classes_of([Utterance("a", "a.wav", "exc", "1"), Utterance("b", "b.wav", "xxx", "1")], {"happiness": ["exc"]})
    ['happiness', '']
    """
    of: dict[str, str] = {}
    for name, labels in label_map.items():
        for label in labels:
            if of.setdefault(label, name) != name:
                raise CorpusError(f"label map: '{label}' is both {of[label]} and {name}; a label has one class")
    return [of.get(u.label, "") for u in utterances]


def summary(name: str, root: Path) -> dict[str, Any]:
    """What `corpora NAME` shows: {utterances, hours, unreadable, classes, labels, sessions, speakers}.

    The last four are {name: count}; classes by the reader's default label map, in its order. hours is the length of
    all readable utterances; unreadable counts those whose recording is missing or is not sound.
    """
    rows = load(name, root)
    label_map = reader(name, root).LABELS
    classes = Counter(classes_of(rows, label_map))
    seconds = _lengths(rows, folder(name, root))
    return {
        "utterances": len(rows),
        "hours": round(math.fsum(s for s in seconds if not math.isnan(s)) / 3600, 4),
        "unreadable": sum(map(math.isnan, seconds)),
        "classes": {c: classes[c] for c in label_map},
        "labels": _count(u.label for u in rows),
        "sessions": _count(u.session for u in rows if u.session),
        "speakers": _count(u.speaker for u in rows),
    }


# ---------------------------------------------------------------- for the readers


def locate(name: str, root: Path, marker: str) -> Path:
    """root, or the only folder directly in it, that holds something matching marker (a glob).

    Raises CorpusError that says which folder to give, where one near by is the right one.
    """
    if not root.is_dir():
        raise CorpusError(f"{root}: a file; expected the folder of {name} that holds {marker}")
    if _holds(root, marker):
        return root
    below = [p for p in sorted(root.iterdir()) if p.is_dir() and _holds(p, marker)]
    if len(below) == 1:
        return below[0]
    if below:
        raise CorpusError(f"{root}: {name} lies there {len(below)} times; give one: {', '.join(p.name for p in below)}")
    above = next((p for p in root.resolve().parents if _holds(p, marker)), None)
    hint = f"give the folder above: {above}" if above else "is this the right folder, and is it unpacked?"
    raise CorpusError(f"{root}: not {name}: it holds no {marker}; {hint}")


def recordings(place: Path) -> dict[str, Path]:
    """{stem: path} of the sound files directly in place, sorted; none where there is no such folder.

    macOS's `._` companions are left out; a .wav is taken before a .flac of the same name.
    """
    if not place.is_dir():
        return {}
    found = [p for p in place.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("._")]
    found.sort(key=lambda p: (p.stem, -SUFFIXES.index(p.suffix.lower())))
    return {p.stem: p for p in found}  # of a stem that is there twice the last, .wav, stays


def _holds(place: Path, marker: str) -> bool:
    return next(place.glob(marker), None) is not None


def _reader_at(name: str, root: Path) -> Reader:
    found = reader(name, root)
    if not root.exists():
        raise CorpusError(
            f"{root}: no such file or folder; where does {name} lie? (--root, or [corpora] in embedkit.toml)"
        )
    return found


def _count(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def _lengths(rows: Iterable[Utterance], place: Path) -> list[float]:
    """Each utterance's length (s) by the header of its recording; NaN where that cannot be read."""
    import soundfile  # here, because counting is the only thing of this module that opens a recording

    known: dict[str, float] = {}
    lengths = []
    for row in rows:
        if row.file not in known:
            try:
                known[row.file] = soundfile.info(place / row.file).duration
            except (OSError, soundfile.SoundFileError):
                known[row.file] = math.nan
        whole = known[row.file]
        start = 0.0 if math.isnan(row.start) else row.start
        end = whole if math.isnan(row.end) else min(row.end, whole)
        lengths.append(max(0.0, end - start) if not math.isnan(whole) else math.nan)
    return lengths
