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

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from embedkit import files
from embedkit.errors import StudyError
from embedkit.study.plan import SAFE_CHARACTERS, Fit, StudyPlan

if TYPE_CHECKING:
    import pandas as pd


def head_folder(folder: Path, fit: Fit, fold: str) -> Path:
    """Where the head of a fold lies: heads/<arm>/layer-<N>/<head>/fold-<fold>/."""
    return folder / "heads" / fit.folder() / f"fold-{quote(fold, safe=SAFE_CHARACTERS)}"


def part_path(planned: StudyPlan, fit: Fit) -> Path:
    return planned.folder / "parts" / fit.folder() / f"seed-{fit.seed}-fold-{fit.fold + 1}.parquet"


def write_part(path: Path, columns: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with files.replacing(path) as draft:
        pq.write_table(table.replace_schema_metadata({"facts": json.dumps(facts)}), draft)


@contextmanager
def study_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """One process at a time in a study's folder; the lock falls with the process. Without waiting: StudyError."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=-1 if wait else 0):
            yield
    except Timeout:
        raise StudyError(f"{folder}: another process is working on this study; wait, or give another --name") from None


def list_differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Where two sets of settings differ.

    >>> list_differences({"folds": {"k": 8}, "seeds": 1}, {"folds": {"k": 5}, "seeds": 1})
    ['folds.k: 8 there, 5 here']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return [
            line
            for name in dict.fromkeys((*before, *now))
            for line in list_differences(before.get(name), now.get(name), f"{key}.{name}" if key else str(name))
        ]
    return [] if before == now else [f"{key}: {_shorten_value(before)} there, {_shorten_value(now)} here"]


def _shorten_value(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_list(path: Path) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return data


def merge_parts(planned: StudyPlan, fits: Sequence[Fit]) -> None:
    """All parts as units.json and predictions.parquet, which says that the study is done; then the parts can go.
    Without units (a study that only counts) there is nothing to gather."""
    if not fits:
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(part_path(planned, unit)) for unit in fits]
    facts = [
        {**dict(zip(unit._fields, unit, strict=True)), "fold": planned.folds[unit.fold].name}
        | json.loads(table.schema.metadata[b"facts"])
        for unit, table in zip(fits, tables, strict=True)
    ]
    files.write_text(planned.folder / "units.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    predictions = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    with files.replacing(planned.folder / "predictions.parquet") as draft:
        pq.write_table(predictions, draft)
    shutil.rmtree(planned.folder / "parts")


def read_predictions(planned: StudyPlan) -> pd.DataFrame:
    """A finished study's predictions; see the head of this module."""
    import pandas as pd

    return pd.read_parquet(planned.folder / "predictions.parquet")
