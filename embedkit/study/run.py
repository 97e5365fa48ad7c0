"""Doing a study, or what is left of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from embedkit import __version__, files, report
from embedkit.errors import StudyError
from embedkit.progress import progress_bar
from embedkit.study import leakage
from embedkit.study.audit import _audit_record, _write_audit
from embedkit.study.folder import _gather, differences, part_of, study_lock
from embedkit.study.plan import StudyPlan, Triple, Unit
from embedkit.study.planning import plan_study
from embedkit.study.pool import Crew
from embedkit.study.request import resolve_study
from embedkit.study.results import _document
from embedkit.study.tune import _found, _kept, _search, _searches
from embedkit.threads import cores
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
    leaks = leakage.audit(planned)
    leakage.refuse(planned, leaks)
    with study_lock(planned.folder):
        _begin(planned)
    searches = _searches(planned)
    # A search can be shared: other processes that run the same study join in, then wait for the one that trains.
    with Crew(planned, jobs or cores(), _ahead(planned, searches)) as crew:
        for triple in (t for t in searches if t not in _kept(planned)):
            _search(planned, crew, triple)
        with study_lock(planned.folder, wait=bool(searches)):
            found = {triple: _found(planned, crew, triple) for triple in searches}
            _train(planned, crew, found)
            leaks += _audit_record(planned)
            _write_audit(planned, leaks, [*leakage.checks(planned), "fit", "search"])
            leakage.refuse(planned, leaks)
            doc = _document(planned, leaks)
            report.write(planned.folder, doc)
    return {**doc, "table": report.table(doc)}


def _begin(planned: StudyPlan) -> None:
    """Write the settings in effect, or find that they are those that the study was begun with."""
    path, now = planned.folder / "study.json", planned.settings()
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))["settings"]
        if different := differences(before, now):
            more = f" and {len(different) - 3} more" if len(different) > 3 else ""
            raise StudyError(
                f"{planned.folder} was begun with other settings ({'; '.join(different[:3])}{more});"
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


def _todo(planned: StudyPlan) -> list[Unit]:
    trained = (planned.folder / "predictions.parquet").is_file()
    return [unit for unit in planned.units() if not trained and not part_of(planned, unit).is_file()]


def _ahead(planned: StudyPlan, searches: Sequence[Triple]) -> int:
    """About how many fits there will be."""
    return len(_todo(planned)) + len(searches) * planned.study.search.trials * len(planned.folds)


def _train(planned: StudyPlan, crew: Crew, found: Mapping[Triple, Mapping[str, Any]]) -> None:
    """Every unit that is not there yet; at the end all parts are one record. found: what searches have found."""
    units, todo = planned.units(), _todo(planned)
    if (planned.folder / "predictions.parquet").is_file():
        return
    with progress_bar(len(units), "training", done=len(units) - len(todo)) as bar:
        # What takes longest comes first, so that none is left alone with a long one at the end; but layer by layer, so
        # that features are read once.
        todo.sort(key=lambda unit: (planned.layers.index(unit.layer), -len(planned.training(unit.fold, unit.arm))))
        for _ in crew.map("train", ((unit, found.get(unit[:3], {})) for unit in todo)):
            bar.update()
    _gather(planned, units)
