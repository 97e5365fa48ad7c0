"""Results from predictions: by hand, and as they are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from embedkit import report
from embedkit.classes import CLASSES, PROBABILITIES
from embedkit.report.scores import compute_results

A, H, N, S = CLASSES


def rows(
    fold: str, seed: int, labels: list[str], said: list[str], split: str = "test", head: str = "mlp"
) -> pd.DataFrame:
    """Rows of a record in which `said` has the highest probability."""
    p = np.full((len(labels), 4), 0.1)
    p[np.arange(len(labels)), [CLASSES.index(s) for s in said]] = 0.7
    names = {"arm": "x", "layer": "2", "head": head, "seed": seed, "fold": fold, "split": split, "label": labels}
    names["speaker"] = [f"{fold}-{i % 2}" for i in range(len(labels))]
    return pd.DataFrame({"utterance": [f"{fold}-{i}" for i in range(len(labels))], **names}).assign(
        **dict(zip(PROBABILITIES, p.T, strict=True))
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
    (r,) = compute_results(record, "enc")
    assert (r["arm"], r["head"], r["layer"], r["encoder"]) == ("x", "mlp", 2, "enc")
    assert r["wa"].pop("folds") == [0.5, 1.0]
    assert r["wa"].pop("interval")["clusters"] == 4  # two speakers a fold
    assert r["wa"] == pytest.approx({"mean": 0.75, "sd": np.std([0.5, 1], ddof=1), "pooled": 8 / 12})
    # UA of fold 1: recalls A, S, N are (1, 1, 0) and (1/2, 0, 0); pooled: A 5 of 6, S 3 of 4, N 0 of 2
    assert r["ua"]["folds"] == pytest.approx([(2 / 3 + 1 / 6) / 2, 1.0])
    assert r["ua"]["pooled"] == pytest.approx((5 / 6 + 3 / 4 + 0) / 3)
    assert r["validation_ua"]["mean"] == 0.5
    # F1 of anger in fold 1: 1 and 2 / (2 + 2)
    assert r["f1"][A]["folds"] == pytest.approx([(1 + 0.5) / 2, 1.0])


def test_a_class_that_a_fold_has_not_is_left_out_there(record: pd.DataFrame) -> None:
    """Neutral is in one fold only: None there, and its mean is over the other; happiness is nowhere."""
    (r,) = compute_results(record, "enc")
    assert [r["f1"][name].pop("interval")["clusters"] for name in (N, H)] == [1, 0]
    assert r["f1"][N] == {"mean": 0.0, "sd": None, "folds": [0.0, None], "pooled": 0.0}
    assert r["f1"][H] == {"mean": None, "sd": None, "folds": [None, None], "pooled": None}


def test_one_fold_has_no_deviation(record: pd.DataFrame) -> None:
    """sd is null, not 0 and not NaN, so that JSON can hold it."""
    (r,) = compute_results(record[record["fold"] == "1"], "enc")
    assert r["wa"]["sd"] is None and json.dumps(r, allow_nan=False)


def test_results_keep_the_records_order() -> None:
    """One result for each arm, layer and head, in the order in which they were run."""
    parts = [rows("1", 0, [A, S], [A, S], split, head) for head in ("svc", "mlp") for split in ("validate", "test")]
    assert [r["head"] for r in compute_results(pd.concat(parts), "enc")] == ["svc", "mlp"]


def document(record: pd.DataFrame, **more: Any) -> dict[str, Any]:
    """A study's document (results.json), as `build_results` makes it."""
    results = compute_results(record, "enc")
    doc = {
        "study": "mine",
        "summary": "a study",
        "results": results,
        "corpus": "c",
        "test": "",
        "recipe": "exact",
        "encoder": "enc",
        "weights": "random",
        "folds": {"kind": "loso", "names": ["1", "2"]},
        "arms": {"x": {}},
        "seeds": 2,
        "rows": {"c": {"used": 6, "classes": {A: 3}, "skipped": 1, "missing": 0, "left_out": {"fru": 3}}},
        "class_weights": {"x": {A: 0.5, N: 2.0}},
        "comparisons": report.compare_results(record, results, ["ua", "f1.anger"]),
        "search": [
            {
                "arm": "x",
                "layer": 2,
                "head": "mlp",
                "trials": 9,
                "pruned": 4,
                "failed": 0,
                "validation_ua": 0.5,
                "params": {"C": 1},
            }
        ],
        "notes": ["something to know"],
        "paper": None,
    }
    return {**doc, **more}


def test_the_table_and_the_page_show_it(record: pd.DataFrame, tmp_path: Path) -> None:
    """Every figure of the results is in the text as mean ± sd (pooled), beside what a reader must know."""
    doc = document(record)
    report.write_report(tmp_path, doc)
    page, html = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    for shown in (report.format_summary(doc), page, html):
        assert re.search(r"0\.750 ± 0\.354(<br><small>| )\(0\.667", shown)
        assert "weights: random" in shown and "something to know" in shown
    interval = doc["results"][0]["wa"]["interval"]
    assert f"(0.667, {interval['low']:.3f} to {interval['high']:.3f})" in page
    assert "| mlp " in page and "fru 3" in page and "C = 1" in page and "0.5000" in page
    assert json.loads((tmp_path / "results.json").read_text()) == doc


def test_the_page_needs_nothing_beside_it(record: pd.DataFrame, tmp_path: Path) -> None:
    """Pictures lie inside as SVG with an alternative text; no script, no link that leads out, each cell escaped."""
    report.write_report(tmp_path, document(record, summary="<b>a & b</b>"))
    html = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in html and "<b>" not in html and "<script" not in html
    assert set(re.findall(r'(?:src|href)="([^",]*)', html)) >= {"data:image/svg+xml;base64", "#scores"}
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    pictures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert pictures == [f"{n}.{kind}" for n in ("confusion", "reliability", "scores") for kind in ("png", "svg")]
    assert html.count("<img alt=") == 3 and not re.search('alt=""', html)


