"""Results from predictions: by hand, and as they are shown."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from embedkit import report
from embedkit.cards import CLASSES

A, H, N, S = CLASSES


def rows(
    fold: str, seed: int, labels: list[str], said: list[str], split: str = "test", head: str = "mlp"
) -> pd.DataFrame:
    """Rows of a record in which `said` has the highest probability."""
    p = np.full((len(labels), 4), 0.1)
    p[np.arange(len(labels)), [CLASSES.index(s) for s in said]] = 0.7
    names = {"arm": "x", "layer": 2, "head": head, "seed": seed, "fold": fold, "split": split, "label": labels}
    return pd.DataFrame({"utterance": [f"{fold}-{i}" for i in range(len(labels))], **names}).assign(
        **dict(zip(report.PROBABILITIES, p.T, strict=True))
    )


@pytest.fixture
def record() -> pd.DataFrame:
    """Two folds, two seeds; fold 1 is right on 3 and 1 of 4, fold 2 (no neutral) on 2 of 2."""
    first = [A, A, S, N]
    return pd.concat(
        [
            rows("1", 0, first, [A, A, S, S]),
            rows("1", 1, first, [A, S, A, S]),
            *(rows("2", seed, [A, S], [A, S]) for seed in (0, 1)),
            *(rows(fold, seed, [A, S], [A, A], "validate") for fold in "12" for seed in (0, 1)),
        ]
    )


def test_each_metric_is_mean_sd_folds_and_pooled(record: pd.DataFrame) -> None:
    """By hand: a fold's value is the mean over seeds, sd has ddof 1, pooled counts every prediction once."""
    (r,) = report.results(record, "enc")
    assert (r["arm"], r["head"], r["layer"], r["encoder"]) == ("x", "mlp", 2, "enc")
    assert r["wa"].pop("folds") == [0.5, 1.0]
    assert r["wa"] == pytest.approx({"mean": 0.75, "sd": np.std([0.5, 1], ddof=1), "pooled": 8 / 12})
    # UA of fold 1: recalls A, S, N are (1, 1, 0) and (1/2, 0, 0); pooled: A 5 of 6, S 3 of 4, N 0 of 2
    assert r["ua"]["folds"] == pytest.approx([(2 / 3 + 1 / 6) / 2, 1.0])
    assert r["ua"]["pooled"] == pytest.approx((5 / 6 + 3 / 4 + 0) / 3)
    assert r["validation_ua"]["mean"] == 0.5
    # F1 of anger in fold 1: 1 and 2 / (2 + 2)
    assert r["f1"][A]["folds"] == pytest.approx([(1 + 0.5) / 2, 1.0])


def test_a_class_that_a_fold_has_not_is_left_out_there(record: pd.DataFrame) -> None:
    """Neutral is in one fold only: None there, and its mean is over the other; happiness is nowhere."""
    (r,) = report.results(record, "enc")
    assert r["f1"][N] == {"mean": 0.0, "sd": None, "folds": [0.0, None], "pooled": 0.0}
    assert r["f1"][H] == {"mean": None, "sd": None, "folds": [None, None], "pooled": None}


def test_one_fold_has_no_deviation(record: pd.DataFrame) -> None:
    """sd is null, not 0 and not NaN, so that JSON can hold it."""
    (r,) = report.results(record[record["fold"] == "1"], "enc")
    assert r["wa"]["sd"] is None and json.dumps(r, allow_nan=False)


def test_results_keep_the_records_order() -> None:
    """One result for each arm, layer and head, in the order in which they were run."""
    parts = [rows("1", 0, [A, S], [A, S], split, head) for head in ("svc", "mlp") for split in ("validate", "test")]
    assert [r["head"] for r in report.results(pd.concat(parts), "enc")] == ["svc", "mlp"]


def test_the_table_and_the_page_show_it(record: pd.DataFrame, tmp_path) -> None:
    """Every figure of the results is in the text as mean ± sd (pooled), beside what a reader must know."""
    doc = {
        "study": "mine",
        "results": report.results(record, "enc"),
        "corpus": "c",
        "test": "",
        "recipe": "exact",
        "encoder": "enc",
        "weights": "random",
        "folds": {"kind": "loso", "names": ["1", "2"]},
        "seeds": 2,
        "rows": {"c": {"used": 6, "classes": {A: 3}, "skipped": 1, "missing": 0, "left_out": {"fru": 3}}},
        "search": [
            {"arm": "x", "layer": 2, "head": "mlp", "trials": 9, "pruned": 4, "validation_ua": 0.5, "params": {"C": 1}}
        ],
        "notes": ["something to know"],
    }
    text, page = report.table(doc), report.markdown(doc)
    for shown in (text, page):
        assert "0.750 ± 0.354 (0.667)" in shown and "weights: random" in shown and "something to know" in shown
    assert "| mlp " in page and "fru 3" in page and "C = 1" in page and "0.000 (0.000)" in page
    report.write(tmp_path, doc)
    assert json.loads((tmp_path / "results.json").read_text()) == doc
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.md", "results.json"]
