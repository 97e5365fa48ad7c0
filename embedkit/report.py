"""From predictions to figures: the results that JSON shows, tables in text, and a report in Markdown.

Everything is derived from a study's record (predictions.parquet) and from what the study says of itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedkit import metrics
from embedkit.cards import CLASSES

if TYPE_CHECKING:
    import pandas as pd

PROBABILITIES = [f"p_{name}" for name in CLASSES]
SCORES = ("wa", "ua", "macro_f1")


def results(predictions: pd.DataFrame, encoder: str) -> list[dict[str, Any]]:
    """One result for each (arm, layer, head) of the record, in its order.

    Each is {arm, head, layer, encoder, wa, ua, macro_f1, f1: {class: ...}, validation_ua}; each metric is {mean, sd,
    folds, pooled}: `folds` the folds' values (each the mean over seeds), their mean and standard deviation (ddof 1;
    None for one fold), and the value over all predictions taken together. None: a class that a fold does not have.
    """
    groups = predictions.groupby(["arm", "layer", "head"], sort=False, observed=True)
    found = []
    for _, rows in groups:
        first = rows.iloc[0]
        names = {"arm": first["arm"], "head": first["head"], "layer": int(first["layer"]), "encoder": encoder}
        found.append({**names, **_result(rows)})
    return found


def said(predictions: pd.DataFrame) -> npt.NDArray[np.str_]:
    """The class with the highest probability of each row."""
    best: npt.NDArray[np.str_] = np.array(CLASSES)[predictions[PROBABILITIES].to_numpy().argmax(1)]
    return best


def _result(rows: pd.DataFrame) -> dict[str, Any]:
    """The metrics of one (arm, layer, head)."""
    test, validate = rows[rows["split"] == "test"], rows[rows["split"] == "validate"]
    by_fold, pooled = _by_fold(test), _scores(test)
    result: dict[str, Any] = {name: _metric([_means(f)[name] for f in by_fold], pooled[name]) for name in SCORES}
    result["f1"] = {
        name: _metric([_means([s["f1"] for s in f]).get(name) for f in by_fold], pooled["f1"].get(name))
        for name in CLASSES
    }
    validation = [_means(f)["ua"] for f in _by_fold(validate)]
    return {**result, "validation_ua": _metric(validation, _scores(validate)["ua"])}


def _by_fold(rows: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """[fold][seed] scores."""
    folds = rows.groupby("fold", sort=False, observed=True)
    return [[_scores(s) for _, s in f.groupby("seed", sort=False)] for _, f in folds]


def _scores(rows: pd.DataFrame) -> dict[str, Any]:
    return metrics.scores(rows["label"].to_numpy(str), said(rows))


def _means(seeds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean of every number over the seeds that have it."""
    names = {name for s in seeds for name, value in s.items() if isinstance(value, float)}
    return {name: float(np.mean([s[name] for s in seeds if name in s])) for name in names}


def _metric(folds: Sequence[float | None], pooled: float | None) -> dict[str, Any]:
    there = [value for value in folds if value is not None]
    return {
        "mean": float(np.mean(there)) if there else None,
        "sd": float(np.std(there, ddof=1)) if len(there) > 1 else None,
        "folds": list(folds),
        "pooled": pooled,
    }


# ---------------------------------------------------------------- showing


def table(doc: dict[str, Any]) -> str:
    """A study's document as text: what it is, the scores by arm, layer and head, F1 by class, and what to know."""
    legend = "mean ± standard deviation over folds (all test predictions together)"
    lines = [*_head(doc), "", _grid(_score_rows(doc)), "", _grid(_class_rows(doc)), "", legend]
    return "\n".join([*lines, *(f"note: {note}" for note in doc["notes"])])


def markdown(doc: dict[str, Any]) -> str:
    """The same as a page: report.md."""
    first, *rest = _head(doc)
    parts = [f"# {first}", *rest, "## Scores", _grid(_score_rows(doc), "|"), _LEGEND, "## F1 by class"]
    parts += [_grid(_class_rows(doc), "|"), "## Rows", _grid(_corpus_rows(doc), "|")]
    if doc["search"]:
        parts += ["## Search", "Each on the mean validation UA over the folds; no test row was seen."]
        parts += [_grid(_search_rows(doc), "|")]
    if doc["notes"]:
        parts += ["## To know", "\n".join(f"- {note}" for note in doc["notes"])]
    return "\n\n".join(parts) + "\n"


