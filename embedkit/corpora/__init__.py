"""Corpora: each module of this folder reads one; being in the folder is the registration.

A reader yields what the corpus itself says. Which of its labels count as which class is a study's choice (the label
map in `embedkit.cards`), so an annotator's code (`exc`) is kept as it stands.
"""

from __future__ import annotations

from embedkit.corpora._base import Utterance
from embedkit.corpora._registry import find_reader, folder, list_corpora, load
from embedkit.corpora._rows import assign_classes, pick_balanced_rows, select_rows
from embedkit.corpora._sound import read_sound
from embedkit.corpora._summary import summarise_corpus

__all__ = [
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
