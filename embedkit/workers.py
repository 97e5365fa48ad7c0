"""Worker processes: each answers one call after another, and none outlives this process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeVar, cast

from embedkit.errors import EmbedkitError

Task = TypeVar("Task")  # the error of one that fails names it by its str()
Answer = TypeVar("Answer")

TASKS_PER_WORKER = 2  # that a worker has at a time: one that it works on, one that waits
WORKER_VARIABLES = {  # of a worker's environment
    # One thread for every library.
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    # glibc returns large blocks to the system as soon as they are free, and the next clip pays for every page again: up
    # to 7 % of the time of a clip of 7 s. So a worker keeps its memory, but for blocks of 32 MiB and more: small blocks
    # soon lie in the gaps that these leave, and the next large block then needs new memory.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}


class WorkerError(EmbedkitError):
    """The work cannot go on: a worker died, or a call failed by a fault that is not its task's."""


def map_in_workers(call: Callable[[Task], Answer], tasks: Iterable[Task], jobs: int) -> Generator[Answer]:
    """call(task) of every task, each as soon as it is ready: in this process (jobs 1), or in so many fresh ones.

    At most jobs * TASKS_PER_WORKER tasks are sent ahead. Each worker has a pipe of its own, whose end tells either side
    that the other is dead: no worker outlives this process, and a worker's death raises WorkerError. So does any
    exception in a call, but an EmbedkitError, which is raised as it is.
    """
    if jobs == 1:
        for task in tasks:
            yield _unwrap_answer(_run_task(call, task))
        return
    rest = iter(tasks)
    with _start_workers(call, jobs) as workers:
        waiting: dict[Connection, list[Task]] = {pipe: [] for pipe in workers}
        for _ in range(TASKS_PER_WORKER):
            for pipe in workers:
                _send_next_task(pipe, workers, waiting, rest)
        while any(waiting.values()):
            for pipe in cast(list[Connection], wait([pipe for pipe in waiting if waiting[pipe]])):
                try:
                    answer = pipe.recv()
                except (EOFError, OSError):
                    raise _build_death_error(workers[pipe], waiting[pipe]) from None
                waiting[pipe].pop(0)
                _send_next_task(pipe, workers, waiting, rest)
                yield _unwrap_answer(answer)


def _send_next_task(
    pipe: Connection,
    workers: Mapping[Connection, SpawnProcess],
    waiting: dict[Connection, list[Task]],
    rest: Iterator[Task],
) -> None:
    for task in islice(rest, 1):
        waiting[pipe].append(task)
        try:
            pipe.send(task)
        except OSError:
            raise _build_death_error(workers[pipe], waiting[pipe]) from None


def _build_death_error(process: SpawnProcess, tasks: Sequence[Task]) -> WorkerError:
    process.join(5)
    return WorkerError(
        f"a worker process died (exit code {process.exitcode}: killed, out of memory, or crashed) at"
        f" {tasks[0]}; with fewer --jobs less memory is needed"
    )


def _unwrap_answer(answer: Answer | EmbedkitError) -> Answer:
    if isinstance(answer, EmbedkitError):
        raise answer
    return answer


def _run_task(call: Callable[[Task], Answer], task: Task) -> Answer | EmbedkitError:
    try:
        return call(task)
    except EmbedkitError as error:
        return error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return WorkerError(f"{task}: {reason}")


@contextmanager
def _start_workers(call: Callable[[Task], Answer], jobs: int) -> Iterator[dict[Connection, SpawnProcess]]:
    """Fresh processes, by our end of the pipe to each; they end with the block."""
    context = get_context("spawn")
    workers: dict[Connection, SpawnProcess] = {}
    try:
        with worker_environment():
            for _ in range(jobs):
                our_end, worker_end = context.Pipe()
                process = context.Process(target=_serve_tasks, args=(worker_end, call), daemon=True)
                process.start()
                worker_end.close()
                workers[our_end] = process
        yield workers
    finally:
        for pipe, process in workers.items():
            pipe.close()
            process.terminate()
        for process in workers.values():
            process.join()


def _serve_tasks(pipe: Connection, call: Callable[[Task], Answer]) -> None:
    """All that a worker does: answer tasks until the other end of the pipe is closed, or its process dead."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        while True:
            pipe.send(_run_task(call, pipe.recv()))
    except (EOFError, OSError):
        return


@contextmanager
def worker_environment() -> Iterator[None]:
    """A process that is started in this block has `WORKER_VARIABLES` in its environment, and ignores Ctrl-C, which is
    for its parent. Afterwards this process is as it was."""
    before = {name: os.environ.get(name) for name in WORKER_VARIABLES}
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
    os.environ.update(WORKER_VARIABLES)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)


def end_with_parent() -> None:
    """Make this process end at once when the one that started it ends, in whatever way."""

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
