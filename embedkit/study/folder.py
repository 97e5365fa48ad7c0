"""A study's folder: where its files lie, and how they are read and written.

Each fit (arm, layer, head, seed, fold) is written when it ends, as a file in parts/; when all are there they are merged
into predictions.parquet and units.json. So a process that is killed loses only the fits that were running.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from embedkit import files
from embedkit.errors import StudyError
from embedkit.report.document import SearchEntry
from embedkit.study.document import FitFacts, FitRecord
from embedkit.study.plan import SAFE_CHARACTERS, Fit, StudyPlan

if TYPE_CHECKING:
    import pandas as pd

Column = Sequence[str] | Sequence[int] | npt.NDArray[np.str_] | npt.NDArray[np.float64]  # [row]


def head_folder(folder: Path, fit: Fit, fold: str) -> Path:
    """The folder of the head of a fold (by name): heads/<arm>/layer-<N>/<head>/fold-<fold>/."""
    return folder / "heads" / fit.folder() / f"fold-{quote(fold, safe=SAFE_CHARACTERS)}"


def part_path(planned: StudyPlan, fit: Fit) -> Path:
    """The file of a fit's predictions, until all are merged."""
    return planned.folder / "parts" / fit.folder() / f"seed-{fit.seed}-fold-{fit.fold + 1}.parquet"


def write_part(path: Path, columns: Mapping[str, Column], facts: FitFacts) -> None:
    """Write a fit's rows of predictions.parquet, by column, with its facts in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with files.replacing(path) as draft:
        pq.write_table(table.replace_schema_metadata({"facts": json.dumps(facts)}), draft)


@contextmanager
def study_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a study's folder; it is also released when the process ends, however that happens.

    Where another process holds it: wait for that process, or raise StudyError.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=-1 if wait else 0):
            yield
    except Timeout:
        raise StudyError(f"{folder}: another process is working on this study; wait, or give another --name") from None


def list_differences(before: object, now: object, key: str = "") -> list[str]:
    """Where two sets of settings (JSON) differ, each as "key: value there, value here".

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


def _shorten_value(value: object) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_fit_records(folder: Path) -> list[FitRecord]:
    """units.json of a study's folder, [] where there is none."""
    records: list[FitRecord] = json.loads(_read_or_empty(folder / "units.json"))
    return records


def read_search_entries(folder: Path) -> list[SearchEntry]:
    """search.json of a study's folder, [] where there is none."""
    entries: list[SearchEntry] = json.loads(_read_or_empty(folder / "search.json"))
    return entries


def _read_or_empty(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else "[]"


def is_trained(planned: StudyPlan) -> bool:
    """Whether every fit of the study has been trained and merged."""
    return (planned.folder / "predictions.parquet").is_file()


def merge_parts(planned: StudyPlan, fits: Sequence[Fit]) -> None:
    """Merge the parts of all fits into units.json and predictions.parquet, and remove them.

    predictions.parquet comes last: it says that every fit was trained. A study without heads has no fits and no files.
    """
    if not fits:
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(part_path(planned, fit)) for fit in fits]
    records = [
        _build_record(planned, fit, json.loads(table.schema.metadata[b"facts"]))
        for fit, table in zip(fits, tables, strict=True)
    ]
    files.write_text(planned.folder / "units.json", json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    predictions = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    with files.replacing(planned.folder / "predictions.parquet") as draft:
        pq.write_table(predictions, draft)
    shutil.rmtree(planned.folder / "parts")


def _build_record(planned: StudyPlan, fit: Fit, facts: FitFacts) -> FitRecord:
    fold = planned.folds[fit.fold].name
    return {"arm": fit.arm, "layer": fit.layer, "head": fit.head, "seed": fit.seed, "fold": fold, **facts}


def read_predictions(planned: StudyPlan) -> pd.DataFrame:
    """predictions.parquet of a finished study: one row per fit and utterance of its validation and test rows.

    Columns: utterance, corpus, speaker, session, arm, layer, head, seed, fold, split ("validate" or "test"), label, and
    the probabilities p_anger, p_happiness, p_neutral, p_sadness.
    """
    import pandas as pd

    return pd.read_parquet(planned.folder / "predictions.parquet")
