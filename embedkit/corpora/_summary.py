"""A corpus counted: utterances, hours, classes, labels, sessions, speakers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embedkit.corpora._base import Utterance
from embedkit.corpora._registry import find_reader, folder, load
from embedkit.corpora._rows import assign_classes


def summarise_corpus(name: str, root: Path) -> dict[str, Any]:
    """What `corpora NAME` shows: {utterances, hours, unreadable, classes, labels, sessions, speakers}.

    The last four are {name: count}; classes by the reader's default label map, in its order. hours is the length of
    all readable utterances; unreadable counts those whose recording is missing or is not sound.
    """
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
    """Each utterance's length (s) by the header of its recording; NaN where that cannot be read."""
    import soundfile  # here, because counting is the only thing of this module that opens a recording

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