def write(folder: Path, doc: dict[str, Any]) -> None:
    """results.json and report.md in the study's folder; neither is ever half there."""
    for name, text in (
        ("report.md", markdown(doc)),
        ("results.json", json.dumps(doc, indent=2, ensure_ascii=False, allow_nan=False) + "\n"),
    ):
        replace(folder / name, text)


def replace(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it into place."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


_LEGEND = (
    "Mean ± standard deviation (ddof 1) over the folds' test parts; in brackets the value over all test predictions"
    " taken together. WA is accuracy, UA the mean of the classes' recalls. Validation UA is what a search or an early"
    " stop has seen; it is no result."
)


def _head(doc: dict[str, Any]) -> list[str]:
    """What a study is, in a few lines."""
    folds, rows = doc["folds"], doc["rows"][doc["corpus"]]
    others = sum(rows["left_out"].values())
    left_out = f" ({others} of other labels left out)" if others else ""
    tested = f", tested on all of {doc['test']}" if doc["test"] else ""
    weights = ["weights: random (the encoder is untrained: these figures show the path, not the method)"]
    return [
        doc["study"],
        f"{doc['corpus']}, {rows['used']} utterances{left_out}; folds {folds['kind']}: {len(folds['names'])}{tested};"
        f" seeds: {doc['seeds']}",
        f"recipe {doc['recipe']}; encoder {doc['encoder']}",
        *(weights if doc["weights"] == "random" else []),
    ]


def _score_rows(doc: dict[str, Any]) -> list[list[str]]:
    head = ["arm", "layer", "head", "WA", "UA", "macro F1", "validation UA"]
    names = (*SCORES, "validation_ua")
    return [head, *([*_names(r), *(_cell(r[name]) for name in names)] for r in doc["results"])]


def _class_rows(doc: dict[str, Any]) -> list[list[str]]:
    head = ["arm", "layer", "head", *(f"F1 {name}" for name in CLASSES)]
    return [head, *([*_names(r), *(_cell(r["f1"][name]) for name in CLASSES)] for r in doc["results"])]


def _corpus_rows(doc: dict[str, Any]) -> list[list[str]]:
    """How many rows of each corpus took part, by class, and why others did not."""
    head = ["corpus", "used", *CLASSES, "skipped", "missing", "other labels"]
    return [
        head,
        *(
            [
                corpus,
                str(r["used"]),
                *(str(r["classes"].get(name, 0)) for name in CLASSES),
                str(r["skipped"]),
                str(r["missing"]),
                ", ".join(f"{label} {count}" for label, count in r["left_out"].items()) or "none",
            ]
            for corpus, r in doc["rows"].items()
        ),
    ]


def _search_rows(doc: dict[str, Any]) -> list[list[str]]:
    head = ["arm", "layer", "head", "trials", "pruned", "validation UA", "parameters"]
    return [
        head,
        *(
            [*_names(s), str(s["trials"]), str(s["pruned"]), f"{s['validation_ua']:.3f}", _params(s["params"])]
            for s in doc["search"]
        ),
    ]


def _params(params: dict[str, Any]) -> str:
    return ", ".join(f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in params.items())


def _names(result: dict[str, Any]) -> list[str]:
    return [result["arm"], str(result["layer"]), result["head"]]


def _cell(metric: dict[str, Any]) -> str:
    """ "0.607 ± 0.021 (0.609)": mean, standard deviation over folds, pooled."""
    if metric["mean"] is None:
        return "-"
    sd = f" ± {metric['sd']:.3f}" if metric["sd"] is not None else ""
    return f"{metric['mean']:.3f}{sd} ({metric['pooled']:.3f})"


def _grid(rows: list[list[str]], bar: str = "") -> str:
    """Rows under their header; with bar = "|" as a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    if not bar:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
