"""Run a study, or what is left of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from embedkit import files, report
from embedkit._version import __version__
from embedkit.errors import StudyError
from embedkit.progress import progress_bar
from embedkit.report.document import StudyDocument
from embedkit.study import leakage
from embedkit.study.audit import audit_record, write_audit
from embedkit.study.document import StudyOutcome, StudyRecord
from embedkit.study.fit import FoldTrainer
from embedkit.study.folder import is_trained, list_differences, merge_parts, part_path, study_lock
from embedkit.study.plan import Fit, ResultKey, StudyPlan
from embedkit.study.planning import plan_study
from embedkit.study.pool import FitPool
from embedkit.study.request import StudyFlags, resolve_study
from embedkit.study.results import build_results
from embedkit.study.tune import find_parameters, list_searches, read_searches, run_search
from embedkit.threads import count_cores
from embedkit.workspace import Workspace


def run_single_study(
    workspace: Workspace | Path | str,
    card: str | None = None,
    flags: StudyFlags | None = None,
    settings: Mapping[str, object] | None = None,
    name: str | None = None,
    partial: bool = False,
    jobs: int | None = None,
) -> StudyOutcome:
    """Run a study without parts, or what is left of it; see `resolve_study` for card, flags, settings and name.

    partial: take incomplete caches as they are. jobs: processes (default: the number of cores).
    Raises StudyError, CardError or CacheError before anything trains.
    """
    workspace = Workspace.at(workspace)
    return run_plan(
        plan_study(workspace, *resolve_study(workspace, card, flags, settings, name), partial=partial), jobs
    )


def run_plan(planned: StudyPlan, jobs: int | None = None) -> StudyOutcome:
    """Run a planned study, or what is left of it; see `run_single_study`."""
    doc = complete_plan(planned, jobs)
    return {**doc, "table": report.format_summary(doc)}


def complete_plan(planned: StudyPlan, jobs: int | None = None) -> StudyDocument:
    """Run a planned study, or what is left of it, and write its report; returns results.json."""
    leaks = leakage.audit_plan(planned)
    leakage.refuse_leaks(planned, leaks)
    with study_lock(planned.folder):
        _write_or_check_settings(planned)
    searches = list_searches(planned)
    # Searches are shared: other processes that run the same study join them, then wait for the one that trains.
    with FitPool(planned, jobs or count_cores(), _count_fits_ahead(planned, searches)) as pool:
        for key in (k for k in searches if k not in read_searches(planned)):
            run_search(planned, pool, key)
        with study_lock(planned.folder, wait=bool(searches)):
            params_by_key = {key: find_parameters(planned, pool, key) for key in searches}
            _train_missing_fits(planned, pool, params_by_key)
            leaks += audit_record(planned)
            write_audit(planned, leaks, [*leakage.list_checks(planned), "fit", "search"])
            leakage.refuse_leaks(planned, leaks)
            doc = build_results(planned, leaks)
            report.write_report(planned.folder, doc)
    return doc


def _write_or_check_settings(planned: StudyPlan) -> None:
    """Write study.json, or check that its settings are those of the plan. Raises StudyError where they differ."""
    path, now = planned.folder / "study.json", planned.settings()
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))["settings"]
        if different := list_differences(before, now):
            remainder = f" and {len(different) - 3} more" if len(different) > 3 else ""
            raise StudyError(
                f"{planned.folder} was begun with other settings ({'; '.join(different[:3])}{remainder});"
                " give another --name, or remove that folder"
            )
        return
    study = planned.study.model_copy(update={"encoder": planned.place})
    record: StudyRecord = {
        "embedkit": __version__,
        "card": study.model_dump(mode="json", exclude={"search": {"storage"}}),
        "caches": {corpus: {"file": str(s.path), "digest": s.identity.digest} for corpus, s in planned.sources.items()},
        "settings": now,
    }
    files.write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _list_missing_fits(planned: StudyPlan) -> list[Fit]:
    if is_trained(planned):
        return []
    return [fit for fit in planned.list_fits() if not part_path(planned, fit).is_file()]


def _count_fits_ahead(planned: StudyPlan, searches: Sequence[ResultKey]) -> int:
    """About how many fits there will be."""
    return len(_list_missing_fits(planned)) + len(searches) * planned.study.search.trials * len(planned.folds)


def _train_missing_fits(
    planned: StudyPlan, pool: FitPool, params_by_key: Mapping[ResultKey, Mapping[str, object]]
) -> None:
    """Train every fit that is not there yet, then merge all. params_by_key: the parameters that searches found."""
    if is_trained(planned):
        return
    fits, todo = planned.list_fits(), _list_missing_fits(planned)
    with progress_bar(len(fits), "training", done=len(fits) - len(todo)) as bar:
        # Long fits come first, so that at the end no worker is left with a long one; but layer by layer, so that
        # features are read once.
        todo.sort(key=lambda fit: (planned.layers.index(fit.layer), -len(planned.training_rows(fit.fold, fit.arm))))
        tasks = ((fit, params_by_key.get((fit.arm, fit.layer, fit.head), {})) for fit in todo)
        for _ in pool.map(FoldTrainer.train, tasks):
            bar.update()
    merge_parts(planned, fits)
