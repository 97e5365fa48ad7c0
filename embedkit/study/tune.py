"""The searches of a study, and the parameters that they found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

from embedkit import files
from embedkit.progress import progress_bar
from embedkit.report.document import SearchEntry
from embedkit.study.fit import FoldTrainer
from embedkit.study.folder import is_trained, read_search_entries
from embedkit.study.plan import Fit, ResultKey, StudyPlan
from embedkit.study.pool import FitPool

if TYPE_CHECKING:
    from embedkit.study.search import SearchResult


def list_searches(planned: StudyPlan) -> list[ResultKey]:
    """Every (arm, layer, head) to search: [] where the study searches nothing, or is trained already."""
    if not planned.study.search.trials or is_trained(planned):
        return []
    return [(arm, layer, head) for arm, layer, head in planned.list_result_keys() if planned.heads[head].search]


def run_search(planned: StudyPlan, pool: FitPool, key: ResultKey) -> SearchResult:
    """Search one (arm, layer, head) until it has its number of trials; those in the storage already count."""
    from embedkit.study.search import search_parameters

    def score_folds(params: Mapping[str, object]) -> Generator[float, None, None]:
        tasks = ((Fit(*key, 0, fold), params) for fold in range(len(planned.folds)))
        return pool.map(FoldTrainer.validation_ua, tasks)

    space, settings = planned.heads[key[2]].search, planned.study.search
    storage = settings.storage or f"sqlite:///{planned.folder / 'search.db'}"
    with progress_bar(settings.trials, f"search {key[2]}") as bar:
        name = f"{planned.study.name}/{'/'.join(map(str, key))}/{_hash_settings(planned)}"
        return search_parameters(
            name, space, score_folds, settings, storage, on_progress=lambda done: bar.update(done - bar.n)
        )


def find_parameters(planned: StudyPlan, pool: FitPool, key: ResultKey) -> dict[str, object]:
    """The parameters that the search of one (arm, layer, head) found; they are in search.json from then on."""
    searches, (arm, layer, head) = read_searches(planned), key
    if key in searches:
        return dict(searches[key]["params"])
    result = run_search(planned, pool, key)  # all trials are finished: this only reads the storage
    entry: SearchEntry = {
        "arm": arm,
        "layer": layer,
        "head": head,
        "params": result.params,
        "validation_ua": result.value,
        "trials": result.trials,
        "pruned": result.pruned,
        "failed": result.failed,
        "saw": pool.trainer.digest_search_rows(key),
    }
    text = json.dumps([*searches.values(), entry], indent=2, ensure_ascii=False) + "\n"
    files.write_text(planned.folder / "search.json", text)
    return result.params


def read_searches(planned: StudyPlan) -> dict[ResultKey, SearchEntry]:
    """The entries of search.json by (arm, layer, head)."""
    return {(e["arm"], e["layer"], e["head"]): e for e in read_search_entries(planned.folder)}


def _hash_settings(planned: StudyPlan) -> str:
    """A hash of a study's settings: a storage that outlives the study's folder must not mix in trials of others."""
    return hashlib.sha256(json.dumps(planned.settings(), sort_keys=True).encode()).hexdigest()[:12]
