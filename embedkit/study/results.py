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
from embedkit.report.scores import results as results_of
from embedkit.study import leakage
from embedkit.study.folder import _read_list, record
from embedkit.study.plan import StudyPlan


def _document(planned: StudyPlan, leaks: Sequence[leakage.Finding]) -> dict[str, Any]:
    """What results.json holds."""
    study, identity = planned.study, planned.identity
    predictions = record(planned) if planned.units() else None
    results = [] if predictions is None else results_of(predictions, identity.encoder)
    for result in results:
        result |= _layer_weights(planned.folder, result)
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
        "class_weights": _class_weights(planned),
        "comparisons": [] if predictions is None else report.compared(predictions, results, study.compare),
        "search": _read_list(planned.folder / "search.json"),
        "audit": [asdict(leak) for leak in leaks],
        "notes": [*(leak.text for leak in leaks), *planned.notes, *_warned(planned.folder)],
    }
    paper = study.paper.model_dump(mode="json") if study.paper else None
    return {**doc, "paper": report.beside(doc, paper)}


def _class_weights(planned: StudyPlan) -> dict[str, dict[str, float]]:
    """arm -> the mean over folds of the weights that balance the classes of its training rows."""
    found = {}
    for arm in planned.arms:
        folds = [metrics.balanced_weights(planned.y[planned.training(i, arm)]) for i in range(len(planned.folds))]
        found[arm] = {c: float(np.mean([f[c] for f in folds])) for c in CLASSES if all(c in f for f in folds)}
    return found


def _layer_weights(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """What a learned sum of layers weighs: mean and standard deviation (ddof 0) over folds and seeds."""
    if result["layer"] != "weighted":
        return {}
    key = ("arm", "layer", "head")
    fits = [u["layer_weights"] for u in _read_list(folder / "units.json") if all(u[k] == result[k] for k in key)]
    return {"layer_weights": {"mean": np.mean(fits, 0).tolist(), "sd": np.std(fits, 0).tolist()}}


def _warned(folder: Path) -> Iterator[str]:
    """What the estimators complained about, counted over fits."""
    units = _read_list(folder / "units.json")
    fits = Counter(unit["head"] for unit in units)
    for (head, text), count in Counter((u["head"], text) for u in units for text in u["warnings"]).items():
        yield f"{head}: {count} of {fits[head]} fits warn: {text}"
