"""Worker processes that answer calls in any order and never outlive this process."""

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

Task = TypeVar("Task")  # its str() names it where it fails
Answer = TypeVar("Answer")

TASKS_PER_WORKER = 2  # tasks that a worker has at a time: one in its hands, one waiting
WORKER_VARIABLES = {  # what a worker finds in its environment
    # One thread for every library.
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    # glibc hands large memory back as soon as it is free, and the next clip pays for every page anew: up to 7 % of the
    # time of a clip of 7 s. So a worker keeps what its clips took, but for blocks of 32 MiB and more: what they leave
    # is soon strewn with small ones, and the next one is taken beside it.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}


class WorkerError(EmbedkitError):
    """The pass cannot go on: a worker died, or met a fault that is not the clip's."""


def map_in_workers(call: Callable[[Task], Answer], tasks: Iterable[Task], jobs: int) -> Generator[Answer]:
    """call(task) of every task, as they are ready: in this process (jobs 1), or in so many fresh ones.

    No more than jobs * AHEAD tasks are in flight. Each worker has a pipe of its own, so each side learns from its end
    that the other is dead: no worker outlives this process, and a worker's death raises Broken.
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
    """Fresh processes, each at the other end of a pipe; they end with the block."""
    context = get_context("spawn")
    workers: dict[Connection, SpawnProcess] = {}
    try:
        with worker_environment():
            for _ in range(jobs):
                mine, theirs = context.Pipe()
                process = context.Process(target=_serve_tasks, args=(theirs, call), daemon=True)
                process.start()
                theirs.close()
                workers[mine] = process
        yield workers
    finally:
        for pipe, process in workers.items():
            pipe.close()
            process.terminate()
        for process in workers.values():
            process.join()


def _serve_tasks(pipe: Connection, call: Callable[[Task], Answer]) -> None:
    """A worker's life: answer tasks until the other end is closed, or dead."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        while True:
            pipe.send(_run_task(call, pipe.recv()))
    except (EOFError, OSError):
        return


@contextmanager
def worker_environment() -> Iterator[None]:
    """What a new process inherits: `WORKER_VARIABLES` in its environment, and Ctrl-C left to the parent."""
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
    """End this worker at once when the process that started it ends, however it does."""

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
