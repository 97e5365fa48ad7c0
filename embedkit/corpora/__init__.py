"""Corpora: each module of this folder reads one; being in the folder is the registration.

A reader yields what the corpus itself says. Which of its labels count as which class is a study's choice (the label
map in `embedkit.cards`), so an annotator's code (`exc`) is kept as it stands.
"""

from __future__ import annotations

from embedkit.corpora._base import Utterance
from embedkit.corpora._registry import folder, load, names, reader
from embedkit.corpora._rows import classes_of, select, spread
from embedkit.corpora._sound import read_sound
from embedkit.corpora._summary import summary

__all__ = ["Utterance", "classes_of", "folder", "load", "names", "read_sound", "reader", "select", "spread", "summary"]
