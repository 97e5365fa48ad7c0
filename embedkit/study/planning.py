"""Plan a study: decide which rows train, validate and test, and check all that can be checked without training."""

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
from embedkit.study.source import (
    Source,
    check_same_settings,
    find_default_labels,
    format_extract_command,
    read_source,
)
from embedkit.workspace import Workspace


def plan_study(
    workspace: Workspace, study: cards.Study, head_cards: Mapping[str, cards.Head], *, partial: bool = False
) -> StudyPlan:
    """Plan a study from its card and the columns of its caches; writes nothing.

    partial: take incomplete caches as they are. Raises StudyError or CardError in one line that says what to do.
    """
    for card in head_cards.values():
        heads.check_card(card)
        if "weighted" in study.layers and card.kind != "mlp":
            raise StudyError(
                f'layers: only heads of kind mlp learn weights of layers; leave out "weighted" or {card.name}'
            )
    others = list(dict.fromkeys(corpus for arm in study.arms for corpus in arm.mix))
    names = list(dict.fromkeys(name for name in [study.corpus, study.test, *others] if name))
    recipe = cards.read(cards.Recipe, workspace.card("cache", study.recipe))
    encoder = study.encoder or recipe.encoder
    place = str(Path(encoder).expanduser().resolve()) if Path(encoder).expanduser().exists() else encoder
    for name in study.labels:
        if name not in (known := {*names, *corpora.list_corpora()}):
            raise CardError(f"labels.{name}: no corpus of this study{did_you_mean(name, known)}")
    labels = {name: study.labels.get(name) or find_default_labels(name) for name in names}
    sources = {name: read_source(workspace, study, recipe, place, name, labels[name], partial) for name in names}
    check_same_settings(list(sources.values()))
    first_row = dict(zip(names, np.cumsum([0, *(len(s.rows) for s in sources.values())]).tolist(), strict=False))
    arms = {arm.name: _select_mixed_rows(arm, sources, first_row) for arm in study.arms}
    study_folds = _make_folds(study, sources[study.corpus])
    if study.test:
        tested = first_row[study.test] + np.arange(len(sources[study.test].rows))
        study_folds = [replace(fold, test=tested) for fold in study_folds]
    planned = StudyPlan(
        study=study,
        folder=workspace.study(study.name),
        heads=dict(head_cards),
        sources=sources,
        folds=study_folds,
        arms=arms,
        layers=_resolve_layers(study, sources[study.corpus]),
        views=_count_views(study, head_cards, sources, workspace),
        labels=labels,
        place=place,
    )
    _check_training_classes(planned)
    planned.notes.extend(_collect_notes(planned))
    return planned


def _select_mixed_rows(arm: cards.Arm, sources: Mapping[str, Source], first_row: Mapping[str, int]) -> Rows:
    """The rows that an arm mixes in: a fraction of each corpus, stratified by class; smaller fractions are subsets."""
    parts = [np.empty(0, np.int64)]
    for corpus, fraction in arm.mix.items():
        source = sources[corpus]
        parts.append(first_row[corpus] + folds.take_fraction(source.columns["ids"], source.y, fraction))
    return np.concatenate(parts)


def _make_folds(study: cards.Study, source: Source) -> list[Fold]:
    """The folds of the study's own corpus, whose rows come first."""
    settings, columns, y = study.folds, source.columns, source.y
    study_folds = {
        "loso": lambda: folds.leave_one_session_out(columns["session"]),
        "speaker": lambda: folds.split_by_speaker(columns["speaker"], settings.k),
        "script": lambda: folds.leave_scripts_out(
            columns["session"], folds.identify_scripts(columns["dialogue"], columns["text"]), settings.scripts
        ),
        "clips": lambda: folds.split_by_clip(y, settings.k, settings.seed),
        "shuffle": lambda: folds.split_at_random(y, settings.seed),
    }[settings.kind]()
    study_folds = folds.choose_validation(study_folds, settings.validation, y, settings.seed)
    return folds.limit_training_rows(study_folds, settings.rows, y, settings.seed) if settings.rows else study_folds


