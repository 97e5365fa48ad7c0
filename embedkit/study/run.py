"""Doing a study, or what is left of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from embedkit import __version__, files, report
from embedkit.errors import StudyError
from embedkit.progress import progress_bar
from embedkit.study import leakage
from embedkit.study.audit import audit_record, write_audit
from embedkit.study.folder import list_differences, merge_parts, part_path, study_lock
from embedkit.study.plan import Fit, ResultKey, StudyPlan
from embedkit.study.planning import plan_study
from embedkit.study.pool import FitPool
from embedkit.study.request import resolve_study
from embedkit.study.results import build_results
from embedkit.study.tune import find_parameters, list_searches, read_searches, run_search
from embedkit.threads import count_cores
from embedkit.workspace import Workspace


def run_single_study(
    workspace: Workspace,
    card: str | None = None,
    flags: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
    partial: bool = False,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Do a study, or what is left of it; see `ask` for card, flags and settings.

    Returns {study, results: [{arm, head, layer, encoder, wa, ua, macro_f1, f1}], table, ...}, the same as
    results.json. Raises StudyError, CardError or CacheError before anything trains.
    """
    return run_plan(
        plan_study(workspace, *resolve_study(workspace, card, flags, settings, name), partial=partial), jobs
    )


def run_plan(planned: StudyPlan, jobs: int | None = None) -> dict[str, Any]:
    """Do what is planned; see `run`."""
    leaks = leakage.audit_plan(planned)
    leakage.refuse_leaks(planned, leaks)
    with study_lock(planned.folder):
        _write_or_check_settings(planned)
    searches = list_searches(planned)
    # A search can be shared: other processes that run the same study join in, then wait for the one that trains.
    with FitPool(planned, jobs or count_cores(), _count_fits_ahead(planned, searches)) as pool:
        for key in (t for t in searches if t not in read_searches(planned)):
            run_search(planned, pool, key)
        with study_lock(planned.folder, wait=bool(searches)):
            params_by_key = {triple: find_parameters(planned, pool, triple) for triple in searches}
            _train_missing_fits(planned, pool, params_by_key)
            leaks += audit_record(planned)
            write_audit(planned, leaks, [*leakage.list_checks(planned), "fit", "search"])
            leakage.refuse_leaks(planned, leaks)
            doc = build_results(planned, leaks)
            report.write_report(planned.folder, doc)
    return {**doc, "table": report.format_summary(doc)}


def _write_or_check_settings(planned: StudyPlan) -> None:
    """Write the settings in effect, or find that they are those that the study was begun with."""
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
    data = {
        "embedkit": __version__,
        "card": study.model_dump(mode="json", exclude={"search": {"storage"}}),
        "caches": {corpus: {"file": str(s.path), "digest": s.identity.digest} for corpus, s in planned.sources.items()},
        "settings": now,
    }
    files.write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def _list_missing_fits(planned: StudyPlan) -> list[Fit]:
    trained = (planned.folder / "predictions.parquet").is_file()
    return [unit for unit in planned.list_fits() if not trained and not part_path(planned, unit).is_file()]


def _count_fits_ahead(planned: StudyPlan, searches: Sequence[ResultKey]) -> int:
    """About how many fits there will be."""
    return len(_list_missing_fits(planned)) + len(searches) * planned.study.search.trials * len(planned.folds)


def _train_missing_fits(
    planned: StudyPlan, pool: FitPool, params_by_key: Mapping[ResultKey, Mapping[str, Any]]
) -> None:
    """Every unit that is not there yet; at the end all parts are one record. found: what searches have found."""
    fits, todo = planned.list_fits(), _list_missing_fits(planned)
    if (planned.folder / "predictions.parquet").is_file():
        return
    with progress_bar(len(fits), "training", done=len(fits) - len(todo)) as bar:
        # What takes longest comes first, so that none is left alone with a long one at the end; but layer by layer, so
        # that features are read once.
        todo.sort(key=lambda unit: (planned.layers.index(unit.layer), -len(planned.training_rows(unit.fold, unit.arm))))
        for _ in pool.map("train", ((unit, params_by_key.get(unit[:3], {})) for unit in todo)):
            bar.update()
    merge_parts(planned, fits)
