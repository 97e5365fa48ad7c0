"""What a cache file is of: everything that decides its features, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from embedkit.corpora import Utterance

if TYPE_CHECKING:
    from embedkit.cards import Recipe
    from embedkit.encoders import Spec


LEGACY_SETTINGS = {"sound.crop": False}  # settings that older files do not name, and what they were made with


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

    def list_differences(self, file: Identity) -> list[str]:
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
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "recipe"}
        return {**settings, **LEGACY_SETTINGS, **flatten_settings(self.recipe)}


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"sound": {"peak": 0.95}} as {"sound.peak": 0.95}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten_settings(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def describe_changes(cached: Sequence[Utterance], current: Sequence[Utterance]) -> str:
    """How the rows of a file differ from the corpus as it is now, "" where they do not (their order does not count)."""
    old, new = {u.id: u for u in cached}, {u.id: u for u in current}
    counts = {"new": len(new.keys() - old.keys()), "gone": len(old.keys() - new.keys())}
    # repr, because NaN differs from itself
    altered_ids = [id_ for id_, u in new.items() if id_ in old and repr(u) != repr(old[id_])]
    parts = [f"{n} {what}" for what, n in counts.items() if n]
    if altered_ids:
        first = next(
            f.name
            for f in fields(Utterance)
            if _format_field(old[altered_ids[0]], f.name) != _format_field(new[altered_ids[0]], f.name)
        )
        was, now = _format_field(old[altered_ids[0]], first), _format_field(new[altered_ids[0]], first)
        parts.append(f"{len(altered_ids)} described otherwise ('{altered_ids[0]}': {first} was {was}, is now {now})")
    return ", ".join(parts)


def _format_field(utterance: Utterance, field: str) -> str:
    return repr(getattr(utterance, field))
