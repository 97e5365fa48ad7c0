"""The documents of `evaluate`: clip by clip, and of long recordings. Scores and shares are 0..1."""

from __future__ import annotations

from typing import TypedDict, final

from embedkit.corpora import SkippedClip
from embedkit.metrics import Scores
from embedkit.stats import IntervalDocument, WayComparison


class ClipEvaluation(Scores):
    """What an exported file predicts for each clip of a corpus, compared with the labels.

    left_out: how many clips have a label that no class covers, by label. confusion: counts [truth][predicted], in the
    order of CLASSES.
    """

    model: str
    rows: int
    left_out: dict[str, int]
    skipped: list[SkippedClip]
    confusion: list[list[int]]


class CompositionDocument(TypedDict):
    """How recordings were composed; see `Composition`."""

    clips: int
    gap: tuple[float, float]
    noise: float
    seed: int


class Estimate(TypedDict):
    """A figure and its 95 % interval by speaker; None where there is none."""

    estimate: float | None
    low: float | None
    high: float | None


class NeutralShare(TypedDict):
    """The share of recordings that are called neutral (`said`), the share that are (`truth`), and the difference."""

    said: IntervalDocument
    truth: float
    bias: Estimate


class WayScores(TypedDict):
    """The scores of one way to classify the recordings; a recording without an answer counts as wrong.

    confusion: counts [truth][predicted], in the order of CLASSES, of the recordings with an answer.
    """

    wa: IntervalDocument
    ua: IntervalDocument
    recall: dict[str, IntervalDocument]
    precision: dict[str, IntervalDocument]
    neutral: NeutralShare
    no_answer: int
    confusion: list[list[int]]


class BiasMeasurement(TypedDict):
    """The four ways on composed recordings.

    seconds: the mean length of a recording. truth: recordings of each class. left_out: how many clips have a label that
    no class covers, by label. comparisons: of "vad" with each other way, by the scores "ua" and "neutral said".
    """

    recordings: int
    seconds: float
    speakers: int
    composition: CompositionDocument
    truth: dict[str, int]
    skipped: list[SkippedClip]
    left_out: dict[str, int]
    ways: dict[str, WayScores]
    comparisons: list[WayComparison]


@final
class LongEvaluation(BiasMeasurement):
    """The document of `evaluate --long`. heads: in words, which heads classified the recordings."""

    model: str
    corpus: str
    heads: str
    notes: list[str]
