"""How many cores there are for us, and how to keep to one of them."""

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
    """BLAS, OpenMP and torch (where it is loaded) with one thread, and as they were afterwards.

    Sums then have one order on every machine, and what runs side by side is not in each other's way.
    """
    # threadpoolctl: sets the threads of BLAS and OpenMP in a process that runs already.
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")  # importing it here would cost a study that has no need of it two seconds
    before = torch.get_num_threads() if torch else 0
    with threadpool_limits(1):
        if torch:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)
