"""Refit: the head trained anew on what the file's own encoder gives, so that what is deployed is what was trained.

An exported file is one more encoder: every corpus of the study goes through it, the study is run again on these
features with the same folds, head and parameters, and that study is exported. What it wins back is measured on the
folds' test rows, all of them: the study itself, its folds' heads on the file's features, and the new ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit import cache, cards, extract, stats, study
from embedkit.classes import CLASSES
from embedkit.study import Fit, StudyPlan, plan_study
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from embedkit.study import CompletedStudy, ResultChoice


def run(
    workspace: Workspace, base: CompletedStudy, choice: ResultChoice, file: Path, roots: Mapping[str, Path]
) -> StudyPlan:
    """Extract with the file, and run the study of the one choice again; what is done already is not done twice.

    roots: where corpora lie, where the workspace does not say. The new study is `<study>.<the file's stem>-refit`.
    """
    study_card = _derive_study(base, choice, file)
    recipe = cards.read(cards.Recipe, workspace.card("cache", study_card.recipe))
    for corpus, source in base.plan.sources.items():
        with cache.Cache.open(source.path) as cached:
            tried = int((cached.done != cache.MISSING).sum())
        extract.extract_corpus(
            workspace,
            corpus,
            recipe=recipe,
            root=roots.get(corpus),
            encoder=str(file),
            views=min(base.plan.views, source.identity.views),
            labels="all" if source.identity.labels == "all" else "mapped",
            limit=tried if source.missing else None,
        )
    head = base.plan.heads[choice.head]
    fixed_head = head.model_copy(update={"fixed": {**head.fixed, **base.params(choice)}})
    planned = plan_study(
        workspace, study_card, {choice.head: fixed_head}, partial=any(s.missing for s in base.plan.sources.values())
    )
    study.run_plan(planned)
    return planned


def _derive_study(base: CompletedStudy, choice: ResultChoice, file: Path) -> cards.Study:
    """The base study with one arm, head and layer, on the file's features, whose layers count from 0; no search."""
    card = base.plan.study
    return card.model_copy(
        update={
            "name": f"{card.name}.{file.stem}-refit",
            "encoder": str(file),
            "arms": [arm for arm in card.arms if arm.name == choice.arm],
            "heads": [choice.head],
            "layers": [0 if isinstance(choice.layer, int) else choice.layer],
            "views": base.plan.views or None,
            "search": card.search.model_copy(update={"trials": 0}),
            "compare": ["ua"],
            "paper": None,
        }
    )


def compare_refit(
    base: CompletedStudy, choice: ResultChoice, new: CompletedStudy, new_choice: ResultChoice
) -> dict[str, Any]:
    """UA on all test rows, {clips, speakers, ways: {study, before, refit: {wa, ua}}, comparisons}.

    study: on the study's own features; before: the same folds' heads on the file's; refit: heads trained on these.
    Intervals are 95 % by speaker; each way against `before` by a paired permutation test over speakers, Holm's p.
    """
    after, first = new.read_test_rows(new_choice), base.read_test_rows(choice)
    both = first.merge(after, on=["corpus", "utterance", "fold", "speaker", "label"], suffixes=("", "_refit"))
    predicted = {
        "study": _pick_labels(both),
        "before": _predict_with_base_heads(base, choice, new, new_choice, both),
        "refit": _pick_labels(both, "_refit"),
    }
    labels, speakers = both["label"].tolist(), both["speaker"].tolist()
    tables = {way: stats.confusion_by_cluster(labels, each, speakers) for way, each in predicted.items()}
    return {"clips": len(both), "speakers": len(set(speakers)), **stats.compare_ways(tables, "before")}


def _pick_labels(rows: pd.DataFrame, suffix: str = "") -> list[str]:
    p = rows[[f"p_{name}{suffix}" for name in CLASSES]].to_numpy()
    return [CLASSES[i] for i in p.argmax(1)]


def _predict_with_base_heads(
    base: CompletedStudy, choice: ResultChoice, new: CompletedStudy, new_choice: ResultChoice, rows: pd.DataFrame
) -> list[str]:
    """What the base study's heads say of the file's features, each of its fold's test rows."""
    columns, trainer = new.plan.columns, study.FoldTrainer(new.plan)
    place = {key: i for i, key in enumerate(zip(columns["corpus"], columns["ids"], strict=True))}
    located = rows.assign(row=[place[key] for key in zip(rows["corpus"], rows["utterance"], strict=True)])
    fit = Fit(new_choice.arm, new_choice.layer, new_choice.head, 0, 0)
    predicted: dict[int, str] = {}
    for fold, part in located.groupby("fold", sort=False):
        p = trainer.probabilities(base.load_fold_head(choice, str(fold)), fit, part["row"].to_numpy())
        predicted |= {index: CLASSES[i] for index, i in zip(part.index, p.argmax(1), strict=True)}
    return [predicted[index] for index in rows.index]
