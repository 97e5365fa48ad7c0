"""How long a verb takes that does little."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from embedkit.bench._material import Size
from embedkit.bench._measure import make_ratio_row, run_command, time_in_turns
from embedkit.bench._page import Row

TITLE = "Start-up"
HOW = 'Wall time from process start to exit against `python -c "import torch"`, in turns.'


def rows(size: Size) -> Iterator[Row]:
    """`embedkit --help` and `embedkit cache ls` against importing torch."""
    from embedkit.workspace import init_workspace

    with tempfile.TemporaryDirectory() as folder:
        home = str(init_workspace(Path(folder) / "workspace").root)
        calls = {
            "torch": lambda: run_command("-c", "import torch"),
            "help": lambda: run_command("-m", "embedkit", "--help"),
            "ls": lambda: run_command("-m", "embedkit", "--workspace", home, "cache", "ls"),
        }
        time_in_turns(calls, 1)  # so that the files are in memory
        timings = time_in_turns(calls, size.repeats, time.perf_counter)
    yield make_ratio_row(
        "embedkit --help", timings["help"], timings["torch"], floor=0.25, most=True, unit="of importing torch"
    )
    yield make_ratio_row(
        "embedkit cache ls", timings["ls"], timings["torch"], floor=0.5, most=True, unit="of importing torch"
    )
