"""Paired tests between the results of a study, and a paper's printed figures beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from embedkit import stats
from embedkit.report.document import (
    Comparison,
    Metric,
    PaperComparison,
    PaperDocument,
    PaperRow,
    PrintedFigure,
    Result,
    StudyDocument,
)

Array = npt.NDArray[np.float64]
Names = tuple[str, ...]  # of a result, e.g. (arm, layer, head)

MAX_PAIRS = 30  # up to so many pairs are all tested; of more, those with the best result
OVERALL_SCORES: dict[str, stats.Score] = {"wa": stats.wa, "ua": stats.ua, "macro_f1": stats.macro_f1}
CLASS_SCORES: dict[str, stats.Score] = {"f1": stats.f1s, "recall": stats.recalls, "precision": stats.precisions}


def find_score(metric: str) -> stats.Score:
    """The score of a metric's name: "ua", "f1.anger"."""
    name, _, of_class = metric.partition(".")
    return stats.select_class(CLASS_SCORES[name], of_class) if of_class else OVERALL_SCORES[name]


def find_metric(result: Result, metric: str) -> Metric:
    """A result's metric by its name: "ua", "f1.anger"."""
    overall = {"wa": result["wa"], "ua": result["ua"], "macro_f1": result["macro_f1"]}
    by_class = {"f1": result["f1"], "recall": result["recall"], "precision": result["precision"]}
    name, _, of_class = metric.partition(".")
    return by_class[name][of_class] if of_class else overall[name]


# ---------------------------------------------------------------- ours with ours


def compare_pairs(
    tables: Mapping[Names, Array],
    validation_ua: Mapping[Names, float],
    metrics: Sequence[str],
    kinds: Sequence[str],
    only: str = "",
) -> list[Comparison]:
    """Paired permutation tests over speakers between results that differ in one thing only (an arm, a layer, a head).

    tables: confusion matrices [speaker, truth, predicted] of each result, by its names. kinds: what each of a result's
    names names ("arm", "layer", ...). validation_ua: its mean, of each result; of more than 30 pairs, those with the
    best result by it are tested. only: compare only pairs that differ in this kind. All p are adjusted together (Holm).
    Results on different test rows cannot be paired and are left out.
    """
    pairs = [
        (a, b) for a, b in combinations(tables, 2) if _find_varying_kind(a, b, kinds) in ([only] if only else kinds)
    ]
    pairs = _limit_pairs([(a, b) for a, b in pairs if _can_pair(tables[a], tables[b])], validation_ua)
    tests = [(m, a, b) for m in metrics for a, b in pairs if _is_defined(tables[a], tables[b], find_score(m))]
    outcomes = [stats.permutation_test(tables[b], tables[a], find_score(m)) for m, a, b in tests]
    adjusted: Sequence[float] = stats.holm([test.p for test in outcomes]).tolist() if outcomes else []
    return [
        {
            "metric": metric,
            "kind": _find_varying_kind(a, b, kinds),
            "a": list(a),
            "b": list(b),
            "difference": test.difference,
            "p": test.p,
            "adjusted": p,
            "smallest": test.smallest,
            "speakers": test.clusters,
            "exact": test.exact,
            "verdict": stats.verdict(test, "the second", "the first", p),
        }
        for (metric, a, b), test, p in zip(tests, outcomes, adjusted, strict=True)
    ]


def _find_varying_kind(a: Names, b: Names, kinds: Sequence[str]) -> str:
    """The kind of name in which two results differ; "" where there are several."""
    varying = [kind for kind, x, y in zip(kinds, a, b, strict=True) if x != y]
    return varying[0] if len(varying) == 1 else ""


def _limit_pairs(pairs: list[tuple[Names, Names]], validation_ua: Mapping[Names, float]) -> list[tuple[Names, Names]]:
    """All pairs, or of too many those with the best result."""
    if len(pairs) <= MAX_PAIRS:
        return pairs
    best = max({names for pair in pairs for names in pair}, key=lambda names: (validation_ua[names], names))
    return [pair for pair in pairs if best in pair]


