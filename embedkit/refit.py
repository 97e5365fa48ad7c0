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
from embedkit.study import StudyPlan, Unit, plan_study
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from embedkit.study import Choice, Finished


def run(workspace: Workspace, base: Finished, choice: Choice, file: Path, roots: Mapping[str, Path]) -> StudyPlan:
    """Extract with the file, and run the study of the one choice again; what is done already is not done twice.

    roots: where corpora lie, where the workspace does not say. The new study is `<study>.<the file's stem>-refit`.
    """
    asked = _study(base, choice, file)
    recipe = cards.read(cards.Recipe, workspace.card("cache", asked.recipe))
    for corpus, source in base.plan.sources.items():
        with cache.Cache.open(source.path) as held:
            tried = int((held.done != cache.MISSING).sum())
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
    fitted = head.model_copy(update={"fixed": {**head.fixed, **base.params(choice)}})
    planned = plan_study(
        workspace, asked, {choice.head: fitted}, partial=any(s.missing for s in base.plan.sources.values())
    )
    study.run_plan(planned)
    return planned


def _study(base: Finished, choice: Choice, file: Path) -> cards.Study:
    """The base study with one arm, head and layer, on the file's features, whose layers count from 0; no search."""
    own = base.plan.study
    return own.model_copy(
        update={
            "name": f"{own.name}.{file.stem}-refit",
            "encoder": str(file),
            "arms": [arm for arm in own.arms if arm.name == choice.arm],
            "heads": [choice.head],
            "layers": [0 if isinstance(choice.layer, int) else choice.layer],
            "views": base.plan.views or None,
            "search": own.search.model_copy(update={"trials": 0}),
            "compare": ["ua"],
            "paper": None,
        }
    )


def won_back(base: Finished, choice: Choice, new: Finished, chosen: Choice) -> dict[str, Any]:
    """UA on all test rows, {clips, speakers, ways: {study, before, refit: {wa, ua}}, comparisons}.

    study: on the study's own features; before: the same folds' heads on the file's; refit: heads trained on these.
    Intervals are 95 % by speaker; each way against `before` by a paired permutation test over speakers, Holm's p.
    """
    after, first = new.test_rows(chosen), base.test_rows(choice)
    both = first.merge(after, on=["corpus", "utterance", "fold", "speaker", "label"], suffixes=("", "_refit"))
    said = {
        "study": _likeliest(both),
        "before": _before(base, choice, new, chosen, both),
        "refit": _likeliest(both, "_refit"),
    }
    labels, speakers = both["label"].tolist(), both["speaker"].tolist()
    tables = {way: stats.tables(labels, each, speakers) for way, each in said.items()}
    return {"clips": len(both), "speakers": len(set(speakers)), **stats.scored(tables, "before")}


def _likeliest(rows: pd.DataFrame, suffix: str = "") -> list[str]:
    p = rows[[f"p_{name}{suffix}" for name in CLASSES]].to_numpy()
    return [CLASSES[i] for i in p.argmax(1)]


def _before(base: Finished, choice: Choice, new: Finished, chosen: Choice, rows: pd.DataFrame) -> list[str]:
    """What the base study's heads say of the file's features, each of its fold's test rows."""
    columns, bench = new.plan.columns, study.Bench(new.plan)
    place = {key: i for i, key in enumerate(zip(columns["corpus"], columns["ids"], strict=True))}
    at = rows.assign(row=[place[key] for key in zip(rows["corpus"], rows["utterance"], strict=True)])
    unit = Unit(chosen.arm, chosen.layer, chosen.head, 0, 0)
    said: dict[int, str] = {}
    for fold, part in at.groupby("fold", sort=False):
        p = bench.probabilities(base.fold_head(choice, str(fold)), unit, part["row"].to_numpy())
        said |= {index: CLASSES[i] for index, i in zip(part.index, p.argmax(1), strict=True)}
    return [said[index] for index in rows.index]
