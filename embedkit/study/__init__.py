"""Studies: heads are trained on cached features, fold by fold, and their predictions are kept and scored.

A study trains one head per fit (arm, layer, head, seed, fold). Every figure is derived from the predictions:

    studies/<name>/study.json            the settings in effect; the same ones resume, others are refused
    studies/<name>/predictions.parquet   utterance, corpus, speaker, session, arm, layer, head, seed, fold, split
                                         (validate or test), label, p_anger, p_happiness, p_neutral, p_sadness
    studies/<name>/units.json            of each fit: its best epoch or iteration, seconds, training rows, warnings, and
                                         digests of the rows that it was given
    studies/<name>/search.json           of each search: the parameters found, trials, pruned, validation UA, and
                                         digests of the rows that it was given
    studies/<name>/audit.json            what leaks, and what of it is allowed
    studies/<name>/heads/<arm>/layer-<N>/<head>/fold-<fold>/    the heads of the first seed; final/: of all rows, once
                                         one is exported
    studies/<name>/results.json, report.md, report.html, figures/
"""

from __future__ import annotations

from embedkit.study.audit import audit_single_study, format_audit
from embedkit.study.completed import CompletedStudy, ResultChoice, choose_best_result, open_study
from embedkit.study.document import AuditDocument, SeriesAudit, StudyOutcome
from embedkit.study.fit import FoldTrainer
from embedkit.study.folder import read_predictions, study_lock
from embedkit.study.folds import Fold
from embedkit.study.plan import Fit, StudyPlan
from embedkit.study.planning import plan_study
from embedkit.study.request import StudyFlags, resolve_study
from embedkit.study.run import run_plan, run_single_study
from embedkit.study.series import audit_series, run_study

__all__ = [
    "AuditDocument",
    "CompletedStudy",
    "Fit",
    "Fold",
    "FoldTrainer",
    "ResultChoice",
    "SeriesAudit",
    "StudyFlags",
    "StudyOutcome",
    "StudyPlan",
    "audit_series",
    "audit_single_study",
    "choose_best_result",
    "format_audit",
    "open_study",
    "plan_study",
    "read_predictions",
    "resolve_study",
    "run_plan",
    "run_single_study",
    "run_study",
    "study_lock",
]
