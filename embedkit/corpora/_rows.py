"""Rows of a corpus: their classes, and which of them a pass takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from embedkit.corpora._base import Utterance
from embedkit.errors import CorpusError


def assign_classes(utterances: Iterable[Utterance], label_map: Mapping[str, Sequence[str]]) -> list[str]:
    """Each utterance's class, "" where the label map (class -> the corpus's labels) does not name its label.

    >>> rows = [Utterance("a", "a.wav", "exc", "1"), Utterance("b", "b.wav", "xxx", "1")]
    >>> assign_classes(rows, {"happiness": ["exc"]})
    ['happiness', '']
    """
    class_by_label: dict[str, str] = {}
    for name, labels in label_map.items():
        for label in labels:
            if class_by_label.setdefault(label, name) != name:
                raise CorpusError(
                    f"label map: '{label}' is both {class_by_label[label]} and {name}; a label has one class"
                )
    return [class_by_label.get(u.label, "") for u in utterances]


def select_rows(
    corpus: str, utterances: Sequence[Utterance], label_map: Mapping[str, Sequence[str]], labels: str
) -> list[Utterance]:
    """The rows of a file: those whose label the map names, or all. Raises CorpusError where there are none."""
    known = {label for group in label_map.values() for label in group}
    rows = [u for u in utterances if labels == "all" or u.label in known]
    if not rows:
        present_labels = ", ".join(sorted({u.label for u in utterances})[:20])
        raise CorpusError(
            f"{corpus}: no label is one of {', '.join(sorted(known))}; it has {present_labels};"
            " --labels all takes every one"
        )
    return rows


def pick_balanced_rows(rows: Sequence[Utterance], limit: int | None) -> list[int]:
    """Numbers of at most `limit` rows, ascending: every pair of speaker and label once, then every pair twice, ...

    Pairs come diagonal by diagonal, so even a few rows are of many speakers and all labels. A smaller limit's rows
    lie in a larger one's.
    """
    if limit is None:
        return list(range(len(rows)))
    speakers = {name: i for i, name in enumerate(dict.fromkeys(u.speaker for u in rows))}
    labels = {name: i for i, name in enumerate(dict.fromkeys(u.label for u in rows))}
    pair_counts: Counter[tuple[int, int]] = Counter()
    order = []
    for row, u in enumerate(rows):
        pair = speakers[u.speaker], labels[u.label]
        order.append((pair_counts[pair], (pair[1] - pair[0]) % len(labels), pair[0], row))
        pair_counts[pair] += 1
    return sorted(row for *_, row in sorted(order)[:limit])
