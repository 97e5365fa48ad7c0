"""How long one waits for a verb that does little."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from embedkit.bench._material import Size
from embedkit.bench._measure import command, interleaved, ratio
from embedkit.bench._page import Row

TITLE = "Start-up"
HOW = 'Wall time from process start to exit against `python -c "import torch"`, in turns.'


def rows(size: Size) -> Iterator[Row]:
    from embedkit.workspace import init

    with tempfile.TemporaryDirectory() as folder:
        home = str(init(Path(folder) / "workspace").root)
        calls = {
            "torch": lambda: command("-c", "import torch"),
            "help": lambda: command("-m", "embedkit", "--help"),
            "ls": lambda: command("-m", "embedkit", "--workspace", home, "cache", "ls"),
        }
        interleaved(calls, 1)  # once for the disk
        taken = interleaved(calls, size.repeats, time.perf_counter)
    yield ratio("embedkit --help", taken["help"], taken["torch"], floor=0.25, most=True, unit="of importing torch")
    yield ratio("embedkit cache ls", taken["ls"], taken["torch"], floor=0.5, most=True, unit="of importing torch")
