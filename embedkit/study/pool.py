"""Many fits: in this process and, once it pays, in worker processes too."""

from __future__ import annotations

import math
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Lock
from types import TracebackType
from typing import Any, NamedTuple, Self

from embedkit.errors import EmbedkitError
from embedkit.study.fit import Bench
from embedkit.study.plan import StudyPlan
from embedkit.workers import end_with_parent

POOL_PAYS = 20.0  # seconds of work that must lie ahead before worker processes are worth their start


class Task(NamedTuple):
    """A call of a method of Bench, and where its result goes."""

    result: Future[Any]
    what: str
    given: tuple[Any, ...]


class Crew:
    """Does a bench's work here and, once enough of it lies ahead, in worker processes too; the same bits either way.

    total: about how many fits there will be; with the mean time of those so far it says what lies ahead.
    """

    def __init__(self, planned: StudyPlan, jobs: int, total: int) -> None:
        self.plan, self.jobs, self.total, self.done = planned, jobs, total, 0
        self.bench = Bench(planned)
        self._began = math.nan
        # One for each worker: it hands over a task when the one before is done.
        self._threads = ThreadPoolExecutor(max(1, jobs - 1))
        self._pool: ProcessPoolExecutor | None = None
        self._starting = Lock()

    def map(self, what: str, tasks: Iterable[tuple[Any, ...]]) -> Generator[Any, None, None]:
        """The results of a method of Bench, in the order of tasks. Closing it takes back what has not begun."""
        every = [Task(Future(), what, task) for task in tasks]
        waiting = deque(every)
        for _ in range(min(self.jobs, len(every)) - 1):
            self._threads.submit(self._hand_over, waiting)
        try:
            for task in every:
                while waiting and not task.result.done():
                    self._next(waiting, self._here)
                yield task.result.result()
        except BrokenProcessPool:
            raise EmbedkitError(
                "a worker process died (out of memory?); what is finished is kept: run it again with --jobs 1"
            ) from None
        finally:
            waiting.clear()

    def _next(self, waiting: deque[Task], do: Callable[..., Any]) -> None:
        try:
            task = waiting.popleft()
        except IndexError:
            return  # another one was faster
        try:
            task.result.set_result(do(task.what, *task.given))
        except Exception as error:  # raised where the result is asked for
            task.result.set_exception(error)
        self.done += 1

    def _here(self, what: str, *given: Any) -> Any:
        if math.isnan(self._began):
            self._began = time.perf_counter()
        return getattr(self.bench, what)(*given)

    def _hand_over(self, waiting: deque[Task]) -> None:
        while waiting and not self._pays():
            time.sleep(0.1)
        while waiting:
            self._next(waiting, lambda *task: self._workers().submit(_work, *task).result())

    def _pays(self) -> bool:
        """Whether there are workers, or it pays to start them now; the fit that is going on counts as ended."""
        each = (time.perf_counter() - self._began) / (self.done + 1)  # NaN before the first
        return self._pool is not None or (self.total - self.done) * each > POOL_PAYS

    def _workers(self) -> ProcessPoolExecutor:
        with self._starting:
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.jobs - 1, context, _enlist, (self.plan,))
            return self._pool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self._threads.shutdown()


_bench: Bench  # a worker's own


def _enlist(planned: StudyPlan) -> None:
    """Begin as a worker: get ready, and end when the process that asked ends, however it does."""
    global _bench
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers at once and silently
    _bench = Bench(planned)
    end_with_parent()


def _work(what: str, *task: Any) -> Any:
    return getattr(_bench, what)(*task)
