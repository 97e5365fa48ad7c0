"""`embedkit bench`: what this machine can do, and how near embedkit comes to it, on one page.

Each table is one module of this folder with a TITLE, a HOW and `rows(size)`. Every figure that has a floor is a ratio
of things measured in turns in one run, so that a busy machine slows both sides: the median of at least 5, with the
lowest and the highest beside it. Times are CPU seconds of one thread, but where a process is started: those are wall.
"""

from __future__ import annotations

from embedkit.bench._material import Size, encoder, features, lengths
from embedkit.bench._measure import Ran, Took, alone, command, interleaved, ratio, worker
from embedkit.bench._page import TABLES, Row, run, shown, text

__all__ = [
    "TABLES",
    "Ran",
    "Row",
    "Size",
    "Took",
    "alone",
    "command",
    "encoder",
    "features",
    "interleaved",
    "lengths",
    "ratio",
    "run",
    "shown",
    "text",
    "worker",
]
