"""Studies of several parts: one card, of which each part changes something (encoder, folds, normalisation, pooling).

Each part is a study of its own, `studies/<name>.<part>/`, planned before any of them trains. Their results stand beside
each other in `studies/<name>/`: series.json, report.md, report.html, figures/. Results of two parts are compared where
they have the same arm, head and place among the layers, and were tested on the same utterances.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from embedkit import plan as plans
from embedkit import report, study
from embedkit.cards import Study
from embedkit.encoders import resolve
from embedkit.errors import EmbedkitError
from embedkit.plan import Plan
from embedkit.workspace import Workspace

Names = tuple[str, ...]
KINDS = ("part", "arm", "layer", "head")


def run(
    workspace: Workspace,
    card: str | None = None,
    flags: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
    partial: bool = False,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Do a study, whether it has parts or not; see `study.run`, whose results these are, each with its `part`.

    Raises StudyError, CardError or CacheError before anything trains.
    """
    parts = plans.parts(workspace, card)
    if not parts:
        return study.run(workspace, card, flags, settings, name, partial, jobs)

    def planned(more: Mapping[str, Any]) -> dict[str, Plan]:
        asked = {p: plans.ask(workspace, f"{card}.{p}", flags, {**(settings or {}), **more}, name) for p in parts}
        return {part: plans.plan(workspace, *each, partial=partial) for part, each in asked.items()}

    whole = planned({})
    if any(each.study.equal for each in whole.values()):
        whole = planned({"folds.rows": min(len(fold.train) for each in whole.values() for fold in each.folds)})
    docs = {}
    for part, each in whole.items():
        docs[part] = study.carry_out(each, jobs)
        docs[part].pop("table")
    folder = workspace.study(name or Path(str(card)).name.removesuffix(".toml"))
    doc = json.loads(json.dumps(_document(folder.name, whole, docs)))
    with study.alone(folder, wait=True):
        report.write(folder, doc, "series.json")
    return {**doc, "table": report.table(doc)}


def audited(workspace: Workspace, name: str) -> dict[str, Any]:
    """What leaks in a study, by its name, or in a card; see `study.audited`. Of parts: {study, passed, parts}."""
    file = workspace.study(name) / "series.json" if not name.endswith(".toml") else None
    if file and file.is_file():
        names = {p: facts["study"] for p, facts in json.loads(file.read_text(encoding="utf-8"))["parts"].items()}
    elif file is None or name in workspace.card_names("studies"):  # a card, by its path or its name
        names = {part: f"{name}.{part}" for part in plans.parts(workspace, name)}
    else:
        names = {}
    if not names:
        return study.audited(workspace, name)
    docs = {part: study.audited(workspace, each) for part, each in names.items()}
    return {"study": name, "passed": all(doc["passed"] for doc in docs.values()), "parts": docs}


def _document(name: str, whole: Mapping[str, Plan], docs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What series.json holds: the first part's account of rows, every part's results, and what sets parts apart."""
    first = next(iter(docs.values()))
    results = [{"part": part, **result} for part, doc in docs.items() for result in doc["results"]]
    shared = [note for note in first["notes"] if all(note in doc["notes"] for doc in docs.values())]
    own = [f"{part}: {note}" for part, doc in docs.items() for note in doc["notes"] if note not in shared]
    metrics = next(iter(whole.values())).study.compare
    return {
        **first,
        "study": name,
        "results": results,
        "parts": {part: _facts(planned, docs[part]) for part, planned in whole.items()},
        "rows": {corpus: rows for doc in docs.values() for corpus, rows in doc["rows"].items()},
        "class_weights": {},
        "comparisons": _comparisons(whole, docs, metrics),
        "search": [{"part": part, **entry} for part, doc in docs.items() for entry in doc["search"]],
        "encoder_bytes": dict(_sizes(whole.values())),
        "notes": [*shared, *own],
        "paper": None,
    }


def _facts(planned: Plan, doc: Mapping[str, Any]) -> dict[str, Any]:
    """What a part is, in a row of a table."""
    asked: Study = planned.study
    sizes = [len(fold.train) for fold in planned.folds]
    return {
        "study": asked.name,
        "encoder": doc["encoder"],
        "recipe": asked.recipe,
        "features": " + ".join(asked.stats),
        "normalise": asked.normalise,
        "align": asked.align,
        "folds": f"{asked.folds.kind}: {len(planned.folds)}",
        "validation": asked.folds.validation,
        "training rows": str(min(sizes)) if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}",
    }


def _comparisons(
    whole: Mapping[str, Plan], docs: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Parts against each other. Within a part nothing is compared here: that is in the part's own report."""
    tables: dict[Names, report.compare.Array] = {}
    merit: dict[Names, float] = {}
    shown: dict[Names, list[str]] = {}
    for part, planned in whole.items():
        of_part = report.tables(study.record(planned))
        place = {str(layer): str(i) for i, layer in enumerate(planned.layers)}
        for result in docs[part]["results"]:
            arm, layer, head = result["arm"], str(result["layer"]), result["head"]
            key = (part, arm, place[layer], head)  # encoders differ in depth: their layers are matched by place
            tables[key], merit[key] = of_part[arm, layer, head], result["validation_ua"]["mean"]
            shown[key] = [part, arm, layer, head]
    found = report.compare.comparisons(tables, merit, metrics, KINDS, only="part")
    return [{**each, "a": shown[tuple(each["a"])], "b": shown[tuple(each["b"])]} for each in found]


def _sizes(whole: Iterable[Plan]) -> Iterator[tuple[str, int]]:
    """Bytes of each encoder's weights in float32, of those whose weights lie on this machine."""
    places = {planned.identity.encoder: planned.place for planned in whole}
    if len(places) < 2:
        return
    for encoder, place in places.items():
        try:
            yield encoder, 4 * resolve(place).parameters
        except EmbedkitError:
            continue
