"""How many cores there are for us, and how to keep to one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """torch, BLAS and OpenMP with one thread, as a worker of a pass has it; as they were afterwards."""
    import torch

    # threadpoolctl: sets the threads of BLAS and OpenMP in a process that runs already.
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
