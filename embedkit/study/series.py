"""Studies of several parts: one card, of which each part changes something (encoder, folds, normalisation, pooling).

Each part is a study of its own, `studies/<name>.<part>/`; all are planned before any of them trains. `studies/<name>/`
has their results together: series.json, report.md, report.html, figures/. Results of two parts are compared where they
have the same arm, head and place among the layers, and were tested on the same utterances.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from embedkit import report
from embedkit.cards import Study
from embedkit.encoders import resolve
from embedkit.errors import EmbedkitError
from embedkit.report import compare
from embedkit.report.document import Comparison, Result, SearchEntry, StudyDocument, read_validation_ua
from embedkit.report.scores import build_speaker_tables
from embedkit.study.audit import audit_single_study
from embedkit.study.document import AuditDocument, SeriesAudit, StudyOutcome
from embedkit.study.folder import read_predictions, study_lock
from embedkit.study.plan import StudyPlan
from embedkit.study.planning import plan_study
from embedkit.study.request import StudyFlags, list_parts, resolve_study
from embedkit.study.run import complete_plan, run_single_study
from embedkit.workspace import Workspace

KINDS = ("part", "arm", "layer", "head")


def run_study(
    workspace: Workspace | Path | str,
    card: str | None = None,
    flags: StudyFlags | None = None,
    settings: Mapping[str, object] | None = None,
    name: str | None = None,
    partial: bool = False,
    jobs: int | None = None,
) -> StudyOutcome:
    """Run a study, with parts or without, or what is left of it; in a study with parts each result has its `part`.

    workspace: itself, or its folder.
    card: a name in studies/, a path, or None: the defaults. flags: as on the command line. settings: by dotted key
    ({"folds.k": 4}). name: of the study's folder. partial: take incomplete caches as they are. jobs: processes
    (default: the number of cores). See `resolve_study`.

    Raises StudyError, CardError or CacheError before anything trains.
    """
    workspace = Workspace.at(workspace)
    parts = list_parts(workspace, card)
    if not parts:
        return run_single_study(workspace, card, flags, settings, name, partial, jobs)

    def plan_parts(more: Mapping[str, object]) -> dict[str, StudyPlan]:
        asked = {p: resolve_study(workspace, f"{card}.{p}", flags, {**(settings or {}), **more}, name) for p in parts}
        return {part: plan_study(workspace, *each, partial=partial) for part, each in asked.items()}

    part_plans = plan_parts({})
    if any(planned.study.equal for planned in part_plans.values()):
        fewest = min(len(fold.train) for planned in part_plans.values() for fold in planned.folds)
        part_plans = plan_parts({"folds.rows": fewest})
    docs = {part: complete_plan(planned, jobs) for part, planned in part_plans.items()}
    folder = workspace.study(name or Path(str(card)).name.removesuffix(".toml"))
    doc: StudyDocument = json.loads(json.dumps(_build_series_document(folder.name, part_plans, docs)))
    with study_lock(folder, wait=True):
        report.write_report(folder, doc, "series.json")
    return {**doc, "table": report.format_summary(doc)}


def audit_series(workspace: Workspace, name: str) -> AuditDocument | SeriesAudit:
    """Check a study by its name, or a card, for leakage, part by part where it has parts; see `audit_single_study`."""
    file = workspace.study(name) / "series.json" if not name.endswith(".toml") else None
    if file and file.is_file():
        names = {p: facts["study"] for p, facts in json.loads(file.read_text(encoding="utf-8"))["parts"].items()}
    elif file is None or name in workspace.list_card_names("studies"):  # a card, by its path or by its name
        names = {part: f"{name}.{part}" for part in list_parts(workspace, name)}
    else:
        names = {}
    if not names:
        return audit_single_study(workspace, name)
    docs = {part: audit_single_study(workspace, each) for part, each in names.items()}
    return {"study": name, "passed": all(doc["passed"] for doc in docs.values()), "parts": docs}


def _build_series_document(
    name: str, part_plans: Mapping[str, StudyPlan], docs: Mapping[str, StudyDocument]
) -> StudyDocument:
    """series.json: as the first part's results.json, with the results of every part and the settings of each."""
    first = next(iter(docs.values()))
    results: list[Result] = [{"part": part, **result} for part, doc in docs.items() for result in doc["results"]]
    searches: list[SearchEntry] = [{"part": part, **entry} for part, doc in docs.items() for entry in doc["search"]]
    shared = [note for note in first["notes"] if all(note in doc["notes"] for doc in docs.values())]
    part_notes = [f"{part}: {note}" for part, doc in docs.items() for note in doc["notes"] if note not in shared]
    metrics = next(iter(part_plans.values())).study.compare
    return {
        **first,
        "study": name,
        "results": results,
        "parts": {part: _describe_part(planned, docs[part]) for part, planned in part_plans.items()},
        "rows": {corpus: rows for doc in docs.values() for corpus, rows in doc["rows"].items()},
        "class_weights": {},
        "comparisons": _compare_parts(part_plans, docs, metrics),
        "search": searches,
        "encoder_bytes": dict(_count_encoder_bytes(part_plans.values())),
        "notes": [*shared, *part_notes],
        "paper": None,
    }


def _describe_part(planned: StudyPlan, doc: StudyDocument) -> dict[str, str]:
    """The settings of a part, as a row of a table."""
    card: Study = planned.study
    sizes = [len(fold.train) for fold in planned.folds]
    return {
        "study": card.name,
        "encoder": doc["encoder"],
        "recipe": card.recipe,
        "features": " + ".join(card.stats),
        "normalise": card.normalise,
        "align": card.align,
        "folds": f"{card.folds.kind}: {len(planned.folds)}",
        "validation": card.folds.validation,
        "training rows": str(min(sizes)) if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}",
    }


def _compare_parts(
    part_plans: Mapping[str, StudyPlan], docs: Mapping[str, StudyDocument], metrics: Sequence[str]
) -> list[Comparison]:
    """Parts compared with each other; for the comparisons within a part see the part's report."""
    tables: dict[compare.Names, compare.Array] = {}
    validation_ua: dict[compare.Names, float] = {}
    shown: dict[compare.Names, list[str]] = {}
    for part, planned in part_plans.items():
        part_tables = build_speaker_tables(read_predictions(planned))
        place = {str(layer): str(i) for i, layer in enumerate(planned.layers)}
        for result in docs[part]["results"]:
            arm, layer, head = result["arm"], str(result["layer"]), result["head"]
            key = (part, arm, place[layer], head)  # encoders differ in depth, so layers are matched by place
            tables[key], validation_ua[key] = part_tables[arm, layer, head], read_validation_ua(result)
            shown[key] = [part, arm, layer, head]
    compared = compare.compare_pairs(tables, validation_ua, metrics, KINDS, only="part")
    return [{**each, "a": shown[tuple(each["a"])], "b": shown[tuple(each["b"])]} for each in compared]


def _count_encoder_bytes(part_plans: Iterable[StudyPlan]) -> Iterator[tuple[str, int]]:
    """Bytes of each encoder's weights in float32, for the encoders whose weights are on this machine."""
    places = {planned.identity.encoder: planned.place for planned in part_plans}
    if len(places) < 2:
        return
    for encoder, place in places.items():
        try:
            yield encoder, 4 * resolve(place).parameters
        except EmbedkitError:
            continue
