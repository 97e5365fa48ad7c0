"""How many cores this process may use, and how to use one thread only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def count_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for BLAS, OpenMP and torch (where it is loaded); afterwards as many as before.

    Sums are then added in the same order on every machine, and processes that run side by side do not slow each other.
    """
    # threadpoolctl: sets the threads of BLAS and OpenMP in a process that already runs.
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")  # importing it here would cost a study that does not need it two seconds
    before = torch.get_num_threads() if torch else 0
    with threadpool_limits(1):
        if torch:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)
