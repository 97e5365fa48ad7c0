"""An open cache file: its rows are read, filled and marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt

# filelock: a lock that the operating system drops when its process dies.
from filelock import FileLock

from embedkit.cache._access import DAMAGED, NOT_WRITTEN, acquire_lock, translate_hdf5_errors
from embedkit.cache._nearby import describe_cached_beside
from embedkit.cache._schema import (
    CHUNK_ROWS,
    DATASET_NAMES,
    DIGEST_BYTES,
    DONE,
    REASON_BYTES,
    SKIPPED,
    check_format,
    encode_texts,
    list_datasets,
    parse_identity,
)
from embedkit.corpora import Utterance
from embedkit.encoders import STATS
from embedkit.errors import CacheError

Column: TypeAlias = npt.NDArray[Any]  # [row]: texts, numbers or states, by dataset
RowChoice: TypeAlias = Sequence[int] | npt.NDArray[np.intp] | npt.NDArray[np.bool_] | None  # numbers, a mask, or all


class Cache:
    """An open file: `with Cache.open(path) as cache`. Rows are counted from 0, in the order of the corpus."""

    def __init__(self, path: Path, file: h5py.File, lock: FileLock | None) -> None:
        """See `open`, which checks the file first. Raises ValueError or KeyError where it is not whole."""
        self.path, self._file, self._lock = path, file, lock
        self._data = {name: file[name] for name in list_datasets()}  # a look-up in HDF5 costs more than a small write
        self.identity = parse_identity(file.attrs)
        self.digest = str(file.attrs["digest"])  # as written; `verify` compares it with the digest of the identity
        self.ids = self._read_text("ids")
        self.rows, views, self.layers, stats, self.dim = self._data["features"].shape
        if self.ids.shape != (self.rows,) or views != 1 + self.identity.views or stats != len(STATS):
            raise ValueError(f"{self.rows} rows, {views} views and {stats} statistics do not fit its attributes")

    @classmethod
    def open(cls, path: str | Path, write: bool = False) -> Cache:
        """Open a file to read, or as its only writer.

        Raises CacheError where the file is missing, not a cache, damaged or of another format version; and, to write,
        where another process writes it.
        """
        path = Path(path)
        if not path.is_file():
            command = f"embedkit extract --corpus {path.stem}"
            raise CacheError(f"{path}: no such cache; make it with: {command}{describe_cached_beside(path)}")
        with ExitStack() as undo, translate_hdf5_errors(path, DAMAGED):
            if not h5py.is_hdf5(path):  # HDF5 would turn an empty file into one of its format
                raise OSError("no HDF5 signature")
            lock = acquire_lock(path) if write else None
            if lock:
                undo.callback(lock.release)
            # No chunk cache: nothing is compressed, so rows go straight from and to their places in the file. No lock
            # by HDF5: a file may be read while a pass writes it.
            file = undo.enter_context(h5py.File(path, "r+" if write else "r", locking=False, rdcc_nbytes=0))
            check_format(path, file)
            cache = cls(path, file, lock)
            undo.pop_all()
            return cache

    def close(self) -> None:
        """Close the file, and release the writer's lock."""
        self._file.close()
        if self._lock:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def done(self) -> npt.NDArray[np.uint8]:
        """[row]: 0 missing, 1 done, 2 skipped."""
        return self._read("done")

    @property
    def audio_digests(self) -> npt.NDArray[np.str_]:
        """[row]: the digest of the decoded samples, "" where it is not known."""
        return self._read_text("audio_digest")

    def skipped(self) -> list[tuple[str, str]]:
        """(id, reason) of every skipped row."""
        rows = np.flatnonzero(self.done == SKIPPED)
        reasons = self._read_text("skip_reason")
        return [(str(self.ids[row]), str(reasons[row])) for row in rows]

    def metadata(self) -> dict[str, Column]:
        """Every column of the file but the features, by the name of its dataset: arrays [row]."""
        return {name: self._read_column(name) for name in list_datasets() if name != "features"}

    def read_utterances(self) -> list[Utterance]:
        """The rows as the corpus's reader gave them."""
        columns = {f.name: self._read_column(DATASET_NAMES.get(f.name, f.name)).tolist() for f in fields(Utterance)}
        return [Utterance(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]

    def features(
        self,
        rows: RowChoice = None,
        *,
        views: Sequence[int] = (0,),
        layers: Sequence[int] = (-1,),
        stats: Sequence[int] = (0,),
    ) -> npt.NDArray[np.float16]:
        """Features [row, view, layer, stat, dim] of the rows asked for (numbers or a mask; None: all), NaN if not done.

        Negative layers count from the last. Only chunks (64 rows of one view, layer and statistic) with something that
        was asked for are read. Raises CacheError for a view, layer or statistic that the file does not have, IndexError
        for such a row.
        """
        v, l, s = (  # noqa: E741
            self._resolve_indices("view", views, 1 + self.identity.views),
            self._resolve_indices("layer", layers, self.layers),
            self._resolve_indices("statistic", stats, len(STATS)),
        )
        places, back = _resolve_rows(rows, self.rows)
        out = np.empty((len(places), len(v), len(l), len(s), self.dim), np.float16)
        data = self._data["features"]
        with translate_hdf5_errors(self.path, DAMAGED):
            for lo, hi in _split_runs(places):
                first, last = places[lo], places[hi - 1] + 1
                dense = last - first == hi - lo
                for i, j, k in np.ndindex(len(v), len(l), len(s)):
                    block = data[first:last, v[i], l[j], s[k]]
                    out[lo:hi, i, j, k] = block if dense else block[places[lo:hi] - first]
        return out if back is None else out[back]

    def fill_rows(
        self,
        rows: Sequence[int],
        features: npt.NDArray[np.float16],
        seconds: Sequence[float],
        digests: Sequence[str],
    ) -> None:
        """Write features [len(rows), view, layer, stat, dim], lengths (s) and digests; then mark the rows done."""
        shape = (len(rows), *self._data["features"].shape[1:])
        if features.shape != shape or features.dtype != np.float16:
            raise ValueError(f"features {features.dtype} {features.shape}; expected float16 {shape}")
        with translate_hdf5_errors(self.path, NOT_WRITTEN):
            self._write_rows("features", rows, features)
            self._write_rows("seconds", rows, np.asarray(seconds))
            self._write_rows("audio_digest", rows, encode_texts(digests, DIGEST_BYTES))
            self._mark_rows(rows, DONE, "")

    def skip(self, row: int, reason: str, digest: str = "") -> None:
        """Mark a row as one that cannot be used, with the reason. digest: of its samples, where they could be read."""
        with translate_hdf5_errors(self.path, NOT_WRITTEN):
            self._write_rows("audio_digest", [row], encode_texts([digest], DIGEST_BYTES))
            self._mark_rows([row], SKIPPED, reason)

    def _mark_rows(self, rows: Sequence[int], state: int, reason: str) -> None:
        self._file.flush()
        self._write_rows("skip_reason", rows, encode_texts([reason] * len(rows), REASON_BYTES))
        self._write_rows("done", rows, np.full(len(rows), state, np.uint8))
        self._file.flush()

    def _write_rows(self, name: str, rows: Sequence[int], values: Column) -> None:
        """Write values [len(rows), ...] to their rows; neighbours together, which HDF5 does much faster."""
        places = np.asarray(rows)
        order = np.argsort(places)
        for run in np.split(order, np.flatnonzero(np.diff(places[order]) > 1) + 1):
            self._data[name][places[run[0]] : places[run[-1]] + 1] = values[run]

    def _resolve_indices(self, what: str, requested: Sequence[int], count: int) -> list[int]:
        for number in requested:
            if not -count <= number < count:
                raise CacheError(f"{self.path}: {what} {number} is asked for, the file holds {what}s 0 to {count - 1}")
        return [int(number) % count for number in requested]

    def _read_column(self, name: str) -> Column:
        return self._read_text(name) if self._data[name].dtype.kind == "S" else self._read(name)

    def _read_text(self, name: str) -> npt.NDArray[np.str_]:
        with translate_hdf5_errors(self.path, DAMAGED):
            return np.char.decode(self._read(name), "utf-8")

    def _read(self, name: str) -> Column:
        with translate_hdf5_errors(self.path, DAMAGED):
            values: Column = self._data[name][()]
        return values


def _resolve_rows(rows: RowChoice, count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp] | None]:
    """The rows asked for, ascending and each once; and the index that restores their order (None: it is the same)."""
    if rows is None:
        return np.arange(count), None
    rows = np.asarray(rows)
    if rows.dtype == bool:
        if rows.shape != (count,):
            raise IndexError(f"a mask of {rows.shape}; the file holds {count} rows")
        return np.flatnonzero(rows), None
    rows = rows.astype(np.intp, casting="same_kind" if rows.size else "unsafe")
    if rows.size and not (rows.min() >= 0 and rows.max() < count):
        raise IndexError(f"rows {rows.min()} to {rows.max()}; the file holds 0 to {count - 1}")
    places, back = np.unique(rows, return_inverse=True)
    return places, None if np.array_equal(places, rows) else back


def _split_runs(places: npt.NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Cut ascending rows wherever a whole chunk between two of them is not needed."""
    cuts = np.flatnonzero(np.diff(places // CHUNK_ROWS) > 1) + 1
    bounds = [0, *cuts.tolist(), len(places)]
    return ((lo, hi) for lo, hi in pairwise(bounds) if hi > lo)
