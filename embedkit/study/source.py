"""The rows that a study uses from one cache."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedkit import cards, corpora, encoders
from embedkit.cache import DONE, MISSING, SKIPPED, Cache, Identity
from embedkit.classes import LabelMap
from embedkit.errors import StudyError, did_you_mean
from embedkit.study.folds import Rows
from embedkit.workspace import Workspace

# The columns of a cache that a study uses.
COLUMNS = ("ids", "label", "speaker", "session", "dialogue", "text", "audio_digest")


@dataclass(frozen=True)
class Source:
    """The rows of one cache that a study uses: those that are encoded and whose label the label map covers."""

    corpus: str
    path: Path
    identity: Identity
    layers: int
    rows: Rows  # row numbers of the cache
    y: npt.NDArray[np.str_]  # [row]: classes
    columns: Mapping[str, npt.NDArray[np.str_]]  # COLUMNS, each [row]
    skipped: int  # rows that extraction skipped
    missing: int  # rows that are not encoded yet
    left_out: Mapping[str, int]  # rows by label, of the labels that the map does not cover

    @property
    def digest(self) -> str:
        """A digest of the rows used, their classes and the digests of their sound."""
        text = "\n".join("\t".join(row) for row in zip(self.y, *self.columns.values(), strict=True))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def find_default_labels(corpus: str) -> LabelMap:
    """The label map of a corpus's reader; a corpus without one came from a manifest, whose labels are class names."""
    return corpora.find_reader(corpus if corpus in corpora.list_corpora() else "manifest").LABELS


def read_source(
    workspace: Workspace,
    study: cards.Study,
    recipe: cards.Recipe,
    place: str,
    corpus: str,
    labels: LabelMap,
    partial: bool,
) -> Source:
    """Read the columns of a cache. place: the encoder. partial: rows that are not encoded yet may be missing.

    Raises StudyError where the cache is not there, not complete, or made with other settings than those of the recipe's
    card.
    """
    path = workspace.cache_file(recipe.name, encoders.slug(place), corpus)
    command = format_extract_command(study, corpus)
    if not path.is_file():
        known = {*corpora.list_corpora(), *(p.stem for p in path.parent.glob("*.h5"))}
        hint = "" if corpus in known else did_you_mean(corpus, known)
        raise StudyError(f"{path}: {corpus} is not cached with this recipe and encoder{hint or f'; try: {command}'}")
    with Cache.open(path) as cache:
        identity, done, layers = cache.identity, cache.done, cache.layers
        columns, utterances = cache.metadata(), cache.read_utterances()
    settings = recipe.model_dump(mode="json", include={"precision", "sound", "augment"})
    if different := replace(identity, recipe=settings).list_differences(identity):
        raise StudyError(
            f"{path}: not of recipe '{recipe.name}' as its card now is ({different[0]}); {command} --fresh"
        )
    extra_labels = {*_list_labels(labels)} - {*_list_labels(find_default_labels(corpus))}
    if extra_labels and identity.labels == "mapped":
        raise StudyError(
            f"{path}: holds the rows of the default label map, none labelled {min(extra_labels)};"
            f" {command} --labels all --fresh"
        )
    y = np.array(corpora.assign_classes(utterances, labels))
    missing = int(np.sum((done == MISSING) & (y != "")))
    if missing and not partial:
        raise StudyError(f"{path}: {missing} of {np.sum(y != '')} rows are not encoded; {command}, or --partial")
    rows = np.flatnonzero((done == DONE) & (y != ""))
    if not len(rows):
        raise StudyError(f"{path}: no row is encoded whose label is one of {', '.join(_list_labels(labels))}")
    return Source(
        corpus=corpus,
        path=path,
        identity=identity,
        layers=layers,
        rows=rows,
        y=y[rows],
        columns={name: columns[name][rows] for name in COLUMNS},
        skipped=int(np.sum((done == SKIPPED) & (y != ""))),
        missing=missing,
        left_out=dict(sorted(Counter(columns["label"][y == ""].tolist()).items())),
    )


def format_extract_command(study: cards.Study, corpus: str) -> str:
    """The command that makes the cache of a corpus for a study."""
    recipe = f" --recipe {study.recipe}" if study.recipe != "exact" else ""
    encoder = f" --encoder {study.encoder}" if study.encoder else ""
    return f"embedkit extract --corpus {corpus}{recipe}{encoder}"


def _list_labels(labels: LabelMap) -> list[str]:
    """Every label that a map covers."""
    return [label for names in labels.values() for label in names]


def check_same_settings(sources: Sequence[Source]) -> None:
    """Raise StudyError where caches have another encoder or recipe: their features cannot be compared."""
    first = sources[0]
    for other in sources[1:]:
        alike = replace(first.identity, corpus=other.corpus, views=other.identity.views, labels=other.identity.labels)
        if different := alike.list_differences(other.identity):
            raise StudyError(
                f"{first.corpus} and {other.corpus} are cached with different settings ({different[0]});"
                f" extract one of them again with --fresh"
            )
