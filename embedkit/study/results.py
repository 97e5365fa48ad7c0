"""The document of a finished study, results.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from embedkit import metrics, report
from embedkit.cards.study import Paper
from embedkit.classes import CLASSES
from embedkit.report.document import CorpusRows, LayerWeights, PaperDocument, Result, StudyDocument
from embedkit.report.scores import compute_results
from embedkit.study import leakage
from embedkit.study.folder import read_fit_records, read_predictions, read_search_entries
from embedkit.study.plan import StudyPlan
from embedkit.study.source import Source


def build_results(planned: StudyPlan, leaks: Sequence[leakage.Finding]) -> StudyDocument:
    """The document of a study whose fits are all trained."""
    study, identity = planned.study, planned.identity
    predictions = read_predictions(planned) if planned.list_fits() else None
    results = [] if predictions is None else compute_results(predictions, identity.encoder)
    for result in results:
        if result["layer"] == "weighted":
            result["layer_weights"] = _summarise_layer_weights(planned.folder, result)
    doc: StudyDocument = {
        "study": study.name,
        "summary": study.summary,
        "results": results,
        "corpus": study.corpus,
        "test": study.test,
        "recipe": study.recipe,
        "encoder": identity.encoder,
        "revision": identity.revision,
        "weights": "random" if identity.random else "pretrained",
        "folds": {"kind": study.folds.kind, "names": [fold.name for fold in planned.folds]},
        "arms": {arm.name: dict(arm.mix) for arm in study.arms},
        "seeds": study.seeds,
        "views": planned.views,
        "rows": {corpus: _count_rows(source) for corpus, source in planned.sources.items()},
        "class_weights": _average_class_weights(planned),
        "comparisons": [] if predictions is None else report.compare_results(predictions, results, study.compare),
        "search": read_search_entries(planned.folder),
        "audit": [leak.to_document() for leak in leaks],
        "notes": [*(leak.text for leak in leaks), *planned.notes, *_count_warnings(planned.folder)],
        "paper": None,
    }
    doc["paper"] = report.compare_with_paper(doc, _read_paper(study.paper)) if study.paper else None
    return doc


def _count_rows(source: Source) -> CorpusRows:
    return {
        "used": len(source.rows),
        "classes": {name: int(np.sum(source.y == name)) for name in CLASSES},
        "skipped": source.skipped,
        "missing": source.missing,
        "left_out": dict(source.left_out),
    }


def _read_paper(paper: Paper) -> PaperDocument:
    return {
        "source": paper.source,
        "folds": paper.folds,
        "notes": paper.notes,
        "figures": {
            name: {metric: {"mean": figure.mean, "sd": figure.sd} for metric, figure in figures.items()}
            for name, figures in paper.figures.items()
        },
    }


def _average_class_weights(planned: StudyPlan) -> dict[str, dict[str, float]]:
    """By arm, the weights that balance the classes of its training rows: their mean over folds."""
    weights = {}
    for arm in planned.arms:
        folds = [metrics.balanced_weights(planned.y[planned.training_rows(i, arm)]) for i in range(len(planned.folds))]
        weights[arm] = {c: float(np.mean([f[c] for f in folds])) for c in CLASSES if all(c in f for f in folds)}
    return weights


def _summarise_layer_weights(folder: Path, result: Result) -> LayerWeights:
    """The weights of a learned sum of layers over folds and seeds."""
    key = (result["arm"], result["layer"], result["head"])
    weights = [r["layer_weights"] for r in read_fit_records(folder) if (r["arm"], r["layer"], r["head"]) == key]
    return {"mean": np.mean(weights, 0).tolist(), "sd": np.std(weights, 0).tolist()}


def _count_warnings(folder: Path) -> Iterator[str]:
    """The warnings of the estimators, counted over fits."""
    records = read_fit_records(folder)
    fits = Counter(record["head"] for record in records)
    for (head, text), count in Counter((r["head"], text) for r in records for text in r["warnings"]).items():
        yield f"{head}: {count} of {fits[head]} fits warn: {text}"
