"""A corpus counted: utterances, hours, classes, labels, sessions, speakers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embedkit.corpora._base import Utterance
from embedkit.corpora._registry import folder, load, reader
from embedkit.corpora._rows import classes_of


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
