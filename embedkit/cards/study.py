"""Studies, studies/*.toml: a question to the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

# pydantic: checks types and ranges of a card and shows the offending value.
from pydantic import Field, model_validator

from embedkit.cards._reading import Card
from embedkit.classes import CLASSES, METRICS, LabelMap
from embedkit.errors import did_you_mean


class Folds(Card):
    kind: Literal["loso", "speaker", "script", "clips", "shuffle"] = "loso"
    k: int = Field(8, ge=3)  # folds of `speaker` (at most the number of speakers) and `clips`
    scripts: int = Field(3, ge=2)  # parts of what is said, of `script`
    seed: int = 0  # of `shuffle` and `clips`, and of what the next two draw
    # What validates: the part that the next (or previous) fold tests; a random fifth of what is not tested; or the test
    # rows themselves, which is a mistake that can be asked for.
    validation: Literal["next", "previous", "random", "test"] = "next"
    rows: int = Field(0, ge=0)  # cut each fold's training rows of the study's corpus to about so many; 0: all


class Search(Card):
    trials: int = Field(0, ge=0)  # 0: the head's fixed parameters
    storage: str = ""  # an Optuna storage URL; "": search.db (SQLite) in the study's folder
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "none"] = "median"
    seed: int = 0


class Arm(Card):
    """One composition of the training set."""

    name: str = ""  # "": made of the corpora's names, e.g. "iemocap+crema-d=0.25"
    mix: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}  # corpus -> the share that joins every training set


class Figure(Card):
    """A figure as it is printed."""

    mean: float
    sd: float | None = None  # over the paper's folds


class Paper(Card):
    """What a paper printed, to be shown beside ours."""

    source: str = ""
    folds: int = Field(5, ge=2)  # behind each mean and sd
    notes: list[str] = []  # where its words and its figures part
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
    """What may cross a split (see embedkit/audit.py); anything else that leaks stops a study before it trains."""

    allow: list[Leak] = []  # by name; the leak is still told beside the figures
    text: Literal["report", "fail"] = "report"  # what is made of a sentence on two sides of a split


class Limits(Card):
    """The most that an exported file may differ from torch on real clips."""

    mean_change: float = Field(ge=0, le=1)  # of a probability
    # Share of clips whose label is another. Where two classes are close to equal little is enough: a handful may flip.
    flips: float = Field(ge=0, le=1)
    ua_loss: float = Field(ge=0, le=1)  # UA of torch minus that of the file, on the test folds of the study


class Certificate(Card):
    """By profile; what a card leaves out stays as it is here. `float` is the graph before it is made smaller."""

    float: Limits = Limits(mean_change=0.002, flips=0.02, ua_loss=0.005)
    size: Limits = Limits(mean_change=0.05, flips=0.10, ua_loss=0.01)
    speed: Limits = Limits(mean_change=0.05, flips=0.10, ua_loss=0.02)
    small: Limits = Limits(mean_change=0.08, flips=0.15, ua_loss=0.01)

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {
            name: {**_dump_default(cls, name), **of} if isinstance(of, Mapping) else of for name, of in data.items()
        }


def _dump_default(kind: type[Card], name: str) -> dict[str, Any]:
    return kind.model_fields[name].default.model_dump() if name in kind.model_fields else {}


class Study(Card):
    """A question to the cache: corpora, label map, folds, heads, seeds, search."""

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
    # speaker's own clips, those that are tested too. What a standardising head does is apart from it.
    normalise: Literal["none", "global", "corpus", "speaker"] = "none"
    align: Literal["none", "coral"] = "none"  # what is mixed in, to the study's corpus
    stats: list[Literal["mean", "std"]] = Field(["mean"], min_length=1, max_length=2)  # one after the other
    views: int | None = Field(None, ge=0)  # augmented views for the heads that want them; without: all that are cached
    seeds: int = Field(1, ge=1)  # 0..seeds-1
    search: Search = Search()
    audit: Audit = Audit()
    certificate: Certificate = Certificate()  # what an exported file is held to
    compare: list[str] = ["ua"]  # by which scores results are tested against each other
    paper: Paper | None = None
    # A study of several parts: name -> what that part changes. Each is a study of its own, `<study>.<part>`.
    parts: dict[str, dict[str, Any]] = {}
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
