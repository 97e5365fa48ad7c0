"""Refit: train a head anew on the features of an exported file, so that it fits the encoder that is deployed.

An exported file is one more encoder: every corpus of the study goes through it, the study is run again on these
features with the same folds, head and parameters, and that study is exported. The gain is measured on all test rows:
the study itself, the heads of its folds on the file's features, and the new heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from embedkit import cache, cards, stats
from embedkit.classes import CLASSES
from embedkit.export import stitch_study
from embedkit.export.clips import CERTIFICATE_CLIPS
from embedkit.export.document import ExportDocument, RefitGain
from embedkit.extract import extract_corpus
from embedkit.study import (
    CompletedStudy,
    Fit,
    FoldTrainer,
    ResultChoice,
    choose_best_result,
    open_study,
    plan_study,
    run_plan,
)
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


def stitch_export(
    workspace: Workspace | Path | str,
    study: str | None = None,
    head: str | None = None,
    arm: str | None = None,
    layer: int | str | None = None,
    profile: str | None = None,
    output: Path | str | None = None,
    *,
    root: Path | str | None = None,
    clips: int = CERTIFICATE_CLIPS,
    settings: Mapping[str, object] | None = None,
    refit: bool = False,
) -> ExportDocument:
    """Write a study's head with its encoder as one ONNX file: the verb `embedkit stitch-export`.

    refit: then train the head anew on the features of that file, write a second one, `<file>-refit.onnx`, whose
    certificate has the gain, and return that one. For everything else see `stitch_study`.
    """
    workspace = Workspace.at(workspace)
    root = Path(root) if root else None
    output = Path(output) if output else None
    export = partial(stitch_study, workspace, root=root, clips=clips, settings=settings)
    first = export(study, head, arm, layer, profile, output)
    if not refit:
        return first
    certificate, file = first["certificate"], Path(first["model"])
    base = open_study(workspace, certificate["study"])
    choice = ResultChoice(certificate["arm"], certificate["head"], certificate["layer"])
    name = run_refit_study(workspace, base, choice, file, {base.tested_corpus: root} if root else {})
    new = open_study(workspace, name)
    gain = compare_refit(base, choice, new, choose_best_result(new.results))
    return export(name, output=file.with_stem(f"{file.stem}-refit"), extra={"refit": gain})


def run_refit_study(
    workspace: Workspace, base: CompletedStudy, choice: ResultChoice, file: Path, roots: Mapping[str, Path]
) -> str:
    """Extract the study's corpora with the file, and run the study of one choice again on these features.

    roots: where corpora lie, for those that the workspace's settings do not name. What is done already is kept.
    Returns the name of the new study, `<study>.<stem of the file>-refit`.
    """
    study_card = _derive_study(base, choice, file)
    recipe = cards.read(cards.Recipe, workspace.card("cache", study_card.recipe))
    for corpus, source in base.plan.sources.items():
        with cache.Cache.open(source.path) as cached:
            encoded = int((cached.done != cache.MISSING).sum())
        extract_corpus(
            workspace,
            corpus,
            recipe=recipe,
            root=roots.get(corpus),
            encoder=str(file),
            views=min(base.plan.views, source.identity.views),
            labels="all" if source.identity.labels == "all" else "mapped",
            limit=encoded if source.missing else None,
        )
    head = base.plan.heads[choice.head]
    fixed_head = head.model_copy(update={"fixed": {**head.fixed, **base.params(choice)}})
    planned = plan_study(
        workspace, study_card, {choice.head: fixed_head}, partial=any(s.missing for s in base.plan.sources.values())
    )
    run_plan(planned)
    return planned.study.name


def _derive_study(base: CompletedStudy, choice: ResultChoice, file: Path) -> cards.Study:
    """The card of the base study with one arm, head and layer, on the features of the file, without a search.

    The file has a single hidden state, number 0, where the choice is one layer.
    """
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
) -> RefitGain:
    """The scores of three ways to predict all test rows.

    "study": the base study, on its own features; "before": the same heads on the features of the file; "refit": heads
    that were trained on these. Each is tested against "before"; see `stats.compare_ways`.
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
    """What the heads of the base study's folds predict for their test rows, from the features of the file."""
    columns, trainer = new.plan.columns, FoldTrainer(new.plan)
    place = {key: i for i, key in enumerate(zip(columns["corpus"], columns["ids"], strict=True))}
    located = rows.assign(row=[place[key] for key in zip(rows["corpus"], rows["utterance"], strict=True)])
    fit = Fit(new_choice.arm, new_choice.layer, new_choice.head, 0, 0)
    predicted: dict[int, str] = {}
    for fold, part in located.groupby("fold", sort=False):
        p = trainer.probabilities(base.load_fold_head(choice, str(fold)), fit, part["row"].to_numpy())
        predicted |= {index: CLASSES[i] for index, i in zip(part.index, p.argmax(1), strict=True)}
    return [predicted[index] for index in rows.index]
