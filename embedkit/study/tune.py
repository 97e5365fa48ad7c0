"""A study's searches, and the parameters that they found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from embedkit import files
from embedkit.progress import progress_bar
from embedkit.study.folder import _read_list
from embedkit.study.plan import StudyPlan, Triple, Unit
from embedkit.study.pool import Crew

if TYPE_CHECKING:
    from embedkit.study.search import Found


def _searches(planned: StudyPlan) -> list[Triple]:
    """What is to be searched, unless all is trained already."""
    trained = (planned.folder / "predictions.parquet").is_file()
    wanted = planned.study.search.trials and not trained
    return [triple for triple in planned.triples() if wanted and planned.heads[triple[2]].search]


def _search(planned: StudyPlan, crew: Crew, triple: Triple) -> Found:
    """Search one (arm, layer, head), or what is left of it; its trials lie in the storage."""
    from embedkit.study.search import search_parameters

    def scores(params: dict[str, Any]) -> Generator[float, None, None]:
        return crew.map("judge", ((Unit(*triple, 0, fold), params) for fold in range(len(planned.folds))))

    space, settings = planned.heads[triple[2]].search, planned.study.search
    storage = settings.storage or f"sqlite:///{planned.folder / 'search.db'}"
    with progress_bar(settings.trials, f"search {triple[2]}") as bar:
        name = f"{planned.study.name}/{'/'.join(map(str, triple))}/{_fingerprint(planned)}"
        return search_parameters(
            name, space, scores, settings, storage, on_progress=lambda done: bar.update(done - bar.n)
        )


def _found(planned: StudyPlan, crew: Crew, triple: Triple) -> dict[str, Any]:
    """The parameters of one (arm, layer, head): from search.json, or put there."""
    kept, (arm, layer, head) = _kept(planned), triple
    if triple in kept:
        return dict(kept[triple]["params"])
    found = _search(planned, crew, triple)  # all is done: this only reads the storage
    entry = {"arm": arm, "layer": layer, "head": head, "params": found.params, "validation_ua": found.value}
    entry |= {"trials": found.trials, "pruned": found.pruned, "failed": found.failed}
    entry["saw"] = crew.bench.searched(triple)
    text = json.dumps([*kept.values(), entry], indent=2, ensure_ascii=False) + "\n"
    files.write_text(planned.folder / "search.json", text)
    return found.params


def _kept(planned: StudyPlan) -> dict[Triple, dict[str, Any]]:
    """search.json, by (arm, layer, head)."""
    return {(e["arm"], e["layer"], e["head"]): e for e in _read_list(planned.folder / "search.json")}


def _fingerprint(planned: StudyPlan) -> str:
    """So that a storage that outlives the study's folder never mixes in trials of other settings or other rows."""
    return hashlib.sha256(json.dumps(planned.settings(), sort_keys=True).encode()).hexdigest()[:12]
