"""Studies, studies/*.toml: a question that cached features answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

# pydantic: checks types and ranges of a card and shows the offending value.
from pydantic import Field, model_validator

from embedkit.cards._reading import Card
from embedkit.classes import CLASSES, METRICS, LabelMap
from embedkit.errors import did_you_mean


class Folds(Card):
    """How rows are split into folds, each with training, validation and test rows."""

    kind: Literal["loso", "speaker", "script", "clips", "shuffle"] = "loso"
    k: int = Field(8, ge=3)  # number of folds of `speaker` (at most the number of speakers) and `clips`
    scripts: int = Field(3, ge=2)  # number of parts into which `script` splits the texts
    seed: int = 0  # of `shuffle` and `clips`, and of what the next two keys draw
    # The validation rows: those that the next (or previous) fold tests; a random fifth of the rows that are not tested;
    # or the test rows themselves, which is a mistake that can be asked for.
    validation: Literal["next", "previous", "random", "test"] = "next"
    rows: int = Field(0, ge=0)  # of each fold, keep about so many training rows of the study's corpus; 0: all


class Search(Card):
    """The search of a head's parameters by validation UA, with Optuna."""

    trials: int = Field(0, ge=0)  # 0: no search, the head keeps its fixed parameters
    storage: str = ""  # an Optuna storage URL; "": search.db (SQLite) in the study's folder
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "none"] = "median"
    seed: int = 0


class Arm(Card):
    """One composition of the training set."""

    name: str = ""  # "": made of the corpora's names, e.g. "iemocap+crema-d=0.25"
    mix: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}  # corpus -> the fraction of it in every training set


class Figure(Card):
    """A figure of a paper, as printed there."""

    mean: float
    sd: float | None = None  # over the paper's folds


class Paper(Card):
    """The figures of a paper, to be shown beside those of the study."""

    source: str = ""
    folds: int = Field(5, ge=2)  # over which each mean and sd was taken
    notes: list[str] = []  # where the text of the paper and its figures disagree
    # An arm's "ua", "f1.anger", "weight.anger" (the mean class weight), ...; a corpus's "count.anger".
    figures: dict[str, dict[str, Figure]] = {}

    @model_validator(mode="after")
    def _check_figure_names(self) -> Self:
        for name, figures in self.figures.items():
            for metric in figures:
                if metric not in (known := [*METRICS, *(f"{k}.{c}" for k in ("count", "weight") for c in CLASSES)]):
                    raise ValueError(f"figures.{name}: unknown metric '{metric}'{did_you_mean(metric, known)}")
        return self


Leak = Literal["speaker", "recording", "views", "partner", "text", "fit", "search", "scaler"]


class Audit(Card):
    """Which leaks across a split are allowed (see study/leakage.py); any other stops a study before it trains."""

    allow: list[Leak] = []  # by name; the leak is still reported beside the figures
    text: Literal["report", "fail"] = "report"  # what happens where a sentence is on both sides of a split


class Limits(Card):
    """How much an exported file may differ from torch, at most, on real clips."""

    mean_change: float = Field(ge=0, le=1)  # mean absolute change of a probability
    # Fraction of clips whose label changes. Where two classes are almost equal a small change is enough for that.
    flips: float = Field(ge=0, le=1)
    ua_loss: float = Field(ge=0, le=1)  # UA of torch minus that of the file, on the test folds of the study


class Certificate(Card):
    """The limits of each profile; a card may give some of them. `float` is the graph before it is made smaller."""

    float: Limits = Limits(mean_change=0.002, flips=0.02, ua_loss=0.005)
    size: Limits = Limits(mean_change=0.05, flips=0.10, ua_loss=0.01)
    speed: Limits = Limits(mean_change=0.05, flips=0.10, ua_loss=0.02)
    small: Limits = Limits(mean_change=0.08, flips=0.15, ua_loss=0.01)

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        return {
            name: {**_dump_default(cls, name), **of} if isinstance(of, Mapping) else of for name, of in data.items()
        }


def _dump_default(kind: type[Card], name: str) -> dict[str, object]:
    return kind.model_fields[name].default.model_dump() if name in kind.model_fields else {}


class Study(Card):
    """A question that cached features answer: corpora, label map, folds, heads, seeds, search."""

    name: str = ""
    summary: str = ""
    corpus: str = "iemocap"
    recipe: str = "exact"
    encoder: str = ""  # "": the recipe's
    arms: list[Arm] = []  # []: one arm, the corpus alone
    test: str = ""  # another corpus, tested on as a whole by every fold's head
    folds: Folds = Folds()
    heads: list[str] = ["mlp", "logistic", "lightgbm"]  # []: nothing is trained, rows and weights are counted
    # Each a result of its own: hidden_states[N], "last", "all" (each), "concat" (all of them, one after the other), or
    # "weighted" (their sum, with softmax weights that a head of kind mlp learns).
    layers: list[int | Literal["last", "all", "concat", "weighted"]] | Literal["last", "all"] = "last"
    # Features are standardised by training rows ("global", or "corpus": each corpus by its own), or "speaker": by each
    # speaker's own clips, tested ones included. A head that standardises does so besides.
    normalise: Literal["none", "global", "corpus", "speaker"] = "none"
    align: Literal["none", "coral"] = "none"  # the features of mixed-in corpora to those of the study's corpus
    stats: list[Literal["mean", "std"]] = Field(["mean"], min_length=1, max_length=2)  # one after the other
    views: int | None = Field(None, ge=0)  # augmented views for heads that train on them; None: all that are cached
    seeds: int = Field(1, ge=1)  # 0..seeds-1
    search: Search = Search()
    audit: Audit = Audit()
    certificate: Certificate = Certificate()  # the limits that an exported file must keep
    compare: list[str] = ["ua"]  # the scores in which results are compared, with a test of significance
    paper: Paper | None = None
    # A study of several parts: name -> what that part changes. Each part is a study, `<study>.<part>`.
    parts: dict[str, dict[str, object]] = {}
    equal: bool = False  # all folds of all parts train on as many rows as the smallest
    labels: dict[str, LabelMap] = {}  # corpus -> label map; a corpus that is not named keeps its own default map

    @model_validator(mode="after")
    def _check_class_names(self) -> Self:
        for corpus, mapping in self.labels.items():
            for name in mapping:
                if name not in CLASSES:
                    raise ValueError(f"labels.{corpus}: unknown class '{name}'{did_you_mean(name, CLASSES)}")
        for metric in self.compare:
            if metric not in METRICS:
                raise ValueError(f"compare: unknown score '{metric}'{did_you_mean(metric, METRICS)}")
        return self
