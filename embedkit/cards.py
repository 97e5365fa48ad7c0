"""The schema of the cards (TOML): recipes in cache/, heads in heads/, studies in studies/. Nothing else.

Every key has its meaning, unit and default here. An unknown or misspelt key is an error that names the file, the key
and the nearest right one; so is a value of the wrong kind.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

# pydantic: checks types and ranges of a card and shows the offending value.
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from embedkit.errors import CardError, did_you_mean
from embedkit.workspace import read_toml

CLASSES = ("anger", "happiness", "neutral", "sadness")  # everywhere in this order

# The names of scores, as in results: "ua", "f1.anger".
METRICS = ("wa", "ua", "macro_f1", *(f"{kind}.{name}" for kind in ("f1", "recall", "precision") for name in CLASSES))

LabelMap = dict[str, list[str]]  # class -> the corpus's own labels


class Card(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# ---------------------------------------------------------------- recipes: cache/*.toml


class Sound(Card):
    """What is done to a clip, in this order, after it is decoded to 16 kHz mono. 0 leaves a step out."""

    trim_db: float = Field(20.0, ge=0)  # cut both ends where they are so far (dB) below the loudest frame
    pre_emphasis: float = Field(0.97, ge=0, lt=1)  # y[t] = x[t] - a x[t-1]
    peak: float = Field(0.95, ge=0, le=1)  # scale so that the largest |sample| is this
    max_seconds: float = Field(8.0, ge=0)  # cut what is longer (s), after augmentation
    pad: bool = False  # append zeros up to max_seconds and pool over all frames (the paper's way)
    crop: bool = False  # Whisper hears the clip alone, not the clip in 30 s of silence as it was trained

    @model_validator(mode="after")
    def _pad_needs_a_length(self) -> Self:
        if self.pad and not self.max_seconds:
            raise ValueError("pad = true needs max_seconds > 0")
        return self


class Augment(Card):
    """The augmented views: each step is taken with probability p, its size drawn uniformly from its range."""

    gain_db: tuple[float, float] = (-18.0, 6.0)  # dB
    noise: tuple[float, float] = (0.001, 0.015)  # amplitude (sd) of Gaussian noise, full scale = 1
    semitones: tuple[float, float] = (-2.0, 2.0)  # pitch shift
    polarity: bool = True  # inversion
    p: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for key, least, most in (("gain_db", -200, 200), ("noise", 0, 1), ("semitones", -24, 24)):
            low, high = getattr(self, key)
            if not least <= low <= high <= most:
                raise ValueError(f"{key}: {least} <= low <= high <= {most} must hold, but got ({low:g}, {high:g})")
        return self


class Recipe(Card):
    """How a corpus becomes features; everything here is part of the cache's identity but name and summary."""

    name: str = ""
    summary: str = ""
    encoder: str = "ntu-spml/distilhubert"  # the default: a hub id or a folder
    precision: Literal["fp32", "bf16"] = "fp32"
    views: int = Field(4, ge=0, le=64)  # augmented views beside the clean one
    sound: Sound = Sound()
    augment: Augment = Augment()


# ---------------------------------------------------------------- heads: heads/*.toml


class IntRange(Card):
    type: Literal["int"]
    low: int
    high: int
    step: int = Field(1, ge=1)
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.log and self.step != 1:
            raise ValueError("log = true goes with step = 1 only")
        _check_order(self)
        return self


class FloatRange(Card):
    type: Literal["float"]
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self)
        return self


def _check_order(of: IntRange | FloatRange) -> None:
    if not of.low <= of.high or (of.log and of.low <= 0):
        least = "0 < low" if of.log else "low"
        raise ValueError(f"{least} <= high must hold, but got {of.low:g} and {of.high:g}")


class Choice(Card):
    type: Literal["choice"]
    of: list[bool | int | float | str] = Field(min_length=1)


Space = Annotated[IntRange | FloatRange | Choice, Field(discriminator="type")]


class Head(Card):
    """A classifier on pooled features: its kind, fixed parameters and search space."""

    name: str = ""
    summary: str = ""
    kind: str  # the module of embedkit/heads/ that builds it
    # What it trains on: the clean view; one view drawn for each row and epoch (MLP only); all views, weight 1/(1+K).
    views: Literal["clean", "draw", "all"] = "clean"
    fixed: dict[str, Any] = {}  # the estimator's parameters, by its own names
    search: dict[str, Space] = {}


# ---------------------------------------------------------------- studies: studies/*.toml


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
    def _known_figures(self) -> Self:
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
    def _rest_as_by_default(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {name: {**_default(cls, name), **of} if isinstance(of, Mapping) else of for name, of in data.items()}


def _default(kind: type[Card], name: str) -> dict[str, Any]:
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
    def _known_classes(self) -> Self:
        for corpus, mapping in self.labels.items():
            for name in mapping:
                if name not in CLASSES:
                    raise ValueError(f"labels.{corpus}: unknown class '{name}'{did_you_mean(name, CLASSES)}")
        for metric in self.compare:
            if metric not in METRICS:
                raise ValueError(f"compare: unknown score '{metric}'{did_you_mean(metric, METRICS)}")
        return self


# ---------------------------------------------------------------- reading

AnyCard = TypeVar("AnyCard", bound=Card)


def read(kind: type[AnyCard], path: Path, overrides: Mapping[str, Any] | None = None) -> AnyCard:
    """A card from its file; overrides by dotted key (`{"folds.k": 4}`) win. Its name is the file's.

    Raises CardError that names the file, the key and the nearest right one.
    """
    return build(kind, {**read_toml(path), "name": path.stem}, overrides, where=str(path))


def build(
    kind: type[AnyCard], data: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, where: str = "settings"
) -> AnyCard:
    """A card from a dictionary; see `read`."""
    merged = _deep_copy(data)
    for key, value in (overrides or {}).items():
        _put(merged, key.split("."), value, key)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        raise CardError(f"{where}: {_first_problem(kind, error)}") from None


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """`--set KEY=VALUE` flags as {key: value}. A value is read as TOML where it is TOML, else as text.

    >>> parse_settings(["folds.k=4", "heads.mlp.activation=relu"])
    {'folds.k': 4, 'heads.mlp.activation': 'relu'}
    """
    result: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise CardError(f"--set {setting}: expected KEY=VALUE, e.g. folds.k=4")
        try:
            result[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            result[key] = value
    return result


def _deep_copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _deep_copy(v) if isinstance(v, Mapping) else v for k, v in data.items()}


def _put(data: dict[str, Any], parts: list[str], value: Any, key: str) -> None:
    for part in parts[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise CardError(f"--set {key}: '{part}' is a value, not a table")
    data[parts[-1]] = value


def _first_problem(kind: type[BaseModel], error: ValidationError) -> str:
    """The first of pydantic's complaints in one line, with the nearest key where one is unknown."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        word = str(first["loc"][-1])
        return f"unknown key '{key}'{did_you_mean(word, _keys(kind, first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"'{key}' is missing"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{key} = {first['input']!r}: {message}" if key else message


def _keys(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that a card knows at a dotted place."""
    model: Any = kind
    for part in path:
        if _is_model(model) and part in model.model_fields:
            model = model.model_fields[part].annotation
            model = next((a for a in get_args(model) if _is_model(a)), model)
    return list(model.model_fields) if _is_model(model) else []


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