def test_the_same_document_gives_the_same_files(record: pd.DataFrame, tmp_path: Path) -> None:
    """Byte by byte, pictures too: what has not changed makes no difference in a repository."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        report.write_report(tmp_path / name, document(record))
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def four_arms(flips: dict[str, int]) -> pd.DataFrame:
    """12 speakers with 8 utterances each; in each arm the first so many speakers are all wrong, the others right."""
    parts = []
    for arm, wrong in flips.items():
        for speaker in range(12):
            part = rows("1", 0, [A, H, N, S] * 2, ([S, S, A, A] if speaker < wrong else [A, H, N, S]) * 2)
            parts.append(part.assign(arm=arm, speaker=f"s{speaker}"))
            parts.append(part.assign(arm=arm, speaker=f"v{speaker}", split="validate"))
    return pd.concat(parts)


def test_results_are_compared_by_speaker() -> None:
    """By hand: 6 of 12 speakers differ, all one way, so 2 of 2^6 swaps are as large: p = 2 / 64; times 3 by Holm."""
    record = four_arms({"a": 8, "b": 2, "c": 2})
    found = report.compare_results(record, compute_results(record, "enc"), ["ua"])
    assert [(c["a"][0], c["b"][0]) for c in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found[0]["difference"] == pytest.approx(0.5) and found[0]["p"] == pytest.approx(2 / 64)
    assert found[0]["adjusted"] == pytest.approx(6 / 64) and found[0]["verdict"] == "not distinguishable"
    assert found[2]["p"] == 1 and found[2]["difference"] == 0 and found[0]["kind"] == "arm"
    assert {c["smallest"] for c in found} == {2 / 2**12}


def test_many_results_are_compared_with_the_best_only() -> None:
    """12 arms are 66 pairs; the 11 with the best one by validation are left."""
    record = four_arms({f"a{i}": i for i in range(12)})
    found = report.compare_results(record, compute_results(record, "enc"), ["ua"])
    assert len(found) == 11 and all("a0" in (c["a"][0], c["b"][0]) for c in found)


def test_the_papers_figures_stand_beside_ours() -> None:
    """Welch's t where it prints a standard deviation (scipy's, to 1e-9), our interval where it does not, counts as
    they are; and what its own columns say of each other."""
    record = pd.concat([four_arms({"a": 3, "b": 2}), four_arms({"a": 5, "b": 2}).assign(fold="2")])
    paper = {
        "source": "Table II",
        "folds": 5,
        "notes": [],
        "figures": {
            "a": {"ua": {"mean": 0.6, "sd": 0.03}, "recall.anger": {"mean": 0.01, "sd": None}},
            "b": {"ua": {"mean": 0.61, "sd": 0.02}},
            "c": {"count.anger": {"mean": 3, "sd": None}, "count.sadness": {"mean": 3, "sd": None}},
            "x": {"weight.anger": {"mean": 0.5, "sd": None}, "weight.neutral": {"mean": 1.9, "sd": None}},
        },
    }
    doc = document(record, rows={"c": {"classes": {A: 3, S: 4}}})
    found = report.compare_with_paper(doc, paper)
    assert found is not None
    verdicts = {(row["of"], row["metric"]): row["verdict"] for row in found["rows"]}
    ua = doc["results"][0]["ua"]
    slow = scipy.stats.ttest_ind_from_stats(ua["mean"], ua["sd"], 2, 0.6, 0.03, 5, equal_var=False)
    assert verdicts["a", "ua"] == f"not distinguishable from the paper's (p = {slow.pvalue:.2g})"
    assert verdicts["a", "recall.anger"] == "our interval lies above the paper's"
    assert (verdicts["c", "count.anger"], verdicts["c", "count.sadness"]) == ("as printed", "differs")
    assert (verdicts["x", "weight.anger"], verdicts["x", "weight.neutral"]) == ("as printed", "differs")
    (line,) = found["between"]
    assert line.startswith("ua: b against a +0.010 (p = 0.55: not distinguishable); standard deviation -33%, variance")


def test_arousal_keeps_every_class() -> None:
    """By hand: happiness said as anger is right when only arousal is asked, and wrong otherwise."""
    record = rows("1", 0, [A, H, N, S, S], [A, A, S, S, A]).assign(speaker=list("abcab"))
    (r,) = compute_results(pd.concat([record, record.assign(split="validate")]), "enc")
    assert r["arousal"]["table"] == [[2, 0], [1, 2]]
    assert r["arousal"]["recall"]["low"]["estimate"] == pytest.approx(2 / 3)
    assert r["arousal"]["precision"]["high"]["estimate"] == pytest.approx(2 / 3)
    assert np.sum(r["confusion"]) == 5 and r["confusion"][1][0] == 1


def test_variance_and_calibration(record: pd.DataFrame) -> None:
    """Two folds and two seeds share a variance; a temperature comes from validation, and changes no label."""
    (r,) = compute_results(record, "enc")
    assert sum(r["variance"]["shares"].values()) == pytest.approx(1)
    (one,) = compute_results(record[record["seed"] == 0], "enc")
    assert one["variance"] is None
    before, after = r["calibration"]["before"], r["calibration"]["after"]
    # all 12 say 0.7, 8 of them rightly
    assert before["ece"]["pooled"] == pytest.approx(abs(8 / 12 - 0.7)) and after["ece"]["pooled"] is not None
    assert len(r["calibration"]["temperature"]["folds"]) == 2
