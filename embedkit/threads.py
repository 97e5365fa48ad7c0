"""How many cores there are for us, and how to keep to one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


def count_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread(*, blas: bool = True, torch: bool = True) -> Iterator[None]:
    """One thread for BLAS and OpenMP, and for torch, inside the block; afterwards as many as before.

    Sums then have the same order on every machine, and processes side by side do not wait for each other. blas: False
    saves some milliseconds where only torch computes. torch: False does not import torch, which takes seconds, where
    other libraries compute.
    """
    with ExitStack() as stack:
        if torch:
            import torch as library

            stack.callback(library.set_num_threads, library.get_num_threads())
            library.set_num_threads(1)
        if blas:
            # threadpoolctl: sets the threads of BLAS and OpenMP in a process that runs already.
            from threadpoolctl import threadpool_limits

            stack.enter_context(threadpool_limits(1))
        yield
