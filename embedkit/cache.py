"""The cache file: pooled features of a corpus in HDF5, safe against a kill at any moment. Nothing else knows HDF5.

A file that grows while it is written can be broken by a kill. So the whole file is laid out under another name, every
dataset allocated at its full size, and renamed; from then on rows are only filled in place, flushed, and marked done
last. Its metadata never changes again, so a kill costs at most the rows in flight.

    /features   [row, view, layer, stat, dim] float16; NaN where a row is not done. stat 0 mean, 1 standard deviation
    /ids /file /label /speaker /session /text /dialogue /gender     UTF-8 of fixed length, "" if unknown
    /start /end /seconds /valence /activation /dominance            float64, NaN if unknown; seconds: as decoded
    /done       uint8: 0 missing, 1 done, 2 skipped; why in /skip_reason
    /audio_digest   of the decoded samples, "" where they could not be read
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
import numpy.typing as npt

# filelock: a lock that the operating system drops when its process dies.
from filelock import FileLock, Timeout

from embedkit import __version__
from embedkit.corpora import Utterance
from embedkit.errors import CacheError, ClipError, UserError

if TYPE_CHECKING:
    from embedkit.cards import Recipe
    from embedkit.encoders import Spec
    from embedkit.workspace import Workspace

FORMAT = 1
MISSING, DONE, SKIPPED = 0, 1, 2
CHUNK_ROWS = 64
STATS = ("mean", "std")
REASON_BYTES = 200
DIGEST_BYTES = 32

NEWER = {"sound.crop": False}  # settings that older files do not name, and what they were made with

DAMAGED = "not a cache, or damaged; --fresh begins anew"
NOT_WRITTEN = "cannot be written; is the folder writable, the disk full?"

NUMBERS = ("start", "end", "valence", "activation", "dominance")  # of an Utterance; its other fields are texts
COLUMNS = {"id": "ids"}  # an Utterance's field and its dataset, where the names differ


# ---------------------------------------------------------------- what a file is of


@dataclass(frozen=True)
class Identity:
    """Everything that decides what the features of a file are."""

    corpus: str
    recipe: Mapping[str, Any]  # what is in effect: precision, sound and, where there are views, augment
    encoder: str  # hub id, or the folder's name
    revision: str
    weights_digest: str
    random: bool  # weights: random
    labels: str = "mapped"  # rows: "mapped", those of the corpus's label map, or "all"
    views: int = 0  # augmented views beside the clean one

    @classmethod
    def of(
        cls, corpus: str, recipe: Recipe, spec: Spec, *, views: int | None = None, labels: str = "mapped"
    ) -> Identity:
        """What a pass with these settings makes. views None: the recipe's."""
        views = recipe.views if views is None else views
        settings = recipe.model_dump(mode="json", include={"precision", "sound"} | ({"augment"} if views else set()))
        return cls(
            corpus, settings, spec.id, spec.revision, spec.weights_digest, spec.random, labels=labels, views=views
        )

    @property
    def digest(self) -> str:
        """64 hex characters; the same for the same settings on every machine."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def differences(self, file: Identity) -> list[str]:
        """What a file would have to say to serve what is asked for here; [] where it serves it.

        More views and more labels than asked for serve. E.g. ["sound.trim_db: 20.0 here, 30.0 in the file"].
        """
        mine, theirs = self._settings(), file._settings()
        served = {"views"} if self.views <= file.views else set()
        served |= {"labels"} if file.labels == "all" else set()
        if not (self.views and file.views):
            served |= {key for key in mine | theirs if key.startswith("augment.")}
        return [
            f"{key}: {mine.get(key, 'nothing')} here, {theirs.get(key, 'nothing')} in the file"
            for key in dict.fromkeys((*mine, *theirs))
            if key not in served and mine.get(key) != theirs.get(key)
        ]

    def _settings(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "recipe"}
        return {**own, **NEWER, **_flat(self.recipe)}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"sound": {"peak": 0.95}} as {"sound.peak": 0.95}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def changes(held: Sequence[Utterance], wanted: Sequence[Utterance]) -> str:
    """How the rows of a file differ from the corpus as it is now, "" where they do not (their order does not count)."""
    old, new = {u.id: u for u in held}, {u.id: u for u in wanted}
    counts = {"new": len(new.keys() - old.keys()), "gone": len(old.keys() - new.keys())}
    # repr, because NaN differs from itself
    other = [id_ for id_, u in new.items() if id_ in old and repr(u) != repr(old[id_])]
    parts = [f"{n} {what}" for what, n in counts.items() if n]
    if other:
        first = next(f.name for f in fields(Utterance) if _said(old[other[0]], f.name) != _said(new[other[0]], f.name))
        was, now = _said(old[other[0]], first), _said(new[other[0]], first)
        parts.append(f"{len(other)} described otherwise ('{other[0]}': {first} was {was}, is now {now})")
    return ", ".join(parts)


def _said(utterance: Utterance, field: str) -> str:
    return repr(getattr(utterance, field))


# ---------------------------------------------------------------- laying a file out


def create(path: Path, identity: Identity, rows: Sequence[Utterance], layers: int, dim: int) -> None:
    """Lay the whole file out, every row missing, in place of what was there.

    Raises CacheError where another process writes it, or where it cannot be written.
    """
    if not rows:
        raise CacheError(f"{path}: no rows to lay out; a cache holds at least one utterance")
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(rows), 1 + identity.views, layers, len(STATS), dim)
    chunk_rows = min(CHUNK_ROWS, len(rows))
    size = 2 * math.prod(shape[1:]) * chunk_rows * -(-len(rows) // chunk_rows)
    if (free := shutil.disk_usage(path.parent).free) < size:
        raise CacheError(f"{path}: needs {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; make room")
    draft = path.with_name(path.name + ".new")
    lock = _acquired(path)
    try:
        with _readable(path, NOT_WRITTEN):
            with h5py.File(draft, "w", locking=False) as file:
                _lay_out(file, rows, shape, (chunk_rows, 1, 1, 1, dim))
                file.attrs.update(_attributes(identity))
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
        lock.release()


def _lay_out(file: h5py.File, rows: Sequence[Utterance], shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
    _allocate(file, "features", shape, np.float16, chunks=chunks, fillvalue=np.float16(np.nan))
    _allocate(file, "done", shape[:1], np.uint8)
    _allocate(file, "skip_reason", shape[:1], h5py.string_dtype("utf-8", REASON_BYTES))
    _allocate(file, "audio_digest", shape[:1], h5py.string_dtype("utf-8", DIGEST_BYTES))
    _allocate(file, "seconds", shape[:1], np.float64, fillvalue=np.nan)
    for field in fields(Utterance):
        values = [getattr(row, field.name) for row in rows]
        if field.name in NUMBERS:
            _allocate(file, field.name, shape[:1], np.float64)[:] = values
        else:
            encoded = _fixed(values)
            _allocate(file, COLUMNS.get(field.name, field.name), shape[:1], encoded.dtype)[:] = encoded


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], kind: Any, **more: Any) -> h5py.Dataset:
    """A dataset whose every byte has its place in the file from the beginning."""
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    return file.create_dataset(name, shape, kind, dcpl=early, **more)


def _attributes(identity: Identity) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "embedkit": __version__,
        "digest": identity.digest,
        "corpus": identity.corpus,
        "recipe": json.dumps(identity.recipe),
        "encoder": identity.encoder,
        "revision": identity.revision,
        "weights_digest": identity.weights_digest,
        "weights": "random" if identity.random else "pretrained",
        "labels": identity.labels,
        "views": identity.views,
    }


def _identity(attributes: Mapping[str, Any]) -> Identity:
    a = {key: str(value) for key, value in attributes.items()}
    return Identity(
        corpus=a["corpus"],
        recipe=json.loads(a["recipe"]),
        encoder=a["encoder"],
        revision=a["revision"],
        weights_digest=a["weights_digest"],
        random=a["weights"] == "random",
        labels=a["labels"],
        views=int(a["views"]),
    )


def _fixed(texts: Sequence[str], size: int | None = None) -> npt.NDArray[np.bytes_]:
    """UTF-8 of one length for all: size bytes, cut between two characters; None: the longest's."""
    try:
        encoded = [text.encode() for text in texts]
    except UnicodeEncodeError as error:
        raise CacheError(f"{error.object!r} is not UTF-8; rename that recording") from None
    size = size or max(1, *map(len, encoded))
    cut = [text[:size].decode(errors="ignore").encode() for text in encoded]
    return np.array(cut, dtype=h5py.string_dtype("utf-8", size))