def _can_pair(a: Array, b: Array) -> bool:
    return a.shape == b.shape and len(a) > 1 and np.allclose(a.sum(-1), b.sum(-1))


def _is_defined(a: Array, b: Array, score: stats.Score) -> bool:
    return not np.isnan(score(a.sum(0)) - score(b.sum(0)))


# ---------------------------------------------------------------- ours with the paper's


def compare_paper_figures(doc: StudyDocument, paper: PaperDocument) -> PaperComparison:
    """The paper's figures beside ours.

    A figure belongs to an arm ("ua", "f1.anger", "weight.anger": the mean class weight) or to a corpus ("count.anger").
    The verdict comes from Welch's t test over folds; for a figure without a standard deviation it says whether our
    interval contains it.
    """
    rows = [row for name, figures in paper["figures"].items() for row in _tabulate_figures(doc, paper, name, figures)]
    return {
        "source": paper["source"],
        "rows": rows,
        "between": list(_compare_paper_columns(paper)),
        "notes": paper["notes"],
    }


def _tabulate_figures(
    doc: StudyDocument, paper: PaperDocument, name: str, figures: Mapping[str, PrintedFigure]
) -> Iterator[PaperRow]:
    results = [r for r in doc["results"] if r["arm"] == name]
    for metric, figure in figures.items():
        kind, _, of_class = metric.partition(".")
        if kind in ("count", "weight"):
            ours = _find_count_or_weight(doc, kind, name, of_class)
            same = ours is not None and abs(ours - figure["mean"]) < 6e-4
            verdict = "as printed" if same else "not here" if ours is None else "differs"
            yield {"of": name, "metric": metric, "ours": ours, "paper": figure, "verdict": verdict}
            continue
        for result in results:
            our_metric = find_metric(result, metric)
            yield {
                "of": name,
                "head": result["head"],
                "layer": result["layer"],
                "metric": metric,
                "ours": our_metric,
                "paper": figure,
                "verdict": _judge_figure(our_metric, figure, paper["folds"]),
            }


def _find_count_or_weight(doc: StudyDocument, kind: str, name: str, of_class: str) -> float | None:
    if kind == "count":
        corpus = doc["rows"].get(name)
        return None if corpus is None else float(corpus["classes"][of_class])
    weights = doc["class_weights"].get(name, {})
    return None if of_class not in weights else float(weights[of_class])


def _judge_figure(ours: Metric, figure: PrintedFigure, folds: int) -> str:
    """The verdict on a paper's mean with its standard deviation (ddof 1) over so many folds, beside our metric."""
    defined = [value for value in ours["folds"] if value is not None]
    if ours["mean"] is None:
        return "not here"
    if figure["sd"] is not None and ours["sd"] is not None:
        test = stats.welch_test(figure["mean"], figure["sd"], folds, ours["mean"], ours["sd"], len(defined))
        if test.p > 0.05:
            return f"not distinguishable from the paper's (p = {test.p:.2g})"
        return f"{'above' if test.difference > 0 else 'below'} the paper's (p = {test.p:.2g})"
    low, high = ours["interval"]["low"], ours["interval"]["high"]
    if low is None or high is None:
        return "no interval to judge by"
    if low <= figure["mean"] <= high:
        return "not distinguishable: our interval holds the paper's"
    return f"our interval lies {'above' if low > figure['mean'] else 'below'} the paper's"


def _compare_paper_columns(paper: PaperDocument) -> Iterator[str]:
    """The paper's own arms compared with each other, from their printed means and standard deviations."""
    n = paper["folds"]
    for a, b in combinations(paper["figures"], 2):
        for metric, first in paper["figures"][a].items():
            second = paper["figures"][b].get(metric)
            if not second or not first["sd"] or not second["sd"]:
                continue
            test = stats.welch_test(first["mean"], first["sd"], n, second["mean"], second["sd"], n)
            variance_test = stats.compare_variance(first["sd"], n, second["sd"], n)
            outcome = "distinguishable" if test.p <= 0.05 else "not distinguishable"
            means = f"{metric}: {b} against {a} {test.difference:+.3f} (p = {test.p:.2g}: {outcome})"
            yield f"{means}; {variance_test.format_sentence()}"
