"""What a study will do, decided and checked before anything trains.

`plan_study` reads the caches' columns and says which rows train, validate and test. It writes nothing, and finds every
mistake that can be found without training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from embedkit import cards, corpora, heads
from embedkit.errors import CardError, StudyError, did_you_mean
from embedkit.study import folds
from embedkit.study.folds import Fold, Rows
from embedkit.study.plan import Layer, StudyPlan
from embedkit.study.source import Source, _check_alike, _default_labels, _extract_command, _source
from embedkit.workspace import Workspace


def plan_study(
    workspace: Workspace, study: cards.Study, head_cards: Mapping[str, cards.Head], *, partial: bool = False
) -> StudyPlan:
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
    planned = StudyPlan(
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


def _check_sides(planned: StudyPlan) -> None:
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


def _notes(planned: StudyPlan) -> Iterator[str]:
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
