"""The layout of a cache file: datasets, attributes, format version."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from embedkit._version import __version__
from embedkit.cache.identity import Identity
from embedkit.corpora import Utterance
from embedkit.errors import CacheError

FORMAT = 1
MISSING, DONE, SKIPPED = 0, 1, 2
CHUNK_ROWS = 64
REASON_BYTES = 200
DIGEST_BYTES = 32

NUMBER_FIELDS = ("start", "end", "valence", "activation", "dominance")  # of an Utterance; its other fields are texts
DATASET_NAMES = {"id": "ids"}  # a field of Utterance and its dataset, where the names differ


def format_attributes(identity: Identity) -> dict[str, str | int]:
    """The attributes of a new file."""
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


def parse_identity(attributes: Mapping[str, object]) -> Identity:
    """The identity that a file's attributes tell. Raises KeyError or ValueError where they are not whole."""
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


def encode_texts(texts: Sequence[str], size: int | None = None) -> npt.NDArray[np.bytes_]:
    """Texts as UTF-8 of one length: size bytes (longer ones are cut between two characters); None: the longest's.

    Raises CacheError for a text that has no UTF-8, such as a file name in another encoding.
    """
    try:
        encoded = [text.encode() for text in texts]
    except UnicodeEncodeError as error:
        raise CacheError(f"{error.object!r} is not UTF-8; rename that recording") from None
    size = size or max(1, *map(len, encoded))
    cut = [text[:size].decode(errors="ignore").encode() for text in encoded]
    return np.array(cut, dtype=h5py.string_dtype("utf-8", size))


def list_datasets() -> list[str]:
    """The name of every dataset of a file."""
    columns = [DATASET_NAMES.get(f.name, f.name) for f in fields(Utterance)]
    return [*columns, "seconds", "audio_digest", "done", "skip_reason", "features"]


def check_format(path: Path, file: h5py.File) -> None:
    """Raises CacheError for a file that is not a cache of this format version."""
    version = file.attrs.get("format")
    if version is None:
        raise CacheError(f"{path}: an HDF5 file, but not a cache of embedkit's; --fresh begins anew")
    if version != FORMAT:
        raise CacheError(f"{path}: format {version}; this embedkit reads format {FORMAT}; --fresh begins anew")
