"""What a study is asked to do, decided and checked before anything trains.

`ask` makes a study of its card, flags and settings; `plan` reads the caches' columns and says which rows train,
validate and test. It writes nothing, and finds every mistake that can be found without training.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from embedkit import cards, corpora, encoders, folds, heads
from embedkit.cache import DONE, MISSING, SKIPPED, Cache, Identity
from embedkit.errors import CardError, StudyError, did_you_mean
from embedkit.folds import Fold, Rows
from embedkit.workspace import Workspace, read_toml

# of a cache, kept for each row of a study
COLUMNS = ("ids", "label", "speaker", "session", "dialogue", "text", "audio_digest")
FORMS = ("last", "all", "concat", "weighted")  # of layers, beside numbers
SAFE = "+= "  # characters that stay as they are where a name becomes that of a file


# ---------------------------------------------------------------- what is asked: cards and flags


def ask(
    workspace: Workspace,
    card: str | None = None,
    flags: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> tuple[cards.Study, dict[str, cards.Head]]:
    """A study and its heads, from a card of studies/ (None: the defaults), what flags say, and dotted settings.

    card: a name, a path, or a name with one of its parts ("leak-ladder.speaker"). flags: corpus, recipe, encoder, mix
    (["crema-d=0.5"]), test, folds, heads, layer ("3", "all"), seeds, trials, storage. settings: {"folds.k": 4,
    "heads.logistic.C": 0.05}; a head's parameter may stand without its `fixed.`.
    The study's name: `name`, else the card's, else "<corpus>[+mix]-<folds>".

    Raises CardError for what is unknown or out of range, with the nearest right word.
    """
    path, part, data = _card(workspace, card)
    own, of_heads = _split(settings or {})
    study = cards.build(cards.Study, data, {**_overrides(flags or {}), **own}, where=str(path or "study"))
    if study.parts and not part:
        raise StudyError(f"study '{card}' has parts; name one of them: {', '.join(f'{card}.{p}' for p in study.parts)}")
    if study.test == study.corpus:
        raise StudyError(f"test: {study.test} is the study's own corpus; its folds test it, so leave --test out")
    study = study.model_copy(update={"arms": _named_arms(study)})
    if name and part:
        name = f"{name}.{part}"
    name = name or study.name or f"{study.arms[-1].name}-{study.folds.kind}"
    if not name.strip(".") or any(c in name for c in "/\\\0"):
        raise StudyError(f"--name {name!r}: a study's name is the name of its folder in studies/; leave out / and \\")
    return study.model_copy(update={"name": name, "parts": {}}), _head_cards(workspace, study.heads, of_heads)


def parts(workspace: Workspace, card: str | None) -> list[str]:
    """The parts of a card, in order; none for an ordinary study, or for one part of a study."""
    _, part, data = _card(workspace, card)
    return [] if part else list(data.get("parts", {}))


def _card(workspace: Workspace, card: str | None) -> tuple[Path | None, str, dict[str, Any]]:
    """Where a card lies, which of its parts is meant ("": none), and what it says, with what the part changes."""
    if not card:
        return None, "", {}
    base, part = _place(workspace, card)
    path = workspace.card("studies", base)
    data = read_toml(path)
    if not part:
        return path, "", {**data, "name": path.stem}
    known = data.get("parts", {})
    if part not in known or not isinstance(known[part], dict):
        raise CardError(f"{path}: no part '{part}'{did_you_mean(part, known)}")
    return path, part, {**_merged(data, known[part]), "name": f"{path.stem}.{part}"}


def _place(workspace: Workspace, card: str) -> tuple[str, str]:
    """("leak-ladder", "speaker") of "leak-ladder.speaker", ("a/b.toml", "c") of "a/b.toml.c"; "" for the whole card."""
    names = workspace.card_names("studies")
    base, dot, part = card.rpartition(".toml.")
    if dot:
        return f"{base}.toml", part
    base, _, part = card.partition(".")
    return (base, part) if part and base in names and card not in names and not card.endswith(".toml") else (card, "")


def _merged(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A card with what one of its parts changes: tables key by key, all else as a whole."""
    merged = dict(data)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _overrides(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags by the dotted names of a study's card."""
    places = {"folds": "folds.kind", "trials": "search.trials", "storage": "search.storage"}
    result = {places.get(k, k): v for k, v in flags.items() if v not in (None, []) and k not in ("mix", "layer")}
    if flags.get("mix"):
        result["arms"] = [{"mix": dict(_fraction(text) for text in flags["mix"])}]
    if layer := flags.get("layer"):
        if layer not in FORMS and not layer.isdecimal():
            raise CardError(f"--layer {layer}: expected a number (hidden_states[N]), {', '.join(FORMS)}")
        result["layers"] = layer if layer in ("all", "last") else [int(layer) if layer.isdecimal() else layer]
    return result


def _fraction(text: str) -> tuple[str, float]:
    """ "crema-d=0.25" as ("crema-d", 0.25); the fraction's default is 1."""
    corpus, _, share = text.partition("=")
    try:
        return corpus, float(share or 1)
    except ValueError:
        raise CardError(f"--mix {text}: expected NAME=FRACTION, e.g. crema-d=0.25") from None


def _named_arms(study: cards.Study) -> list[cards.Arm]:
    """The arms, each with a name of its own; without any, the corpus alone."""
    named = []
    for arm in study.arms or [cards.Arm()]:
        parts = [study.corpus, *(c if share == 1 else f"{c}={share:g}" for c, share in arm.mix.items())]
        named.append(arm.model_copy(update={"name": arm.name or "+".join(parts)}))
        for corpus in arm.mix:
            if corpus in (study.corpus, study.test):
                raise StudyError(f"arm {named[-1].name}: {corpus} cannot be mixed into training and be tested too")
    _check_once([arm.name for arm in named], "arms")
    return named


def _split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Dotted settings into the study's own and each head's, those by the dotted names of a head's card."""
    own: dict[str, Any] = {}
    of_heads: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        first, _, rest = key.partition(".")
        if first != "heads" or not rest:
            own[key] = value
            continue
        head, _, key_of_head = rest.rpartition(".") if rest.endswith(".toml") else rest.partition(".")
        if not key_of_head:
            raise CardError(f"--set {key}: expected heads.NAME.PARAMETER, e.g. heads.logistic.C=0.05")
        known = key_of_head.split(".")[0] in cards.Head.model_fields
        of_heads.setdefault(head, {})[key_of_head if known else f"fixed.{key_of_head}"] = value
    return own, of_heads


def _head_cards(
    workspace: Workspace, names: Sequence[str], overrides: Mapping[str, dict[str, Any]]
) -> dict[str, cards.Head]:
    paths = {path.stem: path for path in (workspace.card("heads", name) for name in names)}
    if len(paths) < len(names):
        _check_once([Path(name).stem for name in names], "heads")
    for head in overrides:
        if head not in paths:
            raise CardError(f"--set heads.{head}: no head of this study{did_you_mean(head, paths)}")
    return {head: cards.read(cards.Head, path, overrides.get(head)) for head, path in paths.items()}


def _check_once(names: Sequence[str], what: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise StudyError(f"{what}: '{twice[0]}' is there {names.count(twice[0])} times; each has a name of its own")


# ---------------------------------------------------------------- what will be done: the plan


@dataclass(frozen=True)
class Source:
    """What a study takes from one cache: the rows that are encoded and whose label the map covers."""

    corpus: str
    path: Path
    identity: Identity
    layers: int
    rows: Rows  # of the cache
    y: npt.NDArray[np.str_]  # their classes
    columns: Mapping[str, npt.NDArray[np.str_]]  # COLUMNS of those rows
    skipped: int
    missing: int
    left_out: Mapping[str, int]  # labels that the map does not name, counted

    @property
    def digest(self) -> str:
        """Of the rows used: other utterances, labels or sounds give another."""
        text = "\n".join("\t".join(row) for row in zip(self.y, *self.columns.values(), strict=True))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


Layer = int | str  # hidden_states[N], "concat" or "weighted"
Triple = tuple[str, Layer, str]  # (arm, layer, head)
WHOLE = -1  # in place of a fold: every row of the study's corpus


class Unit(NamedTuple):
    """One fit."""

    arm: str
    layer: Layer
    head: str
    seed: int
    fold: int  # its place among the plan's folds, or WHOLE

    def folder(self) -> Path:
        """<arm>/layer-<N>/<head>, relative; what cannot stand in a file's name is quoted."""
        return Path(quote(self.arm, safe=SAFE), f"layer-{self.layer}", quote(self.head, safe=SAFE))


@dataclass(frozen=True)
class Plan:
    """Everything that a study will do; nothing has been done yet. Rows count through all sources, one after another."""

    study: cards.Study
    folder: Path
    heads: Mapping[str, cards.Head]
    sources: Mapping[str, Source]  # the study's own corpus first
    folds: Sequence[Fold]  # `train` without what is mixed in
    arms: Mapping[str, Rows]  # arm -> the rows that join every training set
    layers: Sequence[Layer]
    views: int  # augmented views for the heads that want them
    labels: Mapping[str, cards.LabelMap]
    place: str  # the encoder: a hub id, a folder or an exported file
    notes: list[str] = field(default_factory=list)

    @cached_property
    def y(self) -> npt.NDArray[np.str_]:
        return np.concatenate([source.y for source in self.sources.values()])

    @cached_property
    def columns(self) -> dict[str, npt.NDArray[np.str_]]:
        """[row] of every source's columns, and `corpus`."""
        sources = self.sources.values()
        columns = {name: np.concatenate([s.columns[name] for s in sources]) for name in COLUMNS}
        return {"corpus": np.repeat(list(self.sources), [len(s.rows) for s in sources]), **columns}

    def seen(self, rows: Rows) -> str:
        """A digest of which utterances the rows are, so that a record can say what a fit was given."""
        names = sorted(map("/".join, zip(self.columns["corpus"][rows], self.columns["ids"][rows], strict=True)))
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]

    @property
    def identity(self) -> Identity:
        """Of the study's own cache; the others' have the same encoder and recipe."""
        return self.sources[self.study.corpus].identity

    def hidden(self, layer: Layer) -> list[int]:
        """The hidden states whose features, one after the other, are those of a layer."""
        return [layer] if isinstance(layer, int) else list(range(self.sources[self.study.corpus].layers))

    def training(self, fold: int, arm: str) -> Rows:
        """The rows that train in a fold (or WHOLE), with what the arm mixes in."""
        own = np.arange(len(self.sources[self.study.corpus].rows)) if fold == WHOLE else self.folds[fold].train
        return np.concatenate([own, self.arms[arm]])

    def triples(self) -> list[Triple]:
        """(arm, layer, head) of every result. Layers come first, so that features are read once."""
        return [(arm, layer, head) for layer in self.layers for arm in self.arms for head in self.heads]

    def units(self) -> list[Unit]:
        return [
            Unit(*triple, seed, fold)
            for triple in self.triples()
            for seed in range(self.study.seeds)
            for fold in range(len(self.folds))
        ]

    def settings(self) -> dict[str, Any]:
        """All that decides the predictions, as JSON: two runs with the same settings give the same record."""
        # Changes what is said, not what is done.
        told = {"name", "summary", "compare", "paper", "parts", "equal", "certificate"}
        own = self.study.model_dump(mode="json", exclude=told | {"encoder", "labels", "layers", "views"})
        own["search"].pop("storage")  # where trials are kept changes none of them; and it may hold a password
        return {
            **own,
            "heads": {n: c.model_dump(mode="json", exclude={"name", "summary"}) for n, c in self.heads.items()},
            "labels": dict(self.labels),
            "layers": list(self.layers),
            "views": self.views,
            "recipe": {"name": self.study.recipe, **self.identity.recipe},
            "encoder": {
                "id": self.identity.encoder,
                "revision": self.identity.revision,
                "weights_digest": self.identity.weights_digest,
                "weights": "random" if self.identity.random else "pretrained",
            },
            "rows": {corpus: {"count": len(s.rows), "digest": s.digest} for corpus, s in self.sources.items()},
        }


def plan(
    workspace: Workspace, study: cards.Study, head_cards: Mapping[str, cards.Head], *, partial: bool = False
) -> Plan:
    """Decide everything and check everything; reads cards and the caches' columns, writes nothing.

    partial: take incomplete caches as they are. Raises StudyError or CardError in one line that says what to do.
    """
    for card in head_cards.values():
        heads.check(card)
        if "weighted" in study.layers and card.kind != "mlp":
            raise StudyError(
                f'layers: only heads of kind mlp learn weights of layers; leave out "weighted" or {card.name}'
            )
    others = list(dict.fromkeys(corpus for arm in study.arms for corpus in arm.mix))
    names = list(dict.fromkeys(name for name in [study.corpus, study.test, *others] if name))
    recipe = cards.read(cards.Recipe, workspace.card("cache", study.recipe))
    asked = study.encoder or recipe.encoder
    place = str(Path(asked).expanduser().resolve()) if Path(asked).expanduser().exists() else asked
    for name in study.labels:
        if name not in (known := {*names, *corpora.names()}):
            raise CardError(f"labels.{name}: no corpus of this study{did_you_mean(name, known)}")
    labels = {name: study.labels.get(name) or _default_labels(name) for name in names}
    sources = {name: _source(workspace, study, recipe, place, name, labels[name], partial) for name in names}
    _check_alike(list(sources.values()))
    start = dict(zip(names, np.cumsum([0, *(len(s.rows) for s in sources.values())]).tolist(), strict=False))
    arms = {arm.name: _mixed(arm, sources, start) for arm in study.arms}
    made = _folds(study, sources[study.corpus])
    if study.test:
        whole = start[study.test] + np.arange(len(sources[study.test].rows))
        made = [replace(fold, test=whole) for fold in made]
    planned = Plan(
        study=study,
        folder=workspace.study(study.name),
        heads=dict(head_cards),
        sources=sources,
        folds=made,
        arms=arms,
        layers=_layers(study, sources[study.corpus]),
        views=_views(study, head_cards, sources, workspace),
        labels=labels,
        place=place,
    )
    _check_sides(planned)
    planned.notes.extend(_notes(planned))
    return planned


def _default_labels(corpus: str) -> cards.LabelMap:
    """A reader's own label map; a corpus without a reader came from a manifest, where class names are labels."""
    return corpora.reader(corpus if corpus in corpora.names() else "manifest").LABELS


def _source(
    workspace: Workspace,
    study: cards.Study,
    recipe: cards.Recipe,
    place: str,
    corpus: str,
    labels: cards.LabelMap,
    partial: bool,
) -> Source:
    """Read a cache's columns; it must be there, complete (or partial), and of the recipe as its card now is."""
    path = workspace.cache_file(recipe.name, encoders.slug(place), corpus)
    command = _extract_command(study, corpus)
    if not path.is_file():
        known = {*corpora.names(), *(p.stem for p in path.parent.glob("*.h5"))}
        hint = "" if corpus in known else did_you_mean(corpus, known)
        raise StudyError(f"{path}: {corpus} is not cached with this recipe and encoder{hint or f'; try: {command}'}")
    with Cache.open(path) as cache:
        held, done, layers = cache.identity, cache.done, cache.layers
        columns, utterances = cache.metadata(), cache.utterances()
    settings = recipe.model_dump(mode="json", include={"precision", "sound", "augment"})
    if different := replace(held, recipe=settings).differences(held):
        raise StudyError(
            f"{path}: not of recipe '{recipe.name}' as its card now is ({different[0]}); {command} --fresh"
        )
    extra = {*_words(labels)} - {*_words(_default_labels(corpus))}
    if extra and held.labels == "mapped":
        raise StudyError(
            f"{path}: holds the rows of the default label map, none labelled {min(extra)};"
            f" {command} --labels all --fresh"
        )
    y = np.array(corpora.classes_of(utterances, labels))
    missing = int(np.sum((done == MISSING) & (y != "")))
    if missing and not partial:
        raise StudyError(f"{path}: {missing} of {np.sum(y != '')} rows are not encoded; {command}, or --partial")
    rows = np.flatnonzero((done == DONE) & (y != ""))
    if not len(rows):
        raise StudyError(f"{path}: no row is encoded whose label is one of {', '.join(_words(labels))}")
    return Source(
        corpus=corpus,
        path=path,
        identity=held,
        layers=layers,
        rows=rows,
        y=y[rows],
        columns={name: columns[name][rows] for name in COLUMNS},
        skipped=int(np.sum((done == SKIPPED) & (y != ""))),
        missing=missing,
        left_out=dict(sorted(Counter(columns["label"][y == ""].tolist()).items())),
    )


def _extract_command(study: cards.Study, corpus: str) -> str:
    recipe = f" --recipe {study.recipe}" if study.recipe != "exact" else ""
    encoder = f" --encoder {study.encoder}" if study.encoder else ""
    return f"embedkit extract --corpus {corpus}{recipe}{encoder}"


def _words(labels: cards.LabelMap) -> list[str]:
    """Every label that a map names."""
    return [label for names in labels.values() for label in names]


def _check_alike(sources: Sequence[Source]) -> None:
    """Features of two encoders, or of two recipes, are not to be held against each other."""
    first = sources[0]
    for other in sources[1:]:
        alike = replace(first.identity, corpus=other.corpus, views=other.identity.views, labels=other.identity.labels)
        if different := alike.differences(other.identity):
            raise StudyError(
                f"{first.corpus} and {other.corpus} are cached with different settings ({different[0]});"
                f" extract one of them again with --fresh"
            )


def _mixed(arm: cards.Arm, sources: Mapping[str, Source], start: Mapping[str, int]) -> Rows:
    """The rows that an arm mixes in: of each corpus a fraction, nested, in each class its share."""
    parts = [np.empty(0, np.int64)]
    for corpus, fraction in arm.mix.items():
        source = sources[corpus]
        parts.append(start[corpus] + folds.take(source.columns["ids"], source.y, fraction))
    return np.concatenate(parts)


def _folds(study: cards.Study, source: Source) -> list[Fold]:
    """The folds of the study's own corpus, whose rows are the first of all."""
    asked, columns, y = study.folds, source.columns, source.y
    made = {
        "loso": lambda: folds.loso(columns["session"]),
        "speaker": lambda: folds.speaker(columns["speaker"], asked.k),
        "script": lambda: folds.script(
            columns["session"], folds.scripts(columns["dialogue"], columns["text"]), asked.scripts
        ),
        "clips": lambda: folds.clips(y, asked.k, asked.seed),
        "shuffle": lambda: folds.shuffle(y, asked.seed),
    }[asked.kind]()
    made = folds.validated_by(made, asked.validation, y, asked.seed)
    return folds.cut(made, asked.rows, y, asked.seed) if asked.rows else made


def _layers(study: cards.Study, source: Source) -> list[Layer]:
    asked = [study.layers] if isinstance(study.layers, str) else study.layers
    every: dict[Layer, list[Layer]] = {"last": [source.layers - 1], "all": list(range(source.layers))}
    found = [layer for form in asked for layer in every.get(form, [form])]
    for layer in found:
        if isinstance(layer, int) and not 0 <= layer < source.layers:
            raise StudyError(f"layer {layer}: {source.identity.encoder} has layers 0 to {source.layers - 1}")
    if not found:
        raise StudyError('layers = []: name at least one, or "last" or "all"')
    return list(dict.fromkeys(found))


def _views(
    study: cards.Study, head_cards: Mapping[str, cards.Head], sources: Mapping[str, Source], workspace: Workspace
) -> int:
    """How many augmented views the heads get: as many as are asked for, else as every cache that trains has."""
    if all(card.views == "clean" for card in head_cards.values()):
        return 0
    train = {name: s.identity.views for name, s in sources.items() if name != study.test}
    fewest = min(train, key=lambda name: train[name])
    if study.views is not None and study.views > train[fewest]:
        command = f"{_extract_command(study, fewest)} --views {study.views} --fresh"
        where = sources[fewest].path.relative_to(workspace.root)
        raise StudyError(f"views = {study.views}: {where} holds {train[fewest]} augmented views; {command}")
    return train[fewest] if study.views is None else study.views


def _check_sides(planned: Plan) -> None:
    """Training has every class that is asked about."""
    classes = np.unique(planned.y[np.concatenate([np.r_[f.train, f.validate, f.test] for f in planned.folds])])
    if len(classes) < 2:
        raise StudyError(f"{planned.study.corpus}: every row is {classes[0]}; a study needs at least two classes")
    for fold in planned.folds:
        for arm, mixed in planned.arms.items():
            train = np.concatenate([fold.train, mixed])
            for name in np.setdiff1d(classes, planned.y[train]):
                raise StudyError(f"fold {fold.name}, arm {arm}: no training row of {name}; take other folds or labels")


def _said_of_folds(study: cards.Study) -> Iterator[str]:
    if study.folds.kind == "shuffle":
        yield "one random split: the same speakers train and are tested, so this says nothing about a new speaker"
    if study.folds.kind == "clips":
        yield "random folds of clips: the same speakers train and are tested"
    if study.folds.validation == "test":
        yield "what validates is what is tested: the best epoch is picked on the test rows, so the figures flatter"
    if study.folds.validation == "random":
        yield "a random fifth validates, so its speakers train too: validation UA flatters"


def _said_of_features(study: cards.Study) -> Iterator[str]:
    said = {
        "global": "features are standardised by all training rows",
        "corpus": "features are standardised by each corpus's own training rows",
    }  # what "speaker" is, the audit says
    if study.normalise in said:
        yield said[study.normalise]
    if study.align == "coral":
        yield "what is mixed in is aligned to the study's corpus (CORAL, fitted on training rows)"


def _notes(planned: Plan) -> Iterator[str]:
    """What a reader of the figures must know."""
    study = planned.study
    for corpus, source in planned.sources.items():
        if source.missing:
            yield f"{corpus}: {source.missing} rows are not encoded yet and are left out (--partial)"
        if source.skipped:
            yield f"{corpus}: {source.skipped} rows were skipped at extraction and are left out"
    yield from _said_of_folds(study)
    yield from _said_of_features(study)
    wanting = [name for name, card in planned.heads.items() if card.views != "clean"]
    if wanting and not planned.views and study.views is None:
        yield f"no augmented views are cached: {', '.join(wanting)} trained on the clean ones"
    if not all(card.search for card in planned.heads.values()) and study.search.trials:
        fixed = [name for name, card in planned.heads.items() if not card.search]
        yield f"no search space in the card, so nothing was searched: {', '.join(fixed)}"
