"""Which caches of a corpus there are, for the error of one that is missing."""

from __future__ import annotations

from pathlib import Path

import h5py

from embedkit.cache._access import DAMAGED, translate_hdf5_errors
from embedkit.cache._schema import DONE
from embedkit.errors import CacheError


def describe_cached(cache_folder: Path, corpus: str) -> str:
    """The caches of a corpus in a workspace's cache/, each with the flags that reach it; "" where there are none.

    E.g. "; cached of ravdess: --recipe crop --encoder whisper-tiny.en-encoder (576 of 576 rows)". Files that cannot be
    read are left out.
    """
    found = []
    for path in sorted(cache_folder.glob("*/*/*.h5")):
        if path.stem == corpus:
            try:
                found.append(f"--recipe {path.parts[-3]} {_describe_file(path)}")
            except CacheError:
                continue
    return f"; cached of {corpus}: {', '.join(found)}" if found else ""


def describe_cached_beside(path: Path) -> str:
    """`describe_cached` for a file that would lie at cache/<recipe>/<encoder>/<corpus>.h5; "" for any other place."""
    folders = path.absolute().parents
    if len(folders) < 3 or folders[2].name != "cache":
        return ""
    return describe_cached(folders[2], path.stem)


def _describe_file(path: Path) -> str:
    with translate_hdf5_errors(path, DAMAGED), h5py.File(path, "r", locking=False) as file:
        done = file["done"][()]
        return f"--encoder {file.attrs['encoder']} ({int((done == DONE).sum())} of {len(done)} rows)"
