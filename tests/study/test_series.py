"""The cards of studies/ on small caches, studies of several parts, and what features a head is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from study_caches import make_workspace, utterances, write_cache

from embedkit import study
from embedkit.cache import Cache
from embedkit.classes import CLASSES
from embedkit.corpora import Utterance
from embedkit.errors import CardError, EmbedkitError, StudyError
from embedkit.study import adapt, series
from embedkit.study.source import Source
from embedkit.workspace import Workspace

CHEAP = {  # a card of real heads, at the size of a test
    "heads.mlp.epochs": 3,
    "heads.lightgbm.n_estimators": 5,
    "heads.random-forest.n_estimators": 5,
    "search.trials": 2,
}


def scripted() -> list[Utterance]:
    """IEMOCAP's layout: in each session the same six scripts."""
    rows = utterances("iemocap", 10, 4)
    return [replace(u, dialogue=f"{u.session}F_script0{i % 6}_1") for i, u in enumerate(rows)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("series")
    made = make_workspace(root)
    for path in made.cache.rglob("iemocap.h5"):
        path.unlink()
    write_cache(root, scripted())
    for encoder in ("a/small", "b/large"):
        write_cache(root, utterances("iemocap", 10, 2), encoder=encoder, signal=0.5 if encoder == "a/small" else 1.5)
    (made.studies / "encoders.toml").write_text(
        'heads = ["quick"]\n[parts.small]\nencoder = "a/small"\n[parts.large]\nencoder = "b/large"\n'
    )
    return made


def run(workspace: Workspace, card: str, heads: list[str] | None = None, **settings: Any) -> dict[str, Any]:
    own = settings.pop("settings", {})
    return series.run_study(workspace, card, {"heads": heads or [], **settings}, own, jobs=1)


def counted(counts: Mapping[str, list[list[int]]], corpus: str) -> list[Utterance]:
    """Utterances with so many of each class in each session."""
    return [
        Utterance(id=f"{corpus}{s}{c}{i}", file="x.wav", label=label, speaker=f"{corpus}:{s}", session=f"Ses0{s + 1}")
        for s, row in enumerate(counts[corpus])
        for c, (label, count) in enumerate(zip(("ang", "hap", "neu", "sad"), row, strict=True))
        for i in range(count)
    ]


def test_the_papers_counts_and_weights(tmp_path: Path) -> None:
    """On caches of the real sizes every figure of Table I comes out as it is printed, and nothing is trained."""
    counts = {
        "iemocap": [
            [229, 278, 384, 194], [137, 327, 362, 197], [240, 286, 320, 305], [327, 303, 258, 143], [170, 442, 384, 245]
        ],
        "crema-d": [[1271, 1271, 1087, 1271]],
    }  # fmt: skip
    workspace = make_workspace(tmp_path)
    for corpus in counts:
        next(workspace.cache.rglob(f"{corpus}.h5")).unlink()
        rows = counted(counts, corpus)
        if corpus == "crema-d":
            rows = [replace(u, label=u.label.upper(), session="") for u in rows]
        write_cache(tmp_path, rows, views=0)
    doc = series.run_study(workspace, "paper-table-1")
    assert {row["verdict"] for row in doc["paper"]["rows"]} == {"as printed"} and len(doc["paper"]["rows"]) == 12
    weights = doc["class_weights"]["iemocap+crema-d"]
    assert [round(weights[c], 4) for c in CLASSES] == [1.0648, 0.9127, 0.9739, 1.0699]
    assert not doc["results"] and "as printed" in doc["table"]
    assert not (workspace.studies / "paper-table-1" / "predictions.parquet").exists()


def test_paper_table_2(workspace: Workspace) -> None:
    """Two arms, the paper's head; every figure of the table with its verdict, and the notes beside it."""
    doc = run(workspace, "paper-table-2")
    assert [r["arm"] for r in doc["results"]] == ["iemocap", "iemocap+crema-d"]
    assert len(doc["paper"]["rows"]) == 14 and len(doc["comparisons"]) == 7
    assert all("paper's" in row["verdict"] for row in doc["paper"]["rows"])
    line = next(line for line in doc["paper"]["between"] if line.startswith("wa"))
    assert "standard deviation -32%, variance -54%; F(4,4) = 2.18, p = 0.47: not distinguishable" in line
    assert doc["results"][0]["ua"]["interval"]["clusters"] == 10


def test_production_says_what_leaks(workspace: Workspace) -> None:
    """One 5 % validates and is tested, which the audit tells; an export of it is no surprise to anyone."""
    doc = run(workspace, "production", ["quick"])
    record = study.open_study(workspace, "production").read_predictions()
    sides = {split: set(part["utterance"]) for split, part in record.groupby("split")}
    assert sides["test"] == sides["validate"] and len(sides["test"]) == 10
    told = " ".join(doc["notes"])
    assert "leak speakers" in told and "says nothing about a new speaker" in told and "picked on the test rows" in told


def test_ravdess_transfer(workspace: Workspace) -> None:
    """Every fold's head on all of RAVDESS: each recall with its precision, and the 2x2 of arousal."""
    doc = run(workspace, "ravdess-transfer", ["quick"])
    assert doc["test"] == "ravdess" and np.sum(doc["results"][0]["confusion"]) == 5 * 75
    result = doc["results"][1]
    assert {*result["recall"]} == {*result["precision"]} == {*CLASSES}
    assert np.sum(result["arousal"]["table"]) == 5 * 75
    assert {row["metric"] for row in doc["paper"]["rows"]} >= {"wa", "ua", "recall.anger"}


def test_crema_mix_draws_the_dose_curve(workspace: Workspace) -> None:
    """Six shares, nested; a figure of them."""
    doc = run(workspace, "crema-mix", ["quick"])
    assert list(doc["arms"].values()) == [{}, *({"crema-d": f} for f in (0.1, 0.25, 0.5, 0.75, 1.0))]
    assert (workspace.studies / "crema-mix" / "figures" / "dose.svg").is_file()
    assert all(r["f1"][c]["interval"]["low"] is not None for r in doc["results"] for c in CLASSES)


@pytest.mark.slow
def test_heads_are_all_searched(workspace: Workspace) -> None:
    """Each of the six with a space of its own; the report sets validation beside test."""
    doc = run(workspace, "heads", settings=CHEAP)
    assert [s["head"] for s in doc["search"]] == ["mlp", "logistic", "lightgbm", "svc", "random-forest", "lda"]
    assert all(s["trials"] == 2 for s in doc["search"]) and len(doc["comparisons"]) == 15
    assert "test UA" in (workspace.studies / "heads" / "report.md").read_text()


def test_layers_and_statistics(workspace: Workspace) -> None:
    """Each layer, all of them, a learned sum whose weights are shown; mean against mean and standard deviation."""
    doc = run(workspace, "layers", ["net"])
    assert [r["layer"] for r in doc["results"]] == [0, 1, 2, "concat", "weighted"] * 2
    weights = [r["layer_weights"]["mean"] for r in doc["results"] if r["layer"] == "weighted"]
    assert np.sum(weights, 1) == pytest.approx([1, 1]) and {len(w) for w in weights} == {3}
    assert {c["kind"] for c in doc["comparisons"]} == {"part"} and len(doc["comparisons"]) == 5
    parts = [study.open_study(workspace, f"layers.{part}") for part in ("mean", "mean-std")]
    widths = [p.load_fold_head(study.ResultChoice("iemocap", "net", "concat"), "Ses01").n_features_in_ for p in parts]
    assert widths == [18, 36]
    head = parts[0].refit(study.ResultChoice("iemocap", "net", "weighted"))
    assert len(head.layer_weights_) == 3 and head.n_features_in_ == 18
    assert series.run_study(workspace, "layers", {"heads": ["net"]}, jobs=1) == doc  # resumes: nothing left to do


def test_concatenated_layers_lie_one_after_the_other(workspace: Workspace) -> None:
    """Of a row: layer 0's mean and standard deviation, layer 1's, ..., as an exported body gives them."""
    asked = study.resolve_study(workspace, "layers.mean-std", {"heads": ["net"]}, name="order")
    bench = study.FoldTrainer(study.plan_study(workspace, *asked))
    x = bench.features("concat", 0)[:, 0]
    for i, layer in enumerate(range(3)):
        np.testing.assert_array_equal(x[:, 12 * i : 12 * (i + 1)], bench.features(layer, 0)[:, 0])


def test_encoders_stand_beside_each_other(workspace: Workspace) -> None:
    """Parts with their own encoders, compared on the same utterances by the place of the layer."""
    doc = run(workspace, "encoders")
    assert [r["encoder"] for r in doc["results"]] == ["a/small", "b/large"]
    (test,) = doc["comparisons"]
    assert test["a"][0] == "small" and test["difference"] > 0 and test["speakers"] == 10
    assert json.loads((workspace.studies / "encoders" / "series.json").read_text())["parts"]["large"]["study"]
    assert study.open_study(workspace).plan.study.name == "encoders.large"  # the newest that can be exported


def test_the_leak_ladder(workspace: Workspace) -> None:
    """All seven rungs at one training size (within a row a class); those that test the same utterances are compared;
    each leak is told by the part that has it."""
    doc = run(workspace, "leak-ladder", ["quick"])
    sizes = [int(n) for facts in doc["parts"].values() for n in facts["training rows"].split(" to ")]
    assert len(doc["parts"]) == 7 and max(sizes) - min(sizes) <= 4
    assert {c["a"][0] for c in doc["comparisons"]} | {c["b"][0] for c in doc["comparisons"]} == {*doc["parts"]}
    told = [note for note in doc["notes"] if "leak speakers" in note]
    assert [note.split(":")[0] for note in told] == ["random", "epoch-on-test", "random-validates"]
    assert any(note.startswith("epoch-on-test: what validates is what is tested") for note in doc["notes"])
    script = study.open_study(workspace, "leak-ladder.script").plan
    for fold in script.folds:
        dialogue = script.columns["dialogue"]
        assert not {d[7:] for d in dialogue[fold.train]} & {d[7:] for d in dialogue[fold.test]}


def test_every_way_to_normalise(workspace: Workspace) -> None:
    """Six parts; by speaker it says whose sound it takes, and no file can be made of it."""
    doc = run(workspace, "normalisation", ["quick"])
    assert list(doc["parts"]) == ["none", "global", "corpus", "speaker", "coral", "corpus-coral"]
    assert any(n.startswith("speaker: ") and "by those very clips" in n for n in doc["notes"])
    told = series.audit_series(workspace, "normalisation")
    assert told["passed"] and list(told["parts"]) == list(doc["parts"])
    assert [f["verdict"] for f in told["parts"]["speaker"]["findings"] if f["check"] == "scaler"] == ["allowed"]
    assert all(not told["parts"][p]["findings"] for p in ("none", "global", "corpus", "coral"))
    finished = study.open_study(workspace, "normalisation.speaker")
    with pytest.raises(StudyError, match='cannot normalise = "speaker"'):
        finished.refit(study.choose_best_result(finished.results))
    aligned = study.open_study(workspace, "normalisation.coral")
    assert len(aligned.refit(study.choose_best_result(aligned.results)).classes_) == 4


@pytest.mark.parametrize("how", ["none", "global", "corpus", "speaker"])
@pytest.mark.parametrize("align", ["none", "coral"])
def test_a_head_is_given_normalised_features(workspace: Workspace, how: str, align: str) -> None:
    """The predictions of a fold equal scikit-learn's on rows scaled (and turned) by hand, to 1e-4."""
    own = {
        "normalise": how,
        "align": align,
        "audit.allow": ["scaler"],
        "heads.quick.max_iter": 5000,
        "heads.quick.tol": 1e-8,
    }
    flags = {"heads": ["quick"], "mix": ["crema-d=0.5"], "layer": "1"}
    series.run_study(workspace, None, flags, own, name=f"by-{how}-{align}", jobs=1)
    finished = study.open_study(workspace, f"by-{how}-{align}")
    planned, fold = finished.plan, finished.plan.folds[0]
    x = np.concatenate([features(source) for source in planned.sources.values()])
    train, corpora = planned.training_rows(0, "iemocap+crema-d=0.5"), planned.columns["corpus"]
    groups = {"corpus": corpora, "speaker": planned.columns["speaker"]}.get(how, np.full(len(x), "all"))
    for group in np.unique(groups) if how != "none" else []:
        mine = np.flatnonzero(groups == group)
        seen = mine if how == "speaker" else np.intersect1d(mine, train)
        x[mine] = StandardScaler().fit(x[seen]).transform(x[mine])
    if align == "coral":
        theirs, ours = (np.intersect1d(np.flatnonzero(corpora == c), train) for c in ("crema-d", "iemocap"))
        matrix, shift = adapt.coral(x[theirs], x[ours])
        x[theirs] = x[theirs] @ matrix + shift
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.05, class_weight="balanced", tol=1e-8, max_iter=5000)
    )
    model.fit(x[train], planned.y[train])
    got = finished.read_test_rows(study.choose_best_result(finished.results))
    got = got[got["fold"] == fold.name][[f"p_{c}" for c in CLASSES]]
    np.testing.assert_allclose(got, model.predict_proba(x[fold.test]), rtol=0, atol=1e-4)


