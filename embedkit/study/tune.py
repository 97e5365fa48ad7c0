"""A study's searches, and the parameters that they found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from embedkit import files
from embedkit.progress import progress_bar
from embedkit.study.folder import read_list
from embedkit.study.plan import Fit, ResultKey, StudyPlan
from embedkit.study.pool import FitPool

if TYPE_CHECKING:
    from embedkit.study.search import SearchResult


def list_searches(planned: StudyPlan) -> list[ResultKey]:
    """What is to be searched, unless all is trained already."""
    trained = (planned.folder / "predictions.parquet").is_file()
    wanted = planned.study.search.trials and not trained
    return [triple for triple in planned.list_result_keys() if wanted and planned.heads[triple[2]].search]


def run_search(planned: StudyPlan, pool: FitPool, key: ResultKey) -> SearchResult:
    """Search one (arm, layer, head), or what is left of it; its trials lie in the storage."""
    from embedkit.study.search import search_parameters

    def score_folds(params: dict[str, Any]) -> Generator[float, None, None]:
        return pool.map("validation_ua", ((Fit(*key, 0, fold), params) for fold in range(len(planned.folds))))

    space, settings = planned.heads[key[2]].search, planned.study.search
    storage = settings.storage or f"sqlite:///{planned.folder / 'search.db'}"
    with progress_bar(settings.trials, f"search {key[2]}") as bar:
        name = f"{planned.study.name}/{'/'.join(map(str, key))}/{_hash_settings(planned)}"
        return search_parameters(
            name, space, score_folds, settings, storage, on_progress=lambda done: bar.update(done - bar.n)
        )


def find_parameters(planned: StudyPlan, pool: FitPool, key: ResultKey) -> dict[str, Any]:
    """The parameters of one (arm, layer, head): from search.json, or put there."""
    searches, (arm, layer, head) = read_searches(planned), key
    if key in searches:
        return dict(searches[key]["params"])
    result = run_search(planned, pool, key)  # all is done: this only reads the storage
    entry = {"arm": arm, "layer": layer, "head": head, "params": result.params, "validation_ua": result.value}
    entry |= {"trials": result.trials, "pruned": result.pruned, "failed": result.failed}
    entry["saw"] = pool.trainer.digest_search_rows(key)
    text = json.dumps([*searches.values(), entry], indent=2, ensure_ascii=False) + "\n"
    files.write_text(planned.folder / "search.json", text)
    return result.params


def read_searches(planned: StudyPlan) -> dict[ResultKey, dict[str, Any]]:
    """search.json, by (arm, layer, head)."""
    return {(e["arm"], e["layer"], e["head"]): e for e in read_list(planned.folder / "search.json")}


def _hash_settings(planned: StudyPlan) -> str:
    """So that a storage that outlives the study's folder never mixes in trials of other settings or other rows."""
    return hashlib.sha256(json.dumps(planned.settings(), sort_keys=True).encode()).hexdigest()[:12]
