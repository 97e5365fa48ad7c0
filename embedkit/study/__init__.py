"""Studies: cached features, folds and heads to predictions, the record that everything else derives from.

One unit of work is one fit (arm, layer, head, seed, fold), written when it ends: a kill costs the units in flight.

    studies/<name>/study.json            the settings in effect; the same ones resume, others are refused
    studies/<name>/predictions.parquet   utterance, corpus, speaker, session, arm, layer, head, seed, fold, split
                                         (validate or test), label, p_anger, p_happiness, p_neutral, p_sadness
    studies/<name>/units.json            of each fit: its best epoch or iteration, seconds, training rows, warnings, and
                                         digests of the rows that it saw
    studies/<name>/search.json           of each search: the parameters found, trials, pruned, validation UA, rows seen
    studies/<name>/audit.json            what leaks, and what of it is allowed
    studies/<name>/heads/<arm>/layer-<N>/<head>/fold-<fold>/    the first seed's heads; final/ once one is exported
    studies/<name>/results.json, report.md, report.html, figures/
"""

from __future__ import annotations

from embedkit.study.audit import audit_single_study
from embedkit.study.completed import CompletedStudy, ResultChoice, choose_best_result, open_study
from embedkit.study.fit import FoldTrainer
from embedkit.study.folder import read_predictions, study_lock
from embedkit.study.folds import Fold
from embedkit.study.leakage import format_audit
from embedkit.study.plan import Fit, StudyPlan
from embedkit.study.planning import plan_study
from embedkit.study.request import resolve_study
from embedkit.study.run import run_plan, run_single_study
from embedkit.study.search import mask_password, search_parameters

__all__ = [
    "CompletedStudy",
    "Fit",
    "Fold",
    "FoldTrainer",
    "ResultChoice",
    "StudyPlan",
    "audit_single_study",
    "choose_best_result",
    "format_audit",
    "mask_password",
    "open_study",
    "plan_study",
    "read_predictions",
    "resolve_study",
    "run_plan",
    "run_single_study",
    "search_parameters",
    "study_lock",
]
