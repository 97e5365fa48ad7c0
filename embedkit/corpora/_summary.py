"""A corpus counted: utterances, hours, classes, labels, sessions, speakers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from embedkit.corpora._base import Utterance
from embedkit.corpora._registry import find_reader, folder, load
from embedkit.corpora._rows import assign_classes


class CorpusSummary(TypedDict):
    """The document of `corpora NAME`; the last four are {name: count}."""

    utterances: int
    hours: float  # of all utterances whose recording can be read
    unreadable: int  # utterances whose recording is missing, or is not sound
    classes: dict[str, int]  # by the default label map of the reader, in its order
    labels: dict[str, int]
    sessions: dict[str, int]
    speakers: dict[str, int]


def summarise_corpus(name: str, root: str | Path) -> CorpusSummary:
    """Read a corpus and count it. Raises CorpusError as `load` does."""
    rows = load(name, root)
    label_map = find_reader(name, root).LABELS
    classes = Counter(assign_classes(rows, label_map))
    seconds = _measure_lengths(rows, folder(name, root))
    return {
        "utterances": len(rows),
        "hours": round(math.fsum(s for s in seconds if not math.isnan(s)) / 3600, 4),
        "unreadable": sum(map(math.isnan, seconds)),
        "classes": {c: classes[c] for c in label_map},
        "labels": _count_values(u.label for u in rows),
        "sessions": _count_values(u.session for u in rows if u.session),
        "speakers": _count_values(u.speaker for u in rows),
    }


def _count_values(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def _measure_lengths(rows: Iterable[Utterance], place: Path) -> list[float]:
    """The length of each utterance (s) by the header of its recording; NaN where that cannot be read."""
    import soundfile  # here, because listing corpora needs no recording

    durations: dict[str, float] = {}
    lengths = []
    for row in rows:
        if row.file not in durations:
            try:
                durations[row.file] = soundfile.info(place / row.file).duration
            except (OSError, soundfile.SoundFileError):
                durations[row.file] = math.nan
        duration = durations[row.file]
        start = 0.0 if math.isnan(row.start) else row.start
        end = duration if math.isnan(row.end) else min(row.end, duration)
        lengths.append(max(0.0, end - start) if not math.isnan(duration) else math.nan)
    return lengths
