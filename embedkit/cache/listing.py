"""What lies in the cache of a workspace, and what one file holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal, TypedDict

from embedkit.cache._schema import DONE, FORMAT, MISSING, SKIPPED
from embedkit.cache.file import Cache
from embedkit.cache.identity import Identity, flatten_settings
from embedkit.errors import CacheError
from embedkit.workspace import Workspace


class RowCounts(TypedDict):
    """The rows of a file by state."""

    rows: int  # in all
    done: int
    todo: int
    skipped: int


class CacheListing(TypedDict):
    """One file of `cache ls`. Of a file that cannot be read, everything from `rows` to `weights` is ""."""

    recipe: str
    encoder: str  # as the folder's name
    corpus: str
    rows: int | Literal[""]
    done: int | Literal[""]
    todo: int | Literal[""]
    skipped: int | Literal[""]
    views: int | Literal[""]  # augmented ones
    labels: str
    weights: str
    bytes: int
    file: str
    problem: str  # why the file cannot be read, or ""


class CacheDescription(RowCounts):
    """The document of `cache info`."""

    file: str
    corpus: str
    encoder: str
    revision: str
    weights: str  # "pretrained" or "random"
    weights_digest: str
    labels: str
    complete: bool
    views: int  # augmented ones
    layers: int
    dim: int
    hours: float  # of the rows that are done
    done_by_label: dict[str, int]
    bytes: int
    recipe: dict[str, object]  # by dotted key, e.g. "sound.trim_db"
    digest: str
    format: int
    embedkit: str  # the version that wrote the file
    skips: list[str]  # "id: reason" of each skipped row


def list_caches(workspace: Workspace | Path | str) -> list[CacheListing]:
    """Every cache file of a workspace, sorted by recipe, encoder and corpus."""
    folder = Workspace.at(workspace).cache
    return [_describe_file(path, folder) for path in sorted(folder.glob("*/*/*.h5"))]


def _describe_file(path: Path, folder: Path) -> CacheListing:
    recipe, encoder, _ = path.relative_to(folder).parts
    listing: CacheListing = {
        "recipe": recipe,
        "encoder": encoder,
        "corpus": path.stem,
        "rows": "",
        "done": "",
        "todo": "",
        "skipped": "",
        "views": "",
        "labels": "",
        "weights": "",
        "bytes": path.stat().st_size,
        "file": str(path),
        "problem": "",
    }
    try:
        with Cache.open(path) as cache:
            identity, counts = cache.identity, _count_rows(cache)
    except CacheError as error:
        return {**listing, "problem": str(error)}
    weights = _describe_weights(identity)
    return {**listing, **counts, "views": identity.views, "labels": identity.labels, "weights": weights}


def describe_cache(path: str | Path) -> CacheDescription:
    """What a file holds, how large it is and how many rows are done.

    Raises CacheError where it is missing, not a cache, damaged or of another format version.
    """
    path = Path(path)
    with Cache.open(path) as cache:
        identity, done = cache.identity, cache.done == DONE
        seconds, labels = cache._read("seconds")[done], cache._read_text("label")[done]
        return {
            "file": str(path),
            "corpus": identity.corpus,
            "encoder": identity.encoder,
            "revision": identity.revision,
            "weights": _describe_weights(identity),
            "weights_digest": identity.weights_digest,
            "labels": identity.labels,
            **_count_rows(cache),
            "complete": not (cache.done == MISSING).any(),
            "views": identity.views,
            "layers": cache.layers,
            "dim": cache.dim,
            "hours": round(float(seconds.sum()) / 3600, 4),
            "done_by_label": dict(sorted(Counter(labels.tolist()).items())),
            "bytes": path.stat().st_size,
            "recipe": flatten_settings(identity.recipe),
            "digest": cache.digest,
            "format": FORMAT,
            "embedkit": str(cache._file.attrs["embedkit"]),
            "skips": [f"{id_}: {reason}" for id_, reason in cache.skipped()],
        }


def _count_rows(cache: Cache) -> RowCounts:
    done = cache.done
    return {
        "rows": cache.rows,
        "done": int((done == DONE).sum()),
        "todo": int((done == MISSING).sum()),
        "skipped": int((done == SKIPPED).sum()),
    }


def _describe_weights(identity: Identity) -> str:
    return "random" if identity.random else "pretrained"
