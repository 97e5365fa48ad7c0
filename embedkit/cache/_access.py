"""Access to a cache file: the writer's lock, and HDF5's errors as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# filelock: a lock that the operating system drops when its process dies.
from filelock import FileLock, Timeout

from embedkit.errors import CacheError

DAMAGED = "not a cache, or damaged; --fresh begins anew"
NOT_WRITTEN = "cannot be written; is the folder writable, the disk full?"


def acquire_lock(path: Path) -> FileLock:
    """Take the writer's lock of a cache file, and hold it until it is released.

    Raises CacheError where another process has it, or where the folder cannot be written.
    """
    lock = FileLock(path.with_name(path.name + ".lock"), thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CacheError(f"{path}: another process is writing it; wait until it ends") from None
    except OSError as error:
        raise CacheError(f"{path}: cannot be written ({error.strerror or error})") from None
    return lock


@contextmanager
def translate_hdf5_errors(path: Path, advice: str) -> Iterator[None]:
    """Turn HDF5's errors, which are many lines long, into a CacheError of one line: path, advice and the cause."""
    try:
        yield
    except CacheError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        detail = " ".join(str(error).split())[:160]
        raise CacheError(f"{path}: {advice} ({detail})") from None
