"""Rows of a corpus: their classes, and which of them a pass encodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from embedkit.corpora._base import Utterance
from embedkit.errors import CorpusError


def assign_classes(utterances: Iterable[Utterance], label_map: Mapping[str, Sequence[str]]) -> list[str]:
    """The class of each utterance, "" where the label map (class -> labels of the corpus) does not have its label.

    Raises CorpusError where the map gives one label two classes.

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
    """The rows of a cache file: those whose label is in the map, or with labels "all" every one.

    Raises CorpusError where there are none.
    """
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
    """The numbers of at most `limit` rows, ascending: one of each pair of speaker and label, then a second of each, ...

    Pairs are taken diagonal by diagonal, so even a few rows have many speakers and all labels. The rows of a smaller
    limit are among those of a larger one. limit None: all rows.
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
