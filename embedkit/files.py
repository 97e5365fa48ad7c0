"""Writing files so that they are whole or not there: under a temporary name, flushed to the disk, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """A temporary path to write to; once the block has ended without an error, the file there is renamed to `path`.

    draft: the temporary path. None: one beside `path` with the id of this process in its name, so that no two processes
    write to the same file. A caller with a lock may give a name that is always the same: what a kill left there is
    overwritten the next time.
    """
    draft = draft or path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        _flush_to_disk(draft)
        draft.replace(path)
        with suppress(OSError):  # not every file system lets a folder be flushed, and the file has its name by now
            _flush_to_disk(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file; after an error or a kill, what was there before is still there."""
    with replacing(path) as draft:
        draft.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file as UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def _flush_to_disk(path: Path) -> None:
    """Make a file, or the entries of a folder, survive a loss of power. Windows cannot open folders, and need not."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
