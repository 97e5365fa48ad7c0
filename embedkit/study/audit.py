"""The audit of a study: of its plan and, where it is finished, of what it kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np

from embedkit import files, heads
from embedkit.errors import StudyError, did_you_mean
from embedkit.study import leakage
from embedkit.study.completed import rebuild_plan
from embedkit.study.document import AuditDocument, SeriesAudit
from embedkit.study.fit import FoldTrainer
from embedkit.study.folder import head_folder, is_trained, read_fit_records, read_search_entries
from embedkit.study.plan import StudyPlan
from embedkit.study.planning import plan_study
from embedkit.study.request import resolve_study
from embedkit.workspace import Workspace


def audit_record(planned: StudyPlan) -> list[leakage.Finding]:
    """The findings about the fits and searches of a study's folder."""
    return leakage.audit_record(planned, read_fit_records(planned.folder), read_search_entries(planned.folder))


def write_audit(planned: StudyPlan, leaks: Sequence[leakage.Finding], checked: Sequence[str]) -> AuditDocument:
    """Write audit.json in the study's folder; returns what it says."""
    doc = _build_document(planned, leaks, checked)
    files.write_text(planned.folder / "audit.json", json.dumps(doc, indent=2, ensure_ascii=False) + "\n")
    return doc


def audit_single_study(workspace: Workspace, name: str) -> AuditDocument:
    """Check a study by its name (where it is finished also its fits, searches and scalers), or a card, for leakage.

    Raises StudyError or CardError where there is none, and where its caches are missing or have changed.
    """
    begun = {path.parent.name for path in workspace.studies.glob("*/study.json")}
    if name not in begun:
        known = {*begun, *workspace.list_card_names("studies")}
        if ".toml" not in name and name.partition(".")[0] not in known:  # "leak-ladder.script" is a part of a card
            raise StudyError(f"no study or card '{name}' in {workspace.studies}{did_you_mean(name, known)}")
        planned = plan_study(workspace, *resolve_study(workspace, name), partial=True)
        return _build_document(planned, leakage.audit_plan(planned), leakage.list_checks(planned))
    planned = rebuild_plan(workspace, name)
    leaks, checked = leakage.audit_plan(planned), leakage.list_checks(planned)
    if is_trained(planned):
        leaks += [*audit_record(planned), *leakage.audit_scalers(planned, _read_scalers(planned))]
        checked = list(dict.fromkeys([*checked, *leakage.RECORD_CHECKS]))
    return write_audit(planned, leaks, checked)


def _build_document(planned: StudyPlan, findings: Sequence[leakage.Finding], checked: Sequence[str]) -> AuditDocument:
    return {
        "study": planned.study.name,
        "passed": not any(finding.verdict == "fail" for finding in findings),
        "checked": list(checked),
        "findings": [finding.to_document() for finding in findings],
    }


def _read_scalers(planned: StudyPlan) -> Iterator[leakage.Scaler]:
    """The scaler of each kept head that has one, and the mean of the training rows of its fit.

    LightGBM has no scaler, and that of a head stored as ONNX is part of its graph.
    """
    trainer = FoldTrainer(planned)
    for fit in planned.list_fits():
        fold = planned.folds[fit.fold].name
        folder = head_folder(planned.folder, fit, fold)
        if fit.seed or not folder.is_dir():
            continue
        head = heads.load(planned.heads[fit.head].kind, folder)
        mean, scale = getattr(head, "mean_", None), getattr(head, "scale_", None)
        if mean is None or scale is None or not getattr(head, "standardize", True):
            continue
        rows = trainer.inputs(fit, planned.training_rows(fit.fold, fit.arm))[:, 0].astype(np.float64)
        place = leakage.FitPlace(fit.arm, fit.layer, fit.head, fit.seed, fold)
        yield leakage.Scaler(place, mean, scale, rows.mean(0))


def format_audit(doc: AuditDocument | SeriesAudit) -> str:
    """An audit as text: a line for each finding, then one for each check that found nothing; part by part."""
    if "parts" in doc:
        return "\n".join(map(format_audit, doc["parts"].values()))
    verdict_words = {"fail": "FAIL", "allowed": "allowed", "report": "reported"}
    lines = [(verdict_words[f["verdict"]], f["check"], f["text"]) for f in doc["findings"]]
    clean = [check for check in doc["checked"] if check not in {f["check"] for f in doc["findings"]}]
    lines += [("ok", check, "nothing found") for check in clean]
    verdict = "nothing leaks that is not allowed" if doc["passed"] else "leaks that the card does not allow by name"
    return "\n".join([f"{doc['study']}: {verdict}", *(f"  {a:<8} {b:<10} {c}" for a, b, c in lines)])