# ---------------------------------------------------------------- reading and filling


class Cache:
    """An open file: `with Cache.open(path) as cache`. Rows are counted from 0, in the corpus's order."""

    def __init__(self, path: Path, file: h5py.File, lock: FileLock | None) -> None:
        self.path, self._file, self._lock = path, file, lock
        self._data = {name: file[name] for name in _names()}  # a look-up in HDF5 costs more than a small write
        self.identity = _identity(file.attrs)
        self.digest = str(file.attrs["digest"])  # as written; `verify` holds it against the identity's own
        self.ids = self._text("ids")
        self.rows, views, self.layers, stats, self.dim = self._data["features"].shape
        if self.ids.shape != (self.rows,) or views != 1 + self.identity.views or stats != len(STATS):
            raise ValueError(f"{self.rows} rows, {views} views and {stats} statistics do not fit its attributes")

    @classmethod
    def open(cls, path: Path, write: bool = False) -> Cache:
        """Open a file to read, or as its only writer.

        Raises CacheError where it is missing, not ours, damaged or of another format version, or written by another.
        """
        if not path.is_file():
            raise CacheError(f"{path}: no such cache; make it with: embedkit extract --corpus {path.stem}")
        with ExitStack() as undo, _readable(path, DAMAGED):
            if not h5py.is_hdf5(path):  # HDF5 would make a file of its own out of an empty one
                raise OSError("no HDF5 signature")
            lock = _acquired(path) if write else None
            if lock:
                undo.callback(lock.release)
            # No chunk cache: nothing is compressed, so rows go straight from and to their places in the file. No lock
            # of HDF5's own: a pass may be looked at while it runs.
            file = undo.enter_context(h5py.File(path, "r+" if write else "r", locking=False, rdcc_nbytes=0))
            _check_format(path, file)
            cache = cls(path, file, lock)
            undo.pop_all()
            return cache

    def close(self) -> None:
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
        """[row]: of the decoded samples, "" where they are not known."""
        return self._text("audio_digest")

    def skipped(self) -> list[tuple[str, str]]:
        """(id, reason) of every skipped row."""
        rows = np.flatnonzero(self.done == SKIPPED)
        reasons = self._text("skip_reason")
        return [(str(self.ids[row]), str(reasons[row])) for row in rows]

    def metadata(self) -> dict[str, npt.NDArray[Any]]:
        """Every column of the file but the features, by its dataset's name: arrays [row]."""
        return {name: self._column(name) for name in _names() if name != "features"}

    def utterances(self) -> list[Utterance]:
        """The rows as the corpus's reader gave them."""
        columns = {f.name: self._column(COLUMNS.get(f.name, f.name)).tolist() for f in fields(Utterance)}
        return [Utterance(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]

    def features(
        self,
        rows: Sequence[int] | npt.NDArray[np.intp] | npt.NDArray[np.bool_] | None = None,
        *,
        views: Sequence[int] = (0,),
        layers: Sequence[int] = (-1,),
        stats: Sequence[int] = (0,),
    ) -> npt.NDArray[np.float16]:
        """Features [row, view, layer, stat, dim] of the rows asked for (numbers or a mask; None: all), NaN if not done.

        Only the chunks (64 rows of one view, layer and statistic) that hold something asked for are read. Layers count
        from the end where negative. Raises CacheError for what the file does not hold.
        """
        v, l, s = (  # noqa: E741
            self._known("view", views, 1 + self.identity.views),
            self._known("layer", layers, self.layers),
            self._known("statistic", stats, len(STATS)),
        )
        places, back = _places(rows, self.rows)
        out = np.empty((len(places), len(v), len(l), len(s), self.dim), np.float16)
        data = self._data["features"]
        with _readable(self.path, DAMAGED):
            for lo, hi in _runs(places):
                first, last = places[lo], places[hi - 1] + 1
                dense = last - first == hi - lo
                for i, j, k in np.ndindex(len(v), len(l), len(s)):
                    block = data[first:last, v[i], l[j], s[k]]
                    out[lo:hi, i, j, k] = block if dense else block[places[lo:hi] - first]
        return out if back is None else out[back]

    def fill(
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
        with _readable(self.path, NOT_WRITTEN):
            self._put("features", rows, features)
            self._put("seconds", rows, np.asarray(seconds))
            self._put("audio_digest", rows, _fixed(digests, DIGEST_BYTES))
            self._mark(rows, DONE, "")

    def skip(self, row: int, reason: str, digest: str = "") -> None:
        """Mark a row as one that cannot be used, and say why. digest: of its samples, where they could be read."""
        with _readable(self.path, NOT_WRITTEN):
            self._put("audio_digest", [row], _fixed([digest], DIGEST_BYTES))
            self._mark([row], SKIPPED, reason)

    def _mark(self, rows: Sequence[int], state: int, reason: str) -> None:
        self._file.flush()
        self._put("skip_reason", rows, _fixed([reason] * len(rows), REASON_BYTES))
        self._put("done", rows, np.full(len(rows), state, np.uint8))
        self._file.flush()

    def _put(self, name: str, rows: Sequence[int], values: npt.NDArray[Any]) -> None:
        """Write values [len(rows), ...] to their rows; neighbours together, which HDF5 does much faster."""
        places = np.asarray(rows)
        order = np.argsort(places)
        for run in np.split(order, np.flatnonzero(np.diff(places[order]) > 1) + 1):
            self._data[name][places[run[0]] : places[run[-1]] + 1] = values[run]

    def _known(self, what: str, asked: Sequence[int], held: int) -> list[int]:
        for number in asked:
            if not -held <= number < held:
                raise CacheError(f"{self.path}: {what} {number} is asked for, the file holds {what}s 0 to {held - 1}")
        return [int(number) % held for number in asked]

    def _column(self, name: str) -> npt.NDArray[Any]:
        return self._text(name) if self._data[name].dtype.kind == "S" else self._read(name)

    def _text(self, name: str) -> npt.NDArray[np.str_]:
        with _readable(self.path, DAMAGED):
            return np.char.decode(self._read(name), "utf-8")

    def _read(self, name: str) -> npt.NDArray[Any]:
        with _readable(self.path, DAMAGED):
            values: npt.NDArray[Any] = self._data[name][()]
        return values


def _names() -> list[str]:
    own = [COLUMNS.get(f.name, f.name) for f in fields(Utterance)]
    return [*own, "seconds", "audio_digest", "done", "skip_reason", "features"]


def _places(rows: Any, held: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp] | None]:
    """The rows asked for, ascending and each once, and how to take them back into the order asked for (None: as is)."""
    if rows is None:
        return np.arange(held), None
    rows = np.asarray(rows)
    if rows.dtype == bool:
        if rows.shape != (held,):
            raise IndexError(f"a mask of {rows.shape}; the file holds {held} rows")
        return np.flatnonzero(rows), None
    rows = rows.astype(np.intp, casting="same_kind" if rows.size else "unsafe")
    if rows.size and not (rows.min() >= 0 and rows.max() < held):
        raise IndexError(f"rows {rows.min()} to {rows.max()}; the file holds 0 to {held - 1}")
    places, back = np.unique(rows, return_inverse=True)
    return places, None if np.array_equal(places, rows) else back


def _runs(places: npt.NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Cut ascending rows where a whole chunk lies between two of them that none of them needs."""
    cuts = np.flatnonzero(np.diff(places // CHUNK_ROWS) > 1) + 1
    bounds = [0, *cuts.tolist(), len(places)]
    return ((lo, hi) for lo, hi in pairwise(bounds) if hi > lo)


def _check_format(path: Path, file: h5py.File) -> None:
    """Raises CacheError for a file that is not a cache of this format version."""
    version = file.attrs.get("format")
    if version is None:
        raise CacheError(f"{path}: an HDF5 file, but not a cache of embedkit's; --fresh begins anew")
    if version != FORMAT:
        raise CacheError(f"{path}: format {version}; this embedkit reads format {FORMAT}; --fresh begins anew")


def _acquired(path: Path) -> FileLock:
    """The writer's lock, held until it is released."""
    lock = FileLock(path.with_name(path.name + ".lock"), thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CacheError(f"{path}: another process is writing it; wait until it ends") from None
    except OSError as error:
        raise CacheError(f"{path}: cannot be written ({error.strerror or error})") from None
    return lock


@contextmanager
def _readable(path: Path, advice: str) -> Iterator[None]:
    """HDF5's own errors, many lines long, as one CacheError."""
    try:
        yield
    except CacheError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        detail = " ".join(str(error).split())[:160]
        raise CacheError(f"{path}: {advice} ({detail})") from None


# ---------------------------------------------------------------- looking at files


def ls(workspace: Workspace) -> list[dict[str, Any]]:
    """Every cache file of a workspace, one dictionary each; `problem` says why one cannot be read."""
    return [_line(path, workspace.cache) for path in sorted(workspace.cache.glob("*/*/*.h5"))]


def _line(path: Path, folder: Path) -> dict[str, Any]:
    recipe, encoder, _ = path.relative_to(folder).parts
    line: dict[str, Any] = {"recipe": recipe, "encoder": encoder, "corpus": path.stem}
    try:
        with Cache.open(path) as cache:
            identity = cache.identity
            line |= {
                **_counts(cache),
                "views": identity.views,
                "labels": identity.labels,
                "weights": _weights(identity),
            }
            problem = ""
    except CacheError as error:
        line |= dict.fromkeys(("rows", "done", "todo", "skipped", "views", "labels", "weights"), "")
        problem = str(error)
    return {**line, "bytes": path.stat().st_size, "file": str(path), "problem": problem}


def info(path: Path) -> dict[str, Any]:
    """What a file is of, how large, how far it has come; `skips` has every skipped row with its reason."""
    with Cache.open(path) as cache:
        identity, done = cache.identity, cache.done == DONE
        seconds, labels = cache._read("seconds")[done], cache._text("label")[done]
        return {
            "file": str(path),
            "corpus": identity.corpus,
            "encoder": identity.encoder,
            "revision": identity.revision,
            "weights": _weights(identity),
            "weights_digest": identity.weights_digest,
            "labels": identity.labels,
            **_counts(cache),
            "complete": not (cache.done == MISSING).any(),
            "views": identity.views,
            "layers": cache.layers,
            "dim": cache.dim,
            "hours": round(float(seconds.sum()) / 3600, 4),
            "done_by_label": dict(sorted(Counter(labels.tolist()).items())),
            "bytes": path.stat().st_size,
            "recipe": _flat(identity.recipe),
            "digest": cache.digest,
            "format": FORMAT,
            "embedkit": str(cache._file.attrs["embedkit"]),
            "skips": [f"{id_}: {reason}" for id_, reason in cache.skipped()],
        }


def _counts(cache: Cache) -> dict[str, int]:
    done = cache.done
    states = {"done": DONE, "todo": MISSING, "skipped": SKIPPED}
    return {"rows": cache.rows, **{name: int((done == state).sum()) for name, state in states.items()}}


def _weights(identity: Identity) -> str:
    return "random" if identity.random else "pretrained"


def verify(path: Path, root: Path | None = None) -> dict[str, Any]:
    """Read everything again; with the corpus's place, its label files and every clip too.

    Returns {file, rows, recordings, problems}: how many rows are done, how many recordings were read again, and one
    line for each thing that is not as it should be.
    """
    with Cache.open(path) as cache:
        problems = [*_unsound(cache)]
        recordings = 0
        if root is not None:
            recordings = int((cache.done == DONE).sum())
            problems += _altered(cache, root)
        return {"file": str(path), "rows": cache.rows, "recordings": recordings, "problems": problems}


def _unsound(cache: Cache) -> Iterator[str]:
    """What is wrong inside the file."""
    states, digests = cache.done, cache.audio_digests
    done = np.flatnonzero(states == DONE)
    if cache.digest != cache.identity.digest:
        yield "its digest is not that of its settings: an attribute was changed after it was written"
    if len(set(cache.ids.tolist())) < cache.rows:
        yield "an id is there twice"
    if (states > SKIPPED).any():
        yield f"{int((states > SKIPPED).sum())} rows are neither missing, done nor skipped"
    bad = np.zeros(len(done), bool)
    for view, layer, stat in np.ndindex(1 + cache.identity.views, cache.layers, len(STATS)):
        column = cache.features(done, views=(view,), layers=(layer,), stats=(stat,))
        bad |= ~np.isfinite(column).all(axis=(1, 2, 3, 4))
    yield from (f"{cache.ids[row]}: marked done, but its features are not finite" for row in done[bad])
    yield from (f"{cache.ids[row]}: marked done without a digest of its sound" for row in done if not digests[row])


def _altered(cache: Cache, root: Path) -> Iterator[str]:
    """What is not as the corpus has it now."""
    from embedkit import audio, corpora
    from embedkit.workspace import inside

    rows, digests = cache.utterances(), cache.audio_digests
    now = {u.id: u for u in corpora.load(cache.identity.corpus, root)}
    if difference := changes(rows, [now[u.id] for u in rows if u.id in now]):
        yield f"the corpus has changed: {difference}"
    folder = corpora.folder(cache.identity.corpus, root)
    for row in np.flatnonzero(cache.done == DONE):
        u = rows[row]
        try:
            if audio.digest(audio.read(inside(folder, u.file), u.start, u.end)) != digests[row]:
                yield f"{u.id}: {u.file} is not the sound that was encoded"
        except (ClipError, UserError) as error:
            yield f"{u.id}: {error}"
