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
from embedkit.study.fit import FoldTrainer
from embedkit.study.plan import StudyPlan
from embedkit.workers import end_with_parent

POOL_PAYS = 20.0  # seconds of work that must lie ahead before worker processes are worth their start


class Call(NamedTuple):
    """A call of a method of Bench, and where its result goes."""

    result: Future[Any]
    what: str
    arguments: tuple[Any, ...]


class FitPool:
    """Does a bench's work here and, once enough of it lies ahead, in worker processes too; the same bits either way.

    total: about how many fits there will be; with the mean time of those so far it says what lies ahead.
    """

    def __init__(self, planned: StudyPlan, jobs: int, total: int) -> None:
        self.plan, self.jobs, self.total, self.done = planned, jobs, total, 0
        self.trainer = FoldTrainer(planned)
        self._started_at = math.nan
        # One for each worker: it hands over a task when the one before is done.
        self._threads = ThreadPoolExecutor(max(1, jobs - 1))
        self._pool: ProcessPoolExecutor | None = None
        self._start_lock = Lock()

    def map(self, method: str, arguments: Iterable[tuple[Any, ...]]) -> Generator[Any, None, None]:
        """The results of a method of Bench, in the order of tasks. Closing it takes back what has not begun."""
        calls = [Call(Future(), method, task) for task in arguments]
        waiting = deque(calls)
        for _ in range(min(self.jobs, len(calls)) - 1):
            self._threads.submit(self._feed_workers, waiting)
        try:
            for call in calls:
                while waiting and not call.result.done():
                    self._next(waiting, self._call_here)
                yield call.result.result()
        except BrokenProcessPool:
            raise EmbedkitError(
                "a worker process died (out of memory?); what is finished is kept: run it again with --jobs 1"
            ) from None
        finally:
            waiting.clear()

    def _next(self, waiting: deque[Call], do: Callable[..., Any]) -> None:
        try:
            call = waiting.popleft()
        except IndexError:
            return  # another one was faster
        try:
            call.result.set_result(do(call.what, *call.arguments))
        except Exception as error:  # raised where the result is asked for
            call.result.set_exception(error)
        self.done += 1

    def _call_here(self, method: str, *arguments: Any) -> Any:
        if math.isnan(self._started_at):
            self._started_at = time.perf_counter()
        return getattr(self.trainer, method)(*arguments)

    def _feed_workers(self, waiting: deque[Call]) -> None:
        while waiting and not self._workers_pay_off():
            time.sleep(0.1)
        while waiting:
            self._next(waiting, lambda *task: self._start_workers().submit(_call_trainer, *task).result())

    def _workers_pay_off(self) -> bool:
        """Whether there are workers, or it pays to start them now; the fit that is going on counts as ended."""
        mean_seconds = (time.perf_counter() - self._started_at) / (self.done + 1)  # NaN before the first
        return self._pool is not None or (self.total - self.done) * mean_seconds > POOL_PAYS

    def _start_workers(self) -> ProcessPoolExecutor:
        with self._start_lock:
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.jobs - 1, context, _start_worker, (self.plan,))
            return self._pool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self._threads.shutdown()


_trainer: FoldTrainer  # a worker's own


def _start_worker(planned: StudyPlan) -> None:
    """Begin as a worker: get ready, and end when the process that asked ends, however it does."""
    global _trainer
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers at once and silently
    _trainer = FoldTrainer(planned)
    end_with_parent()


def _call_trainer(method: str, *arguments: Any) -> Any:
    return getattr(_trainer, method)(*arguments)
