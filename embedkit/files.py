"""Files that are whole or not there: written under a temporary name, flushed to the disk, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """A temporary place to write to; once the block has ended without an error, what lies there takes path's name.

    draft: that place. None: a name of this process's own beside path, so that two processes never write to one. Whoever
    holds a lock may give a name that is always the same: what a kill left there is overwritten the next time.
    """
    draft = draft or path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        _flush_to_disk(draft)
        draft.replace(path)
        _flush_to_disk(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, or leave what was there."""
    with replacing(path) as draft:
        draft.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as UTF-8, or leave what was there."""
    write_bytes(path, text.encode())


def _flush_to_disk(path: Path) -> None:
    """Outlive a loss of power: of a folder, its entries. Windows opens no folders, and needs no such call for them."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
