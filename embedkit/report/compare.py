"""Which of two is better, and can one tell: paired tests between results, and the paper's figures beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit import stats
from embedkit.classes import CLASSES

Array = npt.NDArray[np.float64]
Names = tuple[str, ...]

MOST = 30  # pairs that are all tested; of more, each against the best
WHOLE: dict[str, stats.Score] = {"wa": stats.wa, "ua": stats.ua, "macro_f1": stats.macro_f1}
BY_CLASS: dict[str, stats.Score] = {"f1": stats.f1s, "recall": stats.recalls, "precision": stats.precisions}
METRICS = (*WHOLE, *(f"{name}.{c}" for name in BY_CLASS for c in CLASSES))


def score_of(metric: str) -> stats.Score:
    """The score behind a name: "ua", "f1.anger"."""
    name, _, of_class = metric.partition(".")
    return stats.of_class(BY_CLASS[name], of_class) if of_class else WHOLE[name]


def value_of(result: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """A result's metric by that name."""
    name, _, of_class = metric.partition(".")
    value: dict[str, Any] = result[name][of_class] if of_class else result[name]
    return value


# ---------------------------------------------------------------- ours with ours


def comparisons(
    tables: Mapping[Names, Array],
    merit: Mapping[Names, float],
    metrics: Sequence[str],
    kinds: Sequence[str],
    only: str = "",
) -> list[dict[str, Any]]:
    """Paired permutation tests over speakers between results that differ in one thing only (an arm, a layer, a head).

    tables: [speaker, truth, said] of each result, by its names; kinds: what each of a name's places is; merit: the mean
    validation UA. Of more than 30 pairs, those with the best by validation are tested. All p of the table are adjusted
    together (Holm). Results on other test rows cannot be paired, and are left out. only: pairs that
    differ in this kind.
    """
    pairs = [(a, b) for a, b in combinations(tables, 2) if _kind(a, b, kinds) in ([only] if only else kinds)]
    pairs = _fewer([(a, b) for a, b in pairs if _paired(tables[a], tables[b])], merit)
    tests = [(m, a, b) for m in metrics for a, b in pairs if _defined(tables[a], tables[b], score_of(m))]
    found = [stats.permutation(tables[b], tables[a], score_of(m)) for m, a, b in tests]
    adjusted: Sequence[float] = stats.holm([test.p for test in found]).tolist() if found else []
    return [
        {
            "metric": metric,
            "kind": _kind(a, b, kinds),
            "a": list(a),
            "b": list(b),
            "difference": test.difference,
            "p": test.p,
            "adjusted": p,
            "smallest": test.smallest,
            "speakers": test.clusters,
            "exact": test.exact,
            "verdict": stats.wording(test, "the second", "the first", p),
        }
        for (metric, a, b), test, p in zip(tests, found, adjusted, strict=True)
    ]


def _kind(a: Names, b: Names, kinds: Sequence[str]) -> str:
    """The one thing in which two differ; "" where there are several."""
    found = [kind for kind, x, y in zip(kinds, a, b, strict=True) if x != y]
    return found[0] if len(found) == 1 else ""


def _fewer(pairs: list[tuple[Names, Names]], merit: Mapping[Names, float]) -> list[tuple[Names, Names]]:
    """Of too many pairs those with the best result."""
    if len(pairs) <= MOST:
        return pairs
    best = max({names for pair in pairs for names in pair}, key=lambda names: (merit[names], names))
    return [pair for pair in pairs if best in pair]


def _paired(a: Array, b: Array) -> bool:
    return a.shape == b.shape and len(a) > 1 and np.allclose(a.sum(-1), b.sum(-1))


def _defined(a: Array, b: Array, score: stats.Score) -> bool:
    return not np.isnan(score(a.sum(0)) - score(b.sum(0)))


# ---------------------------------------------------------------- ours with the paper's


def printed(doc: Mapping[str, Any], paper: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's figures beside ours: {source, rows: [{of, head, layer, metric, ours, paper, verdict}], between,
    notes}.

    paper: cards.Paper as a dictionary. A figure belongs to an arm ("ua", "f1.anger", "weight.anger": the mean class
    weight) or to a corpus ("count.anger"). The verdict is "not distinguishable" unless Welch's t over folds says more;
    of a figure without a standard deviation it says whether our interval holds it.
    """
    rows = [row for name, figures in paper["figures"].items() for row in _rows(doc, paper, name, figures)]
    return {"source": paper["source"], "rows": rows, "between": list(_between(paper)), "notes": paper["notes"]}


def _rows(
    doc: Mapping[str, Any], paper: Mapping[str, Any], name: str, figures: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    results = [r for r in doc["results"] if r["arm"] == name]
    for metric, figure in figures.items():
        kind, _, of_class = metric.partition(".")
        if kind in ("count", "weight"):
            ours = _counted(doc, kind, name, of_class)
            same = ours is not None and abs(ours - figure["mean"]) < 6e-4
            verdict = "as printed" if same else "not here" if ours is None else "differs"
            yield {"of": name, "metric": metric, "ours": ours, "paper": figure, "verdict": verdict}
            continue
        for result in results:
            ours_is = value_of(result, metric)
            row = {"of": name, "head": result["head"], "layer": result["layer"], "metric": metric, "ours": ours_is}
            yield {**row, "paper": figure, "verdict": _verdict(ours_is, figure, paper["folds"])}


def _counted(doc: Mapping[str, Any], kind: str, name: str, of_class: str) -> float | None:
    if kind == "count":
        corpus = doc["rows"].get(name)
        return None if corpus is None else float(corpus["classes"][of_class])
    weights = doc["class_weights"].get(name, {})
    return None if of_class not in weights else float(weights[of_class])


def _verdict(ours: Mapping[str, Any], figure: Mapping[str, Any], folds: int) -> str:
    """One metric of ours, and the paper's mean with its standard deviation (ddof 1) over so many folds."""
    there = [value for value in ours["folds"] if value is not None]
    if ours["mean"] is None:
        return "not here"
    if figure["sd"] is not None and len(there) > 1:
        test = stats.welch(figure["mean"], figure["sd"], folds, ours["mean"], ours["sd"], len(there))
        if test.p > 0.05:
            return f"not distinguishable from the paper's (p = {test.p:.2g})"
        return f"{'above' if test.difference > 0 else 'below'} the paper's (p = {test.p:.2g})"
    low, high = ours["interval"]["low"], ours["interval"]["high"]
    if low is None:
        return "no interval to judge by"
    if low <= figure["mean"] <= high:
        return "not distinguishable: our interval holds the paper's"
    return f"our interval lies {'above' if low > figure['mean'] else 'below'} the paper's"


def _between(paper: Mapping[str, Any]) -> Iterator[str]:
    """What the paper's own columns say of each other, from their printed means and standard deviations."""
    n = paper["folds"]
    for a, b in combinations(paper["figures"], 2):
        for metric, first in paper["figures"][a].items():
            second = paper["figures"][b].get(metric)
            if not second or not first["sd"] or not second["sd"]:
                continue
            test = stats.welch(first["mean"], first["sd"], n, second["mean"], second["sd"], n)
            spread = stats.compare_variance(first["sd"], n, second["sd"], n)
            told = "distinguishable" if test.p <= 0.05 else "not distinguishable"
            yield f"{metric}: {b} against {a} {test.difference:+.3f} (p = {test.p:.2g}: {told}); {spread.sentence()}"
