"""What results.json says of a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from embedkit import metrics, report
from embedkit.classes import CLASSES
from embedkit.report.scores import compute_results
from embedkit.study import leakage
from embedkit.study.folder import read_list, read_predictions
from embedkit.study.plan import StudyPlan


def build_results(planned: StudyPlan, leaks: Sequence[leakage.Finding]) -> dict[str, Any]:
    """What results.json holds."""
    study, identity = planned.study, planned.identity
    predictions = read_predictions(planned) if planned.list_fits() else None
    results = [] if predictions is None else compute_results(predictions, identity.encoder)
    for result in results:
        result |= _summarise_layer_weights(planned.folder, result)
    doc: dict[str, Any] = {
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
        "rows": {
            corpus: {
                "used": len(s.rows),
                "classes": {name: int(np.sum(s.y == name)) for name in CLASSES},
                "skipped": s.skipped,
                "missing": s.missing,
                "left_out": dict(s.left_out),
            }
            for corpus, s in planned.sources.items()
        },
        "class_weights": _average_class_weights(planned),
        "comparisons": [] if predictions is None else report.compare_results(predictions, results, study.compare),
        "search": read_list(planned.folder / "search.json"),
        "audit": [asdict(leak) for leak in leaks],
        "notes": [*(leak.text for leak in leaks), *planned.notes, *_count_warnings(planned.folder)],
    }
    paper = study.paper.model_dump(mode="json") if study.paper else None
    return {**doc, "paper": report.compare_with_paper(doc, paper)}


def _average_class_weights(planned: StudyPlan) -> dict[str, dict[str, float]]:
    """arm -> the mean over folds of the weights that balance the classes of its training rows."""
    weights = {}
    for arm in planned.arms:
        folds = [metrics.balanced_weights(planned.y[planned.training_rows(i, arm)]) for i in range(len(planned.folds))]
        weights[arm] = {c: float(np.mean([f[c] for f in folds])) for c in CLASSES if all(c in f for f in folds)}
    return weights


def _summarise_layer_weights(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """What a learned sum of layers weighs: mean and standard deviation (ddof 0) over folds and seeds."""
    if result["layer"] != "weighted":
        return {}
    key = ("arm", "layer", "head")
    fits = [u["layer_weights"] for u in read_list(folder / "units.json") if all(u[k] == result[k] for k in key)]
    return {"layer_weights": {"mean": np.mean(fits, 0).tolist(), "sd": np.std(fits, 0).tolist()}}


def _count_warnings(folder: Path) -> Iterator[str]:
    """What the estimators complained about, counted over fits."""
    units = read_list(folder / "units.json")
    fits = Counter(unit["head"] for unit in units)
    for (head, text), count in Counter((u["head"], text) for u in units for text in u["warnings"]).items():
        yield f"{head}: {count} of {fits[head]} fits warn: {text}"
