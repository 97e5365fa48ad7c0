"""The parts of a report: headings, texts, lists, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Heading(NamedTuple):
    text: str
    level: int = 2


class Text(NamedTuple):
    text: str


class Bullets(NamedTuple):
    lines: Sequence[str]


class Table(NamedTuple):
    rows: list[list[str]]  # the first is the header


class Picture(NamedTuple):
    name: str  # figures/<name>.svg and .png
    caption: str


Block = Heading | Text | Bullets | Table | Picture
