"""The identity of a cache file: everything that decides its features, and how two files differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from embedkit.corpora import Utterance

if TYPE_CHECKING:
    from embedkit.cards import Recipe
    from embedkit.encoders import Spec


LEGACY_SETTINGS = {"sound.crop": False}  # settings that older files do not name, and what they were made with


@dataclass(frozen=True)
class Identity:
    """Everything that decides the features of a file."""

    corpus: str
    recipe: Mapping[str, object]  # the settings in effect: precision, sound and, where there are views, augment
    encoder: str  # hub id, or the folder's name
    revision: str
    weights_digest: str
    random: bool  # whether the weights of the encoder are random
    labels: str = "mapped"  # "mapped": the rows that the label map of the corpus covers; "all": every row
    views: int = 0  # augmented views beside the clean one

    @classmethod
    def of(
        cls, corpus: str, recipe: Recipe, spec: Spec, *, views: int | None = None, labels: str = "mapped"
    ) -> Identity:
        """The identity of what a pass with these settings makes. views None: as many as the recipe says."""
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
        """Where a file differs so that it cannot be used for this identity; [] where it can.

        A file with more views or more labels can be used. E.g. ["sound.trim_db: 20.0 here, 30.0 in the file"].
        """
        here, there = self._settings(), file._settings()
        tolerated = {"views"} if self.views <= file.views else set()
        tolerated |= {"labels"} if file.labels == "all" else set()
        if not (self.views and file.views):
            tolerated |= {key for key in here | there if key.startswith("augment.")}
        return [
            f"{key}: {here.get(key, 'nothing')} here, {there.get(key, 'nothing')} in the file"
            for key in dict.fromkeys((*here, *there))
            if key not in tolerated and here.get(key) != there.get(key)
        ]

    def _settings(self) -> dict[str, object]:
        settings: dict[str, object] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "recipe"}
        return {**settings, **LEGACY_SETTINGS, **flatten_settings(self.recipe)}


def flatten_settings(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """{"sound": {"peak": 0.95}} as {"sound.peak": 0.95}."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        flat |= flatten_settings(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def describe_changes(cached: Sequence[Utterance], current: Sequence[Utterance]) -> str:
    """How the rows of a file differ from the corpus as it is now, whatever their order; "" where they do not differ."""
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
