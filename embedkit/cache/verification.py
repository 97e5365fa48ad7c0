"""Verifying a cache file: all of it is read again, and its recordings too where they are at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np

from embedkit import audio, corpora
from embedkit.cache._schema import DONE, SKIPPED
from embedkit.cache.file import Cache
from embedkit.cache.identity import describe_changes
from embedkit.encoders import STATS
from embedkit.errors import ClipError


class CacheVerification(TypedDict):
    """The document of `cache verify`."""

    file: str
    rows: int
    recordings: int  # that were read again
    problems: list[str]  # one line each


def verify(path: str | Path, root: str | Path | None = None) -> CacheVerification:
    """Read the whole file again; with the corpus's place, also its label files and every clip that was encoded.

    Raises CacheError where the file cannot be opened, CorpusError where there is no such corpus at root.
    """
    with Cache.open(path) as cache:
        problems = [*_check_contents(cache)]
        recordings = 0
        if root is not None:
            recordings = int((cache.done == DONE).sum())
            problems += _check_against_corpus(cache, Path(root))
        return {"file": str(path), "rows": cache.rows, "recordings": recordings, "problems": problems}


def _check_contents(cache: Cache) -> Iterator[str]:
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


def _check_against_corpus(cache: Cache, root: Path) -> Iterator[str]:
    """How the file differs from the corpus as it is now."""
    rows, digests = cache.read_utterances(), cache.audio_digests
    current = {u.id: u for u in corpora.load(cache.identity.corpus, root)}
    if difference := describe_changes(rows, [current[u.id] for u in rows if u.id in current]):
        yield f"the corpus has changed: {difference}"
    folder = corpora.folder(cache.identity.corpus, root)
    for row in np.flatnonzero(cache.done == DONE):
        u = rows[row]
        try:
            if audio.digest(corpora.read_sound(folder, u)) != digests[row]:
                yield f"{u.id}: {u.file} is not the sound that was encoded"
        except ClipError as error:
            yield f"{u.id}: {error}"
