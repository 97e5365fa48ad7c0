"""Many fits: in this process and, once it pays, in worker processes too."""

from __future__ import annotations

import math
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Lock
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeAlias, TypeVar

from embedkit.errors import EmbedkitError
from embedkit.study.fit import FoldTrainer
from embedkit.study.plan import Fit, StudyPlan
from embedkit.workers import end_with_parent

POOL_PAYS = 20.0  # seconds of work that must lie ahead before worker processes are worth their start

Answer = TypeVar("Answer")
Params: TypeAlias = Mapping[str, object]
Method: TypeAlias = Callable[[FoldTrainer, Fit, Params], Answer]  # a method of FoldTrainer


class Call(NamedTuple, Generic[Answer]):
    """A call of a method of FoldTrainer, and where its result goes."""

    result: Future[Answer]
    method: Method[Answer]
    fit: Fit
    params: Params


class FitPool:
    """Trains heads in this process and, once enough work lies ahead, in worker processes too, with the same results.

    jobs: processes, this one included. total: about how many fits there will be; with their mean time so far it says
    how much work lies ahead.
    """

    def __init__(self, planned: StudyPlan, jobs: int, total: int) -> None:
        """No worker starts yet."""
        self.plan, self.jobs, self.total, self.done = planned, jobs, total, 0
        self.trainer = FoldTrainer(planned)
        self._started_at = math.nan
        # One thread for each worker: it hands over a call when the one before has returned.
        self._threads = ThreadPoolExecutor(max(1, jobs - 1))
        self._pool: ProcessPoolExecutor | None = None
        self._start_lock = Lock()

    def map(self, method: Method[Answer], tasks: Iterable[tuple[Fit, Params]]) -> Generator[Answer, None, None]:
        """The results of a method of FoldTrainer, in the order of tasks. Closing it cancels calls that have not begun.

        Raises EmbedkitError where a worker process dies.
        """
        calls = [Call(Future(), method, fit, params) for fit, params in tasks]
        waiting = deque(calls)
        for _ in range(min(self.jobs, len(calls)) - 1):
            self._threads.submit(self._feed_workers, waiting)
        try:
            for call in calls:
                while waiting and not call.result.done():
                    self._run_next(waiting, self._call_here)
                yield call.result.result()
        except BrokenProcessPool:
            raise EmbedkitError(
                "a worker process died (out of memory?); what is finished is kept: run it again with --jobs 1"
            ) from None
        finally:
            waiting.clear()

    def _run_next(self, waiting: deque[Call[Answer]], run: Callable[[Call[Answer]], Answer]) -> None:
        try:
            call = waiting.popleft()
        except IndexError:
            return  # another thread took it
        try:
            call.result.set_result(run(call))
        except Exception as error:  # raised where the result is asked for
            call.result.set_exception(error)
        self.done += 1

    def _call_here(self, call: Call[Answer]) -> Answer:
        if math.isnan(self._started_at):
            self._started_at = time.perf_counter()
        return call.method(self.trainer, call.fit, call.params)

    def _call_in_worker(self, call: Call[Answer]) -> Answer:
        return self._start_workers().submit(_call_trainer, call.method, call.fit, call.params).result()

    def _feed_workers(self, waiting: deque[Call[Answer]]) -> None:
        while waiting and not self._workers_pay_off():
            time.sleep(0.1)
        while waiting:
            self._run_next(waiting, self._call_in_worker)

    def _workers_pay_off(self) -> bool:
        """Whether there are workers, or it pays to start them now; the fit that is running counts as ended."""
        mean_seconds = (time.perf_counter() - self._started_at) / (self.done + 1)  # NaN before the first
        return self._pool is not None or (self.total - self.done) * mean_seconds > POOL_PAYS

    def _start_workers(self) -> ProcessPoolExecutor:
        with self._start_lock:
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.jobs - 1, context, _start_worker, (self.plan,))
            return self._pool

    def __enter__(self) -> Self:
        """The pool itself, whose processes end when the `with` block does."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End the worker processes and the threads."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self._threads.shutdown()


_trainer: FoldTrainer  # of a worker process


def _start_worker(planned: StudyPlan) -> None:
    """Begin as a worker process, which ends when its parent ends, however that does."""
    global _trainer
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers at once and silently
    _trainer = FoldTrainer(planned)
    end_with_parent()


def _call_trainer(method: Method[Answer], fit: Fit, params: Params) -> Answer:
    return method(_trainer, fit, params)
