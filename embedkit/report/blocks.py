"""The parts of a report: headings, texts, lists, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Heading(NamedTuple):
    """A heading; level 1 is the report's title."""

    text: str
    level: int = 2


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Bullets(NamedTuple):
    """A list of points."""

    lines: Sequence[str]


class Table(NamedTuple):
    """A table; its first row is the header."""

    rows: list[list[str]]


class Picture(NamedTuple):
    """A picture, which lies in figures/<name>.svg and .png."""

    name: str
    caption: str


Block = Heading | Text | Bullets | Table | Picture
