"""The audit of a study: of its plan, and of its record where it is finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from embedkit import files, heads
from embedkit.errors import StudyError, did_you_mean
from embedkit.study import leakage
from embedkit.study.completed import rebuild_plan
from embedkit.study.fit import FoldTrainer
from embedkit.study.folder import head_folder, read_list
from embedkit.study.plan import StudyPlan
from embedkit.study.planning import plan_study
from embedkit.study.request import resolve_study
from embedkit.workspace import Workspace


def audit_record(planned: StudyPlan) -> list[leakage.Finding]:
    folder = planned.folder
    return leakage.audit_record(planned, read_list(folder / "units.json"), read_list(folder / "search.json"))


def write_audit(planned: StudyPlan, leaks: Sequence[leakage.Finding], checked: Sequence[str]) -> dict[str, Any]:
    doc = leakage.build_document(planned, leaks, checked)
    files.write_text(planned.folder / "audit.json", json.dumps(doc, indent=2, ensure_ascii=False) + "\n")
    return doc


def audit_single_study(workspace: Workspace, name: str) -> dict[str, Any]:
    """What leaks in a study, by its name: with its fits, searches and scalers where it is finished; or in a card.

    Returns {study, passed, checked, findings: [{check, verdict, count, examples, folds, arms, text}]}. Raises
    StudyError or CardError where there is none, and where its caches are missing or have changed.
    """
    begun = {path.parent.name for path in workspace.studies.glob("*/study.json")}
    if name not in begun:
        known = {*begun, *workspace.list_card_names("studies")}
        if ".toml" not in name and name.partition(".")[0] not in known:  # of "leak-ladder.script" the card is known
            raise StudyError(f"no study or card '{name}' in {workspace.studies}{did_you_mean(name, known)}")
        planned = plan_study(workspace, *resolve_study(workspace, name), partial=True)
        return leakage.build_document(planned, leakage.audit_plan(planned), leakage.list_checks(planned))
    planned = rebuild_plan(workspace, name)
    leaks, checked = leakage.audit_plan(planned), leakage.list_checks(planned)
    if (planned.folder / "predictions.parquet").is_file():
        leaks += [*audit_record(planned), *leakage.audit_scalers(planned, _read_scalers(planned))]
        checked = list(dict.fromkeys([*checked, *leakage.RECORD_CHECKS]))
    return write_audit(planned, leaks, checked)


def _read_scalers(planned: StudyPlan) -> Iterator[leakage.Scaler]:
    """Each kept head that shows its scaler, and the mean of the rows that the plan gives it. LightGBM has none, and
    that of a head stored as ONNX lies in its graph."""
    trainer = FoldTrainer(planned)
    for fit in planned.list_fits():
        folder = head_folder(planned.folder, fit, planned.folds[fit.fold].name)
        if fit.seed or not folder.is_dir():
            continue
        head: Any = heads.load(planned.heads[fit.head].kind, folder)
        if not getattr(head, "standardize", hasattr(head, "mean_")):
            continue
        train = planned.training_rows(fit.fold, fit.arm)
        rows = trainer.inputs(fit, train)[:, 0].astype(np.float64)
        fold = planned.folds[fit.fold].name
        yield leakage.Scaler({**fit._asdict(), "fold": fold}, head.mean_, head.scale_, rows.mean(0))
