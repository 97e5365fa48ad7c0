"""`embedkit bench`: what this machine can do, and how close embedkit comes to it, on one page.

Each table is one module of this folder, with a TITLE, a HOW and `rows(size)`. Every figure that has a floor is a ratio
of two things that one run measures in turns, so that a busy machine slows both: the median of at least 5, with the
lowest and the highest beside it. Times are CPU seconds of one thread, or wall time where a process is started.
"""

from __future__ import annotations

from embedkit.bench._material import Size, make_clip_lengths, make_encoder, make_features
from embedkit.bench._measure import (
    ProcessUsage,
    Timing,
    fresh_worker,
    make_ratio_row,
    run_command,
    run_in_worker,
    time_in_turns,
)
from embedkit.bench._page import TABLES, BenchDocument, Row, format_number, format_page, run

__all__ = [
    "TABLES",
    "BenchDocument",
    "ProcessUsage",
    "Row",
    "Size",
    "Timing",
    "format_number",
    "format_page",
    "fresh_worker",
    "make_clip_lengths",
    "make_encoder",
    "make_features",
    "make_ratio_row",
    "run",
    "run_command",
    "run_in_worker",
    "time_in_turns",
]
