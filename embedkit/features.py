"""X, y and groups out of a cache: what scikit-learn asks for, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedkit import corpora, encoders
from embedkit.cache import DONE, Cache, describe_cached
from embedkit.cards import Recipe, read
from embedkit.classes import LabelMap
from embedkit.encoders import STATS
from embedkit.errors import CacheError, CorpusError, did_you_mean
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    import numpy.typing as npt

Classes = Mapping[str, Sequence[str]] | Sequence[str] | str | None


def load(
    corpus: str | Path,
    *,
    layer: int = -1,
    stat: str | Sequence[str] = "mean",
    view: int = 0,
    classes: Classes = None,
    recipe: str = "exact",
    encoder: str | Path | None = None,
    workspace: Workspace | Path | str | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.str_], npt.NDArray[np.str_]]:
    """Features, classes and speakers of every encoded utterance that has a class.

    corpus: its name, to be found in the workspace's cache, or the path of a cache file (.h5).
    layer: of hidden_states; negative numbers count from the last. stat: "mean", "std" or both, one after the other.
    view: 0 is the clean one, 1..K are augmented.
    classes: None: the corpus's own map to the four classes; names: these of that map; "own": the corpus's own labels;
    a mapping of class to the corpus's labels: that one.
    recipe, encoder: of the cache, as `embedkit extract` has them (encoder: None: the recipe's). workspace: its folder;
    None: the nearest one upward from the current folder. The three are not looked at where corpus is a path.

    Returns X float32 [row, dim], y [row] and groups [row] (the speakers), in the corpus's order.
    Raises CacheError where there is no such cache (it lists those that there are), or no such layer, view or statistic;
    CorpusError where no utterance has one of the classes.
    """
    path = _find_cache(corpus, recipe, encoder, workspace)
    stats = [stat] if isinstance(stat, str) else list(stat)
    for name in stats:
        if name not in STATS:
            raise CacheError(f"stat '{name}'{did_you_mean(name, STATS)}")
    with Cache.open(path) as cache:
        utterances = cache.read_utterances()
        label_map = _resolve_labels(cache.identity.corpus, [u.label for u in utterances], classes)
        y = np.array(corpora.assign_classes(utterances, label_map))
        rows = np.flatnonzero((cache.done == DONE) & (y != ""))
        if not len(rows):
            wanted = ", ".join(label for labels in label_map.values() for label in labels)
            raise CorpusError(f"{path}: no encoded utterance is labelled {wanted}; give other classes")
        x = cache.features(rows, views=(view,), layers=(layer,), stats=[STATS.index(name) for name in stats])
    speakers = np.array([u.speaker for u in utterances])
    return x.reshape(len(rows), -1).astype(np.float32), y[rows], speakers[rows]


def _find_cache(
    corpus: str | Path, recipe: str, encoder: str | Path | None, workspace: Workspace | Path | str | None
) -> Path:
    """The cache file that is meant. Raises CacheError with those that there are."""
    if Path(corpus).suffix == ".h5":
        return Path(corpus)
    place = Workspace.at(workspace)
    name = str(encoder or read(Recipe, place.card("cache", recipe)).encoder)
    path = place.cache_file(recipe, encoders.slug(name), str(corpus))
    if not path.is_file():
        others = describe_cached(place.cache, str(corpus))
        command = f"embedkit extract --corpus {corpus} --recipe {recipe}" + (f" --encoder {encoder}" if encoder else "")
        raise CacheError(f"{path}: no such cache; make it with: {command}{others}")
    return path


def _resolve_labels(corpus: str, labels: Sequence[str], classes: Classes) -> LabelMap:
    """Class to the corpus's labels, as `load` was asked for."""
    if classes == "own":
        return {label: [label] for label in sorted(set(labels))}
    if isinstance(classes, Mapping):
        return {name: list(own) for name, own in classes.items()}
    known = corpora.find_reader(corpus if corpus in corpora.list_corpora() else "manifest").LABELS
    names = known if classes is None else [classes] if isinstance(classes, str) else classes
    for name in names:
        if name not in known:
            raise CorpusError(f"class '{name}' of {corpus}{did_you_mean(name, known)}")
    return {name: known[name] for name in names}
