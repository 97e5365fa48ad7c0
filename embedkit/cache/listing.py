"""What lies in a workspace's cache, and what one file is of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.cache._schema import DONE, FORMAT, MISSING, SKIPPED
from embedkit.cache.file import Cache
from embedkit.cache.identity import Identity, flatten_settings
from embedkit.errors import CacheError

if TYPE_CHECKING:
    from embedkit.workspace import Workspace


def list_caches(workspace: Workspace) -> list[dict[str, Any]]:
    """Every cache file of a workspace, one dictionary each; `problem` says why one cannot be read."""
    return [_describe_file(path, workspace.cache) for path in sorted(workspace.cache.glob("*/*/*.h5"))]


def _describe_file(path: Path, folder: Path) -> dict[str, Any]:
    recipe, encoder, _ = path.relative_to(folder).parts
    line: dict[str, Any] = {"recipe": recipe, "encoder": encoder, "corpus": path.stem}
    try:
        with Cache.open(path) as cache:
            identity = cache.identity
            line |= {
                **_count_rows(cache),
                "views": identity.views,
                "labels": identity.labels,
                "weights": _describe_weights(identity),
            }
            problem = ""
    except CacheError as error:
        line |= dict.fromkeys(("rows", "done", "todo", "skipped", "views", "labels", "weights"), "")
        problem = str(error)
    return {**line, "bytes": path.stat().st_size, "file": str(path), "problem": problem}


def describe_cache(path: Path) -> dict[str, Any]:
    """What a file is of, how large, how far it has come; `skips` has every skipped row with its reason."""
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


def _count_rows(cache: Cache) -> dict[str, int]:
    done = cache.done
    states = {"done": DONE, "todo": MISSING, "skipped": SKIPPED}
    return {"rows": cache.rows, **{name: int((done == state).sum()) for name, state in states.items()}}


def _describe_weights(identity: Identity) -> str:
    return "random" if identity.random else "pretrained"
