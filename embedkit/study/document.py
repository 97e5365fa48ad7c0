"""The types of the JSON files that a study writes beside results.json: units.json, study.json and audit.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict, final

from embedkit.report.document import FindingDocument, RowDigests, StudyDocument


class FitFacts(TypedDict):
    """What is known about a fit when it ends.

    best: the epoch or iteration whose state was kept, None where nothing stops early. seconds: of training. rows: how
    many trained. saw: digests of the rows that it was given. layer_weights: [layer], of the layer "weighted" only.
    """

    best: int | None
    seconds: float
    rows: int
    saw: NotRequired[RowDigests]
    warnings: list[str]
    layer_weights: NotRequired[list[float]]


class FitRecord(FitFacts):
    """An entry of units.json: one fit, with its fold by name."""

    arm: str
    layer: int | str
    head: str
    seed: int
    fold: str


class CacheReference(TypedDict):
    """A cache that a study was made from; the digest is that of its identity."""

    file: str
    digest: str


class StudyRecord(TypedDict):
    """study.json: the card and the caches that a study was begun with, and the settings that decide its predictions."""

    embedkit: str
    card: Mapping[str, object]
    caches: dict[str, CacheReference]
    settings: Mapping[str, object]


@final
class AuditDocument(TypedDict):
    """audit.json: whether the audit passed, which checks were made, and what they found."""

    study: str
    passed: bool
    checked: list[str]
    findings: list[FindingDocument]


@final
class SeriesAudit(TypedDict):
    """The audits of a study's parts, by part; it passed where all of them did."""

    study: str
    passed: bool
    parts: dict[str, AuditDocument]


class StudyOutcome(StudyDocument):
    """What running a study returns: results.json or series.json, and its summary as text (`table`)."""

    table: str
