"""The documents that a study writes: results.json, series.json (of a study with parts), and entries of search.json.

Reports are made from a `StudyDocument` alone. A layer is a number (hidden_states[N]), "concat" or "weighted"; classes
are in the order of CLASSES; scores are 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict

from embedkit.calibration import ReliabilityBin
from embedkit.stats import IntervalDocument

KeyName = Literal["part", "arm", "layer", "head"]  # what identifies a result
ClassScore = Literal["f1", "recall", "precision"]


class FoldValues(TypedDict):
    """A measure in each fold (mean over seeds), the folds' mean and standard deviation (ddof 1), and its pooled value.

    pooled: over all predictions together. None where a value is not defined: for a class that a fold does not have, or
    the deviation of a single fold.
    """

    mean: float | None
    sd: float | None
    folds: list[float | None]
    pooled: float | None


class Metric(FoldValues):
    """A score on the test rows; `interval` is the 95 % interval by speaker of the pooled value."""

    interval: IntervalDocument


class Arousal(TypedDict):
    """Anger and happiness (high) against neutral and sadness (low).

    `table` counts [truth, predicted], high before low; recall and precision are of "high" and "low".
    """

    table: list[list[float]]
    recall: dict[str, IntervalDocument]
    precision: dict[str, IntervalDocument]


class CalibrationStage(TypedDict):
    """Calibration of the test predictions; see `embedkit.calibration` for the measures."""

    ece: FoldValues
    nll: FoldValues
    brier: FoldValues
    reliability: list[ReliabilityBin]


class Temperature(TypedDict):
    """The temperature that each fold's validation rows give (geometric mean over seeds), and their median."""

    median: float
    folds: list[float]


class Calibration(TypedDict):
    """Calibration as trained (`before`) and with the temperatures (`after`)."""

    before: CalibrationStage
    after: CalibrationStage
    temperature: Temperature


class Variance(TypedDict):
    """Variance of UA due to the fold, to the seed and to the rest; `shares` are their shares of the whole."""

    fold: float
    seed: float
    rest: float
    shares: dict[str, float]


class LayerWeights(TypedDict):
    """The weights of a learned sum of layers, [layer]: mean and standard deviation (ddof 0) over folds and seeds."""

    mean: list[float]
    sd: list[float]


class ResultNames(TypedDict):
    """What identifies a result or a search; `part` only in a study with parts."""

    part: NotRequired[str]
    arm: str
    layer: int | str
    head: str


class Result(ResultNames):
    """All figures of one (arm, layer, head).

    `f1`, `recall` and `precision` are by class; `confusion` counts [truth, predicted] over all folds and seeds;
    `variance` is None unless there are two folds and two seeds; `layer_weights` is there for the layer "weighted" only.
    """

    encoder: str
    wa: Metric
    ua: Metric
    macro_f1: Metric
    f1: dict[str, Metric]
    recall: dict[str, Metric]
    precision: dict[str, Metric]
    validation_ua: FoldValues
    confusion: list[list[float]]
    arousal: Arousal
    calibration: Calibration
    variance: Variance | None
    layer_weights: NotRequired[LayerWeights]


class Comparison(TypedDict):
    """Two results tested against each other by one score; `a` and `b` are their names, which differ in `kind` only.

    difference: of the second minus the first. p: two-sided; `adjusted` for all comparisons of the document (Holm);
    `smallest` is the least p that the test can give. exact: whether all swaps of speakers were tried.
    """

    metric: str
    kind: str
    a: list[str]
    b: list[str]
    difference: float
    p: float
    adjusted: float
    smallest: float
    speakers: int
    exact: bool
    verdict: str


class RowDigests(TypedDict):
    """Digests of the rows that a fit was given."""

    train: str
    validate: str


class SearchEntry(ResultNames):
    """An entry of search.json: what the search of one (arm, layer, head) found.

    validation_ua: of the best trial, mean over the folds. saw: by fold, the rows that the search was given.
    """

    params: dict[str, object]
    validation_ua: float
    trials: int
    pruned: int
    failed: int
    saw: NotRequired[dict[str, RowDigests]]


class FindingDocument(TypedDict):
    """One kind of leak; see `embedkit.study.leakage.Finding`."""

    check: str
    verdict: str
    count: int
    examples: list[str]
    folds: list[str]
    arms: list[str]
    text: str


class CorpusRows(TypedDict):
    """How many rows of a corpus took part, by class, and how many did not.

    skipped: at extraction. missing: not encoded yet. left_out: by label, those that no class of the label map names.
    """

    used: int
    classes: dict[str, int]
    skipped: int
    missing: int
    left_out: dict[str, int]


class StudyFolds(TypedDict):
    """The kind of folds and their names."""

    kind: str
    names: list[str]


class PrintedFigure(TypedDict):
    """A figure as a paper prints it; sd is None where it prints none."""

    mean: float
    sd: float | None


class PaperDocument(TypedDict):
    """What a paper printed, as the card says it: by arm or corpus, and by metric."""

    source: str
    folds: int
    notes: list[str]
    figures: Mapping[str, Mapping[str, PrintedFigure]]


class PaperRow(TypedDict):
    """A printed figure beside ours; head and layer where it is the figure of a result. `of` is an arm or a corpus."""

    of: str
    head: NotRequired[str]
    layer: NotRequired[int | str]
    metric: str
    ours: Metric | float | None
    paper: PrintedFigure
    verdict: str


class PaperComparison(TypedDict):
    """The paper's figures beside ours, and (`between`) what its own columns say about each other."""

    source: str
    rows: list[PaperRow]
    between: list[str]
    notes: list[str]


class StudyDocument(TypedDict):
    """results.json; with `parts` and `encoder_bytes` it is series.json.

    arms: by name, the share of each corpus that is mixed in. class_weights: by arm, the weights that balance the
    classes of the training rows. parts: what sets each part apart, as a row of a table. encoder_bytes: of each
    encoder's weights in float32.
    """

    study: str
    summary: str
    results: list[Result]
    corpus: str
    test: str
    recipe: str
    encoder: str
    revision: str
    weights: str
    folds: StudyFolds
    arms: dict[str, dict[str, float]]
    seeds: int
    views: int
    rows: dict[str, CorpusRows]
    class_weights: dict[str, dict[str, float]]
    comparisons: list[Comparison]
    search: list[SearchEntry]
    audit: list[FindingDocument]
    notes: list[str]
    paper: PaperComparison | None
    parts: NotRequired[dict[str, dict[str, str]]]
    encoder_bytes: NotRequired[dict[str, int]]


def read_validation_ua(result: Result) -> float:
    """A result's mean validation UA, by which the best result is chosen; -inf where it is not defined."""
    mean = result["validation_ua"]["mean"]
    return -math.inf if mean is None else mean
