"""Measuring: commands in turns, processor time, memory of a family of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from embedkit.bench._page import Row
from embedkit.errors import UserError


class Timing(float):
    """CPU seconds, said by a call that another process has made."""


def time_in_turns(
    calls: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds that each call takes, `repeats` times in turns: what it says it `Timing`, else by the clock around it."""
    timings: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begin = clock()
            result = call()
            timings[name].append(result if isinstance(result, Timing) else clock() - begin)
    return timings


def make_ratio_row(
    what: str, over: Sequence[float], under: Sequence[float], scale: float = 1, **row_fields: Any
) -> Row:
    """The median of scale * over[i] / under[i], of the same round each, as a row."""
    values = [scale * a / b for a, b in zip(over, under, strict=True)]
    return Row(what, median(values), low=min(values), high=max(values), **row_fields)


@dataclass(frozen=True)
class ProcessUsage:
    """What a command took."""

    seconds: float  # wall
    cpu: float  # of it and its children together (s)
    megabytes: float | None  # the highest memory of it and its children together; None where the system does not say


def run_command(*arguments: str, memory: bool = False) -> ProcessUsage:
    """Run `python arguments...` to its end. Raises UserError with its last line where it fails."""
    begin, before = time.perf_counter(), _read_children_cpu()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    peak = [0.0]
    watcher = threading.Thread(target=_watch_memory, args=(process, peak), daemon=True)
    if memory:
        watcher.start()
    error = process.communicate()[1]
    seconds = time.perf_counter() - begin
    if memory:
        watcher.join()
    if process.returncode:
        raise UserError(f"{' '.join(arguments)} failed: {(error.strip().splitlines() or ['no message'])[-1]}")
    return ProcessUsage(seconds, _read_children_cpu() - before, peak[0] or None)


@contextmanager
def fresh_worker() -> Iterator[Callable[..., Any]]:
    """A fresh process that finds what a worker of `extract` finds: one thread, memory that is kept. What is yielded
    makes calls there: ask(call, *what). Ctrl-C ends it."""
    from embedkit.workers import worker_environment

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with worker_environment():  # no longer than it takes to start: Ctrl-C is not heard meanwhile
            process = pool.submit(os.getpid).result()
        try:
            yield lambda call, *what: pool.submit(call, *what).result()
        except KeyboardInterrupt:
            os.kill(process, signal.SIGTERM)
            raise


def run_in_worker(call: Callable[..., Any], *what: Any) -> Any:
    """call(*what) in a `worker` of its own."""
    with fresh_worker() as ask:
        return ask(call, *what)


def _read_children_cpu() -> float:
    """CPU seconds of the processes that this one has started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _watch_memory(process: subprocess.Popen[str], peak: list[float]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_read_memory, _list_process_tree(process.pid))))
        time.sleep(0.1)


def _list_process_tree(pid: int) -> list[int]:
    """A process and those that it started, and theirs (Linux; elsewhere only itself)."""
    try:
        children = [
            int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()
        ]
    except OSError:
        children = []
    return [pid, *(one for child in children for one in _list_process_tree(child))]


def _read_memory(pid: int) -> float:
    """Memory of a process, what it shares with others divided among them; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("Pss:")), 0.0)
