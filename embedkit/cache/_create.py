"""Creating a cache file: every dataset is allocated at its full size before any row is filled."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from embedkit import files
from embedkit.cache._access import NOT_WRITTEN, acquire_lock, translate_hdf5_errors
from embedkit.cache._schema import (
    CHUNK_ROWS,
    DATASET_NAMES,
    DIGEST_BYTES,
    NUMBER_FIELDS,
    REASON_BYTES,
    encode_texts,
    format_attributes,
)
from embedkit.cache.identity import Identity
from embedkit.corpora import Utterance
from embedkit.encoders import STATS
from embedkit.errors import CacheError


def create_cache(path: Path, identity: Identity, rows: Sequence[Utterance], layers: int, dim: int) -> None:
    """Create a whole file whose every row is missing, in place of a file that was there.

    layers, dim: of the encoder. Raises CacheError where another process writes the file, or where it cannot be written.
    """
    if not rows:
        raise CacheError(f"{path}: no rows to lay out; a cache holds at least one utterance")
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(rows), 1 + identity.views, layers, len(STATS), dim)
    chunk_rows = min(CHUNK_ROWS, len(rows))
    size = 2 * math.prod(shape[1:]) * chunk_rows * -(-len(rows) // chunk_rows)
    if (free := shutil.disk_usage(path.parent).free) < size:
        raise CacheError(f"{path}: needs {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; make room")
    lock = acquire_lock(path)
    try:
        with translate_hdf5_errors(path, NOT_WRITTEN):
            # There is one writer at a time, so the draft has always the same name, and what a kill left is overwritten.
            draft = path.with_name(path.name + ".new")
            with files.replacing(path, draft), h5py.File(draft, "w", locking=False) as file:
                _create_datasets(file, rows, shape, (chunk_rows, 1, 1, 1, dim))
                file.attrs.update(format_attributes(identity))
    finally:
        lock.release()


def _create_datasets(
    file: h5py.File, rows: Sequence[Utterance], shape: tuple[int, ...], chunks: tuple[int, ...]
) -> None:
    _allocate_dataset(file, "features", shape, np.float16, chunks, np.float16(np.nan))
    _allocate_dataset(file, "done", shape[:1], np.uint8)
    _allocate_dataset(file, "skip_reason", shape[:1], h5py.string_dtype("utf-8", REASON_BYTES))
    _allocate_dataset(file, "audio_digest", shape[:1], h5py.string_dtype("utf-8", DIGEST_BYTES))
    _allocate_dataset(file, "seconds", shape[:1], np.float64, fillvalue=np.nan)
    for field in fields(Utterance):
        values = [getattr(row, field.name) for row in rows]
        if field.name in NUMBER_FIELDS:
            _allocate_dataset(file, field.name, shape[:1], np.float64)[:] = values
        else:
            encoded = encode_texts(values)
            _allocate_dataset(file, DATASET_NAMES.get(field.name, field.name), shape[:1], encoded.dtype)[:] = encoded


def _allocate_dataset(
    file: h5py.File,
    name: str,
    shape: tuple[int, ...],
    kind: npt.DTypeLike,
    chunks: tuple[int, ...] | None = None,
    fillvalue: float | np.float16 | None = None,
) -> h5py.Dataset:
    """A dataset whose every byte has its place in the file from the beginning."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    return file.create_dataset(name, shape, kind, dcpl=properties, chunks=chunks, fillvalue=fillvalue)
