"""Corpora: each module of this folder reads one, and being in the folder is its registration.

A reader yields the labels of the corpus as they are, such as an annotator's code (`exc`). Which of them count as which
class is the choice of a study (its card's `labels`); each reader has a default, `LABELS`.
"""

from __future__ import annotations

from embedkit.corpora._base import SkippedClip, Utterance
from embedkit.corpora._registry import find_reader, folder, list_corpora, load
from embedkit.corpora._rows import assign_classes, pick_balanced_rows, select_rows
from embedkit.corpora._sound import read_sound
from embedkit.corpora._summary import CorpusSummary, summarise_corpus

__all__ = [
    "CorpusSummary",
    "SkippedClip",
    "Utterance",
    "assign_classes",
    "find_reader",
    "folder",
    "list_corpora",
    "load",
    "pick_balanced_rows",
    "read_sound",
    "select_rows",
    "summarise_corpus",
]