def _resolve_layers(study: cards.Study, source: Source) -> list[Layer]:
    forms = [study.layers] if isinstance(study.layers, str) else study.layers
    expansions: dict[Layer, list[Layer]] = {"last": [source.layers - 1], "all": list(range(source.layers))}
    layers = [layer for form in forms for layer in expansions.get(form, [form])]
    for layer in layers:
        if isinstance(layer, int) and not 0 <= layer < source.layers:
            raise StudyError(f"layer {layer}: {source.identity.encoder} has layers 0 to {source.layers - 1}")
    if not layers:
        raise StudyError('layers = []: name at least one, or "last" or "all"')
    return list(dict.fromkeys(layers))


def _count_views(
    study: cards.Study, head_cards: Mapping[str, cards.Head], sources: Mapping[str, Source], workspace: Workspace
) -> int:
    """How many augmented views the heads get: those asked for, else as many as every training corpus has cached."""
    if all(card.views == "clean" for card in head_cards.values()):
        return 0
    train = {name: s.identity.views for name, s in sources.items() if name != study.test}
    fewest = min(train, key=lambda name: train[name])
    if study.views is not None and study.views > train[fewest]:
        command = f"{format_extract_command(study, fewest)} --views {study.views} --fresh"
        where = sources[fewest].path.relative_to(workspace.root)
        raise StudyError(f"views = {study.views}: {where} holds {train[fewest]} augmented views; {command}")
    return train[fewest] if study.views is None else study.views


def _check_training_classes(planned: StudyPlan) -> None:
    """Raise StudyError unless the training rows of every fold have every class, of which there are at least two."""
    classes = np.unique(planned.y[np.concatenate([np.r_[f.train, f.validate, f.test] for f in planned.folds])])
    if len(classes) < 2:
        raise StudyError(f"{planned.study.corpus}: every row is {classes[0]}; a study needs at least two classes")
    for fold in planned.folds:
        for arm, mixed in planned.arms.items():
            train = np.concatenate([fold.train, mixed])
            for name in np.setdiff1d(classes, planned.y[train]):
                raise StudyError(f"fold {fold.name}, arm {arm}: no training row of {name}; take other folds or labels")


def _note_fold_caveats(study: cards.Study) -> Iterator[str]:
    if study.folds.kind == "shuffle":
        yield "one random split: the same speakers train and are tested, so this says nothing about a new speaker"
    if study.folds.kind == "clips":
        yield "random folds of clips: the same speakers train and are tested"
    if study.folds.validation == "test":
        yield "what validates is what is tested: the best epoch is picked on the test rows, so the figures flatter"
    if study.folds.validation == "random":
        yield "a random fifth validates, so its speakers train too: validation UA flatters"


def _note_feature_scaling(study: cards.Study) -> Iterator[str]:
    scaling_notes = {
        "global": "features are standardised by all training rows",
        "corpus": "features are standardised by each corpus's own training rows",
    }  # of "speaker" the audit reports
    if study.normalise in scaling_notes:
        yield scaling_notes[study.normalise]
    if study.align == "coral":
        yield "what is mixed in is aligned to the study's corpus (CORAL, fitted on training rows)"


def _collect_notes(planned: StudyPlan) -> Iterator[str]:
    """What a reader of the results must know."""
    study = planned.study
    for corpus, source in planned.sources.items():
        if source.missing:
            yield f"{corpus}: {source.missing} rows are not encoded yet and are left out (--partial)"
        if source.skipped:
            yield f"{corpus}: {source.skipped} rows were skipped at extraction and are left out"
    yield from _note_fold_caveats(study)
    yield from _note_feature_scaling(study)
    augmented = [name for name, card in planned.heads.items() if card.views != "clean"]
    if augmented and not planned.views and study.views is None:
        yield f"no augmented views are cached: {', '.join(augmented)} trained on the clean ones"
    if not all(card.search for card in planned.heads.values()) and study.search.trials:
        fixed = [name for name, card in planned.heads.items() if not card.search]
        yield f"no search space in the card, so nothing was searched: {', '.join(fixed)}"
