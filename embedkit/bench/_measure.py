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


class Took(float):
    """CPU seconds, said by a call that another process has made."""


def interleaved(
    calls: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds that each call takes, `repeats` times in turns: what it says it `Took`, else by the clock around it."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begin = clock()
            said = call()
            taken[name].append(said if isinstance(said, Took) else clock() - begin)
    return taken


def ratio(what: str, over: Sequence[float], under: Sequence[float], scale: float = 1, **more: Any) -> Row:
    """The median of scale * over[i] / under[i], of the same round each, as a row."""
    values = [scale * a / b for a, b in zip(over, under, strict=True)]
    return Row(what, median(values), low=min(values), high=max(values), **more)


@dataclass(frozen=True)
class Ran:
    """What a command took."""

    seconds: float  # wall
    cpu: float  # of it and its children together (s)
    megabytes: float | None  # the highest memory of it and its children together; None where the system does not say


def command(*arguments: str, memory: bool = False) -> Ran:
    """Run `python arguments...` to its end. Raises UserError with its last line where it fails."""
    begin, before = time.perf_counter(), _cpu_of_children()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    peak = [0.0]
    watch = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    if memory:
        watch.start()
    error = process.communicate()[1]
    seconds = time.perf_counter() - begin
    if memory:
        watch.join()
    if process.returncode:
        raise UserError(f"{' '.join(arguments)} failed: {(error.strip().splitlines() or ['no message'])[-1]}")
    return Ran(seconds, _cpu_of_children() - before, peak[0] or None)


@contextmanager
def worker() -> Iterator[Callable[..., Any]]:
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


def alone(call: Callable[..., Any], *what: Any) -> Any:
    """call(*what) in a `worker` of its own."""
    with worker() as ask:
        return ask(call, *what)


def _cpu_of_children() -> float:
    """CPU seconds of the processes that this one has started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _watch(process: subprocess.Popen[str], peak: list[float]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_megabytes, _family(process.pid))))
        time.sleep(0.1)


def _family(pid: int) -> list[int]:
    """A process and those that it started, and theirs (Linux; elsewhere only itself)."""
    try:
        children = [
            int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()
        ]
    except OSError:
        children = []
    return [pid, *(one for child in children for one in _family(child))]


def _megabytes(pid: int) -> float:
    """Memory of a process, what it shares with others divided among them; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("Pss:")), 0.0)