def features(source: Source) -> np.ndarray:
    with Cache.open(source.path) as cache:
        return cache.features(source.rows, layers=(1,))[:, 0, 0, 0].astype(np.float64)


@pytest.mark.parametrize(
    ("card", "settings", "message"),
    [
        ("leak-ladder.sesion", {}, "no part 'sesion'.*did you mean 'session'"),
        (
            None,
            {"layers": ["concat", "weighted"], "heads": ["quick"]},
            "only heads of kind mlp learn weights of layers",
        ),
        (None, {"normalise": "speaker"}, "of whom much was heard.*allow it by name: .*scaler"),
        (None, {"compare": ["f1.angry"]}, "unknown score 'f1.angry'.*f1.anger"),
        (None, {"folds.validation": "previous", "folds.kind": "shuffle"}, "only for folds loso, speaker and clips"),
        (None, {"folds.kind": "script", "folds.scripts": 9}, "needs at least 9 scripts"),
        (None, {"paper.figures.iemocap.uar.mean": 0.5}, "unknown metric 'uar'"),
        ("pareto", {}, "whisper-tiny.en.*is not cached.*embedkit extract"),
    ],
)
def test_bad_cards_end_before_anything_trains(
    workspace: Workspace, card: str | None, settings: dict[str, Any], message: str
) -> None:
    """One line that says what is wrong and what would be right; no folder is made."""
    before = sorted(workspace.studies.iterdir())
    with pytest.raises(EmbedkitError, match=message) as caught:
        series.run_study(workspace, card, {} if "heads" in settings else {"heads": ["quick"]}, settings, jobs=1)
    assert "\n" not in str(caught.value) and sorted(workspace.studies.iterdir()) == before


def test_a_part_runs_by_itself_and_a_whole_has_no_plan(workspace: Workspace) -> None:
    """`study CARD.PART` is an ordinary study; what has parts is not planned as one."""
    doc = series.run_study(workspace, "encoders.small", name="alone", jobs=1)
    assert doc["study"] == "alone.small" and "parts" not in doc
    with pytest.raises(StudyError, match="name one of them: encoders"):
        study.resolve_study(workspace, "encoders")
    with pytest.raises(CardError, match="no card"):
        study.resolve_study(workspace, "encoder.small")


def test_a_card_of_parts_by_its_path(workspace: Workspace, tmp_path: Path) -> None:
    """A card may lie anywhere: its parts run, and are audited, as those of a named one."""
    card = tmp_path / "mine.toml"
    card.write_text('heads = ["quick"]\nlayers = [1]\n[parts.a]\nfolds.k = 4\n[parts.b]\nfolds.kind = "speaker"\n')
    assert list(series.audit_series(workspace, str(card))["parts"]) == ["a", "b"]
    assert series.run_study(workspace, str(card), jobs=1)["study"] == "mine"
    assert {p.name for p in workspace.studies.glob("mine*")} == {"mine", "mine.a", "mine.b"}
