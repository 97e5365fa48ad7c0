"""Measuring: calls in turns, CPU time, and the memory of a process with its children."""

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
from typing import ParamSpec, Protocol, TypeVar, Unpack

from embedkit.bench._page import Row, RowFields
from embedkit.errors import UserError

P = ParamSpec("P")
Answer = TypeVar("Answer")


class Timing(float):
    """CPU seconds, as the result of a call that took them in another process."""


def time_in_turns(
    calls: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds that each call takes, by its name, `repeats` times in turns: its result if that is a `Timing`, else by
    the clock."""
    timings: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begin = clock()
            result = call()
            timings[name].append(result if isinstance(result, Timing) else clock() - begin)
    return timings


def make_ratio_row(
    what: str, over: Sequence[float], under: Sequence[float], scale: float = 1, **row_fields: Unpack[RowFields]
) -> Row:
    """A row of the median of scale * over[i] / under[i], where both are of the same round i."""
    values = [scale * a / b for a, b in zip(over, under, strict=True)]
    return Row(what, median(values), low=min(values), high=max(values), **row_fields)


@dataclass(frozen=True)
class ProcessUsage:
    """What a command took."""

    seconds: float  # wall time
    cpu: float  # CPU time of it and its children together (s)
    megabytes: float | None  # peak memory of it and its children together; None where the system does not report it


def run_command(*arguments: str, memory: bool = False) -> ProcessUsage:
    """Run `python arguments...` to its end. Raises UserError with the last line of stderr where it fails."""
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


class CallWorker(Protocol):
    """Makes calls in a worker."""

    def __call__(self, call: Callable[P, Answer], *arguments: P.args, **named: P.kwargs) -> Answer:
        """The result of call(*arguments, **named), all of which are pickled."""
        ...


@contextmanager
def fresh_worker() -> Iterator[CallWorker]:
    """A fresh process in the environment of a worker of `extract`: one thread, memory that it keeps. Ctrl-C ends it."""
    from embedkit.workers import worker_environment

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with worker_environment():  # until it has started, no longer: Ctrl-C is ignored meanwhile
            process = pool.submit(os.getpid).result()

        def call_worker(call: Callable[P, Answer], *arguments: P.args, **named: P.kwargs) -> Answer:
            """The call's result, as `CallWorker`."""
            return pool.submit(call, *arguments, **named).result()

        try:
            yield call_worker
        except KeyboardInterrupt:
            os.kill(process, signal.SIGTERM)
            raise


def run_in_worker(call: Callable[P, Answer], *arguments: P.args, **named: P.kwargs) -> Answer:
    """call(*arguments, **named) in a `fresh_worker` of its own."""
    with fresh_worker() as call_worker:
        return call_worker(call, *arguments, **named)


def _read_children_cpu() -> float:
    """CPU seconds of those processes started by this one that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _watch_memory(process: subprocess.Popen[str], peak: list[float]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_read_memory, _list_process_tree(process.pid))))
        time.sleep(0.1)


def _list_process_tree(pid: int) -> list[int]:
    """A process, its children, their children and so on (on Linux; elsewhere the process alone)."""
    try:
        children = [
            int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()
        ]
    except OSError:
        children = []
    return [pid, *(one for child in children for one in _list_process_tree(child))]


def _read_memory(pid: int) -> float:
    """Memory of a process (MB), with its part of what several processes share; 0 if the system does not report it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("Pss:")), 0.0)
