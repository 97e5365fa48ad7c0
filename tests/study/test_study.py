"""Studies on small caches: what is decided, what is refused, and that the record is right to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_caches import DIM, LABELS, class_of, make_workspace, utterances, write_cache

from embedkit import heads, study
from embedkit.cache import Cache
from embedkit.classes import CLASSES
from embedkit.corpora import Utterance
from embedkit.errors import EmbedkitError, StudyError, UserError
from embedkit.study import Fit, plan_study, pool, resolve_study
from embedkit.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path)


def record(workspace: Workspace, name: str) -> pd.DataFrame:
    return pd.read_parquet(workspace.studies / name / "predictions.parquet")


def planned(workspace: Workspace, partial: bool = False, settings: dict | None = None, **flags):
    return plan_study(
        workspace, *resolve_study(workspace, flags={"heads": ["quick"], **flags}, settings=settings), partial=partial
    )


# ---------------------------------------------------------------- what is decided


def test_the_default_is_the_contracts(workspace: Workspace) -> None:
    """iemocap, no mix, recipe exact, three heads, loso, the last layer, one seed; named after corpus and folds."""
    p = plan_study(workspace, *resolve_study(workspace))
    assert (p.study.corpus, p.study.recipe, list(p.heads)) == ("iemocap", "exact", ["mlp", "logistic", "lightgbm"])
    assert [f.name for f in p.folds] == ["Ses01", "Ses02", "Ses03", "Ses04", "Ses05"]
    assert (p.layers, p.study.seeds, list(p.arms), p.folder.name) == ([2], 1, ["iemocap"], "iemocap-loso")
    assert p.views == 1 and len(p.y) == 200 and p.sources["iemocap"].left_out == {"xxx": 10}
    assert not list(workspace.studies.iterdir()) or not p.folder.exists()  # deciding writes nothing


def test_what_is_mixed_in_only_trains(workspace: Workspace) -> None:
    """--mix adds its share of each class to every training set, and to no validation or test set."""
    p = planned(workspace, mix=["crema-d=0.25", "ravdess"])
    (name, rows), own = next(iter(p.arms.items())), len(p.sources["iemocap"].rows)
    assert name == "iemocap+crema-d=0.25+ravdess" and p.folder.name == f"{name}-loso"
    assert [int(np.sum(p.y[rows] == c)) for c in CLASSES] == [25, 25, 40, 25]
    assert (rows >= own).all() and set(p.columns["corpus"][rows]) == {"crema-d", "ravdess"}
    assert all(max(f.validate.max(), f.test.max(), f.train.max()) < own for f in p.folds)


def test_test_replaces_the_test_fold_by_a_whole_corpus(workspace: Workspace) -> None:
    """--test: every fold tests on every row of the other corpus; its own test session is left out of training still."""
    p = planned(workspace, test="ravdess", mix=["crema-d"])
    assert all(set(p.columns["corpus"][f.test]) == {"ravdess"} and len(f.test) == 75 for f in p.folds)
    assert [len(f.train) for f in p.folds] == [120] * 5


def test_flags_and_settings_reach_the_cards(workspace: Workspace) -> None:
    """A flag overrides the card, --set overrides both; a head's parameter may stand without `fixed.`."""
    (workspace.studies / "mine.toml").write_text('corpus = "crema-d"\nheads = ["quick"]\n[folds]\nkind = "speaker"\n')
    asked, own = resolve_study(
        workspace,
        "mine",
        {"layer": "all", "seeds": 2, "trials": 3},
        {"heads.quick.C": 7, "heads.quick.views": "all", "heads.quick.search.C.low": 0.1, "folds.k": 4},
    )
    assert (asked.name, asked.corpus, asked.folds.kind, asked.folds.k) == ("mine", "crema-d", "speaker", 4)
    assert (asked.layers, asked.seeds, asked.search.trials) == ("all", 2, 3)
    assert (own["quick"].fixed["C"], own["quick"].views, own["quick"].search["C"].low) == (7, "all", 0.1)
    assert resolve_study(workspace, "mine", name="yours")[0].name == "yours"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("flags", "settings", "words"),
    [
        ({"corpus": "crema-d"}, {}, "--folds speaker"),
        ({"corpus": "iemocpa"}, {}, "did you mean 'iemocap'"),
        ({"recipe": "plain"}, {}, "embedkit extract --corpus iemocap --recipe plain$"),
        ({"recipe": "exat"}, {}, "did you mean 'exact'"),
        ({"encoder": "a/b"}, {}, "embedkit extract --corpus iemocap --encoder a/b$"),
        ({"heads": ["logitsic"]}, {}, "did you mean 'logistic'"),
        ({"heads": ["quick", "quick"]}, {}, "2 times"),
        ({"layer": "9"}, {}, "layers 0 to 2"),
        ({"layer": "x"}, {}, "--layer x"),
        ({"folds": "sessions"}, {}, "folds.kind"),
        ({"mix": ["crema-d=2"]}, {}, "less than or equal to 1"),
        ({"mix": ["crema-d=much"]}, {}, "NAME=FRACTION"),
        ({"mix": ["iemocap"]}, {}, "cannot be mixed"),
        ({"mix": ["ravdess"], "test": "ravdess"}, {}, "cannot be mixed"),
        ({"test": "iemocap", "folds": "shuffle"}, {}, "own corpus"),
        ({}, {"labels.iemocpa": {"anger": ["ang"]}}, "did you mean 'iemocap'"),
        ({}, {"heads.quick.c": 1}, "unknown parameter 'fixed.c'"),
        ({}, {"heads.mlp.lr": 1}, "no head of this study; known: quick"),
        ({}, {"heads.quick": 1}, "heads.NAME.PARAMETER"),
        ({}, {"heads.quick.C": -1}, "heads/quick.toml"),
        ({}, {"fold.k": 4}, "did you mean 'folds'"),
        ({}, {"folds.k": 2}, "folds.k"),
        ({}, {"layers": []}, "layers"),
        ({"heads": ["net"]}, {"views": 3}, "holds 1 augmented views; embedkit extract --corpus iemocap --views 3"),
        ({}, {"labels.iemocap": {"anger": ["ang"]}}, "at least two classes"),
        ({}, {"labels.iemocap": {"anger": ["ang"], "sadness": ["ang"]}}, "one class"),
        ({}, {"labels.iemocap": {"anger": ["zzz"]}}, "no row is encoded whose label is one of zzz"),
        ({}, {"name": "../out"}, "leave out /"),
    ],
)
def test_a_study_that_cannot_be_is_refused_in_one_line(workspace: Workspace, flags, settings, words) -> None:
    """Before anything trains or is written, with what was found and what to do."""
    with pytest.raises(UserError, match=words) as caught:
        study.run_single_study(workspace, flags={"heads": ["quick"], **flags}, settings=settings)
    assert "\n" not in str(caught.value) and not [p for p in workspace.studies.iterdir() if p.is_dir()]


def test_an_incomplete_cache_wants_partial(workspace: Workspace) -> None:
    """Rows that are not encoded are counted and refused, with the command; --partial takes the rest and says so."""
    path = next(workspace.cache.rglob("iemocap.h5"))
    with Cache.open(path, write=True) as cache:
        cache._data["done"][:3] = 0
        cache.skip(5, "silent")
    with pytest.raises(StudyError, match="3 of 200 rows are not encoded; embedkit extract --corpus iemocap, or --part"):
        planned(workspace)
    p = planned(workspace, partial=True)
    assert len(p.y) == 196
    assert p.notes == [
        "iemocap: 3 rows are not encoded yet and are left out (--partial)",
        "iemocap: 1 rows were skipped at extraction and are left out",
    ]


def test_caches_of_another_recipe_are_refused(workspace: Workspace) -> None:
    """A card that was changed after the pass, and a mix that was encoded otherwise, are named with what differs."""
    card = workspace.cache / "exact.toml"
    before = card.read_text()
    card.write_text('summary = "other"\n[sound]\ntrim_db = 30.0\n')
    with pytest.raises(StudyError, match=r"sound.trim_db: 30.0 here, 20.0 in the file.*--fresh"):
        planned(workspace)
    write_cache(workspace.root, utterances("crema-d", 4, 10))
    card.write_text(before)
    with pytest.raises(StudyError, match="not of recipe 'exact'"):
        planned(workspace, mix=["crema-d"])
    write_cache(workspace.root, utterances("crema-d", 4, 10), random=True)
    with pytest.raises(StudyError, match=r"iemocap and crema-d are cached with different settings .random"):
        planned(workspace, mix=["crema-d"])


def test_labels_beyond_the_cached_ones_are_refused(workspace: Workspace) -> None:
    """A cache of the default label map's rows has none of the others: an own map that wants them is told what to do."""
    write_cache(workspace.root, utterances("iemocap", 10, 4), labels="mapped")
    own = {"labels.iemocap": {"anger": ["ang", "fru"], "sadness": ["sad"]}}
    with pytest.raises(StudyError, match=r"none labelled fru; .* --corpus iemocap --labels all --fresh"):
        planned(workspace, settings=own)
    assert len(planned(workspace, settings={"labels.iemocap": {"anger": ["ang"], "sadness": ["sad"]}}).y) == 80


def test_a_class_without_a_training_row_is_refused(workspace: Workspace) -> None:
    """A class that only one session has cannot be tested there: it says which fold, arm and class."""
    rows = [u for u in utterances("iemocap", 6, 4) if u.label != "ang" or u.session == "Ses02"]
    write_cache(workspace.root, rows)
    with pytest.raises(StudyError, match="fold Ses01, arm iemocap: no training row of anger"):
        planned(workspace)


def test_a_speaker_on_both_sides_is_refused(workspace: Workspace) -> None:
    """A speaker in two sessions would be trained on and tested: loso says so and names the way out."""
    rows = [Utterance(u.id, u.file, u.label, "iemocap:1", u.session) for u in utterances("iemocap", 6, 4)]
    write_cache(workspace.root, rows)
    with pytest.raises(StudyError, match=r"folds loso leak speakers: 1 of 1 tested .*iemocap:1.*--folds speaker"):
        study.run_single_study(workspace, flags={"heads": ["quick"]})
    assert not (workspace.studies / "iemocap-loso").exists()


# ---------------------------------------------------------------- what comes out


def test_the_record_equals_scikit_learn_fold_by_fold(workspace: Workspace) -> None:
    """Features, folds and probabilities of a study are those of a loop over scikit-learn, to 1e-6."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    doc = study.run_single_study(workspace, flags={"heads": ["quick"], "layer": "1", "mix": ["crema-d"]}, name="s")
    with Cache.open(next(workspace.cache.rglob("iemocap.h5"))) as cache:
        own, x = cache.read_utterances(), cache.features(layers=(1,))[:, 0, 0, 0].astype(np.float64)
    with Cache.open(next(workspace.cache.rglob("crema-d.h5"))) as cache:
        other, z = cache.read_utterances(), cache.features(layers=(1,))[:, 0, 0, 0].astype(np.float64)
    y, w = (np.array([CLASSES[class_of(u.label)] if u.label != "xxx" else "" for u in us]) for us in (own, other))
    session, got = np.array([int(u.session[-1]) for u in own]), record(workspace, "s").set_index("utterance")
    assert len(got) == 2 * np.sum(y != "") and set(got["corpus"]) == {"iemocap"}
    right = []
    for s in range(1, 6):
        train = (y != "") & (session != s) & (session != s % 5 + 1)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, class_weight="balanced"))
        model.fit(np.concatenate([x[train], z[w != ""]]), np.concatenate([y[train], w[w != ""]]))
        for split, rows in (("test", session == s), ("validate", session == s % 5 + 1)):
            rows &= y != ""
            part = got[(got["fold"] == f"Ses0{s}") & (got["split"] == split)]
            part = part.loc[[u.id for u, here in zip(own, rows, strict=True) if here]]
            assert list(part["label"]) == list(y[rows])
            np.testing.assert_allclose(part[[f"p_{c}" for c in CLASSES]], model.predict_proba(x[rows]), atol=1e-6)
            right += [model.score(x[rows], y[rows])] if split == "test" else []
    assert doc["results"][0]["wa"]["folds"] == pytest.approx(right, abs=1e-12)


@pytest.mark.slow
def test_jobs_give_the_same_bits(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process and two give the same record, byte by byte, and the same kept heads."""
    flags = {"heads": ["net", "quick"], "seeds": 2}
    study.run_single_study(workspace, flags=flags, name="one", jobs=1)
    monkeypatch.setattr(pool, "POOL_PAYS", -1.0)
    study.run_single_study(workspace, flags=flags, name="two", jobs=2)
    one, two = (workspace.studies / name for name in ("one", "two"))
    assert (one / "predictions.parquet").read_bytes() == (two / "predictions.parquet").read_bytes()
    kept = sorted(p.relative_to(one) for p in (one / "heads").rglob("*.safetensors"))
    assert len(kept) == 5 and all((one / p).read_bytes() == (two / p).read_bytes() for p in kept)


def test_a_finished_unit_is_not_trained_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study that failed on the way goes on with what is missing, and ends as one that was never stopped."""
    flags, trained = {"heads": ["quick"]}, []
    fit = study.FoldTrainer.train

    def counted(self: study.FoldTrainer, unit, params) -> None:
        trained.append(unit.fold)
        if trained == [0, 1, 2]:
            raise EmbedkitError("the machine went down")
        fit(self, unit, params)

    monkeypatch.setattr(study.FoldTrainer, "train", counted)
    with pytest.raises(EmbedkitError, match="went down"):
        study.run_single_study(workspace, flags=flags, name="stopped")
    stopped = study.run_single_study(workspace, flags=flags, name="stopped")
    assert trained == [0, 1, 2, 2, 3, 4]
    whole = study.run_single_study(workspace, flags=flags, name="whole")
    assert stopped["results"] == whole["results"]
    pd.testing.assert_frame_equal(record(workspace, "stopped"), record(workspace, "whole"))
    study.run_single_study(workspace, flags=flags, name="whole")
    assert len(trained) == 11  # a finished study trains nothing


SLOWLY = """
import os, sys, time
from pathlib import Path
from embedkit import study
from embedkit.study import pool
from embedkit.workspace import Workspace

train = study.FoldTrainer.train

def slow(self, *task):  # the workers import this script too
    train(self, *task)
    (self.plan.folder.parent.parent / f"{os.getpid()}.trained").touch()
    time.sleep(0.5)

study.FoldTrainer.train, pool.POOL_PAYS = slow, -1.0
if __name__ == "__main__":
    flags = {"heads": ["quick"], "seeds": 8}
    study.run_single_study(Workspace(Path(sys.argv[1])), flags=flags, name="killed", jobs=2)
"""


@pytest.mark.slow
def test_a_kill_costs_the_units_in_flight(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL on a running study once it and its worker have trained: both end, the lock falls, what was done is not
    trained again, and the rest gives the record of a study that was never stopped."""
    (workspace.root / "go.py").write_text(SLOWLY)
    running = subprocess.Popen([sys.executable, workspace.root / "go.py", workspace.root], start_new_session=True)
    parts = workspace.studies / "killed" / "parts"
    _until(lambda: len(list(workspace.root.glob("*.trained"))) > 1 or running.poll() is not None)
    assert (workspace.root / f"{running.pid}.trained").exists()
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    _until(lambda: not _alive(running.pid))  # the workers notice
    there = len(list(parts.rglob("*.parquet")))
    assert 1 < there < 40

    trained, train = [], study.FoldTrainer.train
    monkeypatch.setattr(study.FoldTrainer, "train", lambda self, *task: (trained.append(task), train(self, *task)))
    for name, fits in (("killed", 40 - there), ("whole", 40)):
        study.run_single_study(workspace, flags={"heads": ["quick"], "seeds": 8}, name=name, jobs=1)
        assert len(trained) == fits
        trained.clear()
    bits = [(workspace.studies / name / "predictions.parquet").read_bytes() for name in ("killed", "whole")]
    assert bits[0] == bits[1]


def _until(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _alive(group: int) -> bool:
    """Whether any process of a group still runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_other_settings_under_a_name_are_refused(workspace: Workspace) -> None:
    """Other parameters, and other rows in the cache, are named; the first study stays as it is."""
    study.run_single_study(workspace, flags={"heads": ["quick"]}, name="s")
    before = record(workspace, "s")
    with pytest.raises(StudyError, match=r"heads.quick.fixed.C: 0.05 there, 1 here.*--name"):
        study.run_single_study(workspace, flags={"heads": ["quick"]}, settings={"heads.quick.C": 1}, name="s")
    write_cache(workspace.root, utterances("iemocap", 10, 5))
    with pytest.raises(StudyError, match=r"rows.iemocap.count: 200 there, 250 here"):
        study.run_single_study(workspace, flags={"heads": ["quick"]}, name="s")
    pd.testing.assert_frame_equal(record(workspace, "s"), before)


def test_one_process_a_study(workspace: Workspace) -> None:
    """A second process is told that the study is being worked on."""
    from filelock import FileLock

    (workspace.studies / "s").mkdir()
    with FileLock(workspace.studies / "s" / ".lock"), pytest.raises(StudyError, match="another process"):
        study.run_single_study(workspace, flags={"heads": ["quick"]}, name="s")


def test_layers_statistics_and_random_weights(workspace: Workspace) -> None:
    """--layer all: a result each, the clearer layer better; mean and std double the dim; random weights are said."""
    write_cache(workspace.root, utterances("iemocap", 10, 4), random=True)
    doc = study.run_single_study(
        workspace, flags={"heads": ["quick"], "layer": "all"}, settings={"stats": ["mean", "std"]}, name="s"
    )
    assert [r["layer"] for r in doc["results"]] == [0, 1, 2]
    assert doc["results"][2]["ua"]["mean"] > doc["results"][0]["ua"]["mean"]
    assert doc["weights"] == "random" and "weights: random" in doc["table"]
    finished = study.open_study(workspace)
    head = finished.load_fold_head(study.ResultChoice("iemocap", "quick", 1), "Ses03")
    assert head.n_features_in_ == 2 * DIM
    saved = json.loads((workspace.studies / "s" / "results.json").read_text())
    assert saved == {k: v for k, v in doc.items() if k != "table"}
    assert "weights: random" in (workspace.studies / "s" / "report.md").read_text()
    assert (
        json.loads((workspace.studies / "s" / "study.json").read_text())["settings"]["encoder"]["weights"] == "random"
    )


def test_shuffle_says_that_it_leaks(workspace: Workspace) -> None:
    """The random split runs, has no standard deviation, and tells how many speakers leak."""
    doc = study.run_single_study(workspace, flags={"heads": ["quick"], "folds": "shuffle"})
    assert doc["study"] == "iemocap-shuffle" and doc["results"][0]["ua"]["sd"] is None
    assert any("leak speakers" in note for note in doc["notes"]) and "leak speakers" in doc["table"]


def test_the_views_go_to_the_heads_that_want_them(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """`draw` and `all` get the augmented views of the training rows, `clean` none; nothing else is read."""
    seen, read = {}, []
    build, features = heads.build, Cache.features

    def spied(card, seed=0):
        estimator = build(card, seed)
        fit = estimator.fit

        def fit_and_tell(x, y, *, views=None, validation=None):
            seen.setdefault(card.name, None if views is None else (views.shape, bool(np.isfinite(views).all())))
            assert not np.isin(x[:, 0], validation[0][:, 0]).all()
            return fit(x, y, views=views, validation=validation)

        estimator.fit = fit_and_tell
        return estimator

    def told(self, rows=None, *, views=(0,), layers=(-1,), stats=(0,)):
        read.append((tuple(views), tuple(layers), tuple(stats)))
        return features(self, rows, views=views, layers=layers, stats=stats)

    monkeypatch.setattr(heads, "build", spied)
    monkeypatch.setattr(heads, "save", lambda *_: None)
    monkeypatch.setattr(Cache, "features", told)
    study.run_single_study(workspace, flags={"heads": ["net", "quick"]}, name="s", jobs=1)
    assert seen == {"net": ((120, 1, DIM), True), "quick": None}
    assert set(read) == {((0, 1), (2,), (0,)), ((0,), (2,), (0,))}


def test_an_estimator_that_fails_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says which fit failed and why, not a traceback."""

    def broken(*_, **__):
        raise ValueError("no such\n luck")

    monkeypatch.setattr("embedkit.heads.logistic.Logistic.fit", broken)
    with pytest.raises(EmbedkitError, match="iemocap/layer-2/quick, seed 0, fold 1: ValueError: no such luck"):
        study.run_single_study(workspace, flags={"heads": ["quick"]}, name="s", jobs=1)


# ---------------------------------------------------------------- for export


def test_a_finished_study_opens_with_its_heads(workspace: Workspace) -> None:
    """The newest finished one; its fold heads give the record's test probabilities; the best is by validation UA."""
    study.run_single_study(workspace, flags={"heads": ["net", "quick"], "seeds": 2, "mix": ["crema-d=0.5"]}, name="a")
    finished = study.open_study(workspace)
    choice = study.choose_best_result(finished.results)
    by_hand = max(finished.results, key=lambda r: r["validation_ua"]["mean"])
    assert choice == (by_hand["arm"], by_hand["head"], by_hand["layer"])
    assert study.choose_best_result(finished.results, head="quick").head == "quick"
    with pytest.raises(StudyError, match="no result with head 'quik'; did you mean 'quick'"):
        study.choose_best_result(finished.results, head="quik", arm=choice.arm)
    bench, names = study.FoldTrainer(finished.plan), [fold.name for fold in finished.plan.folds]
    place = {u: i for i, u in enumerate(finished.plan.columns["ids"])}
    for head in ("net", "quick"):
        choice = study.ResultChoice(choice.arm, head, 2)
        rows = finished.read_test_rows(choice)
        assert len(rows) == 200 and set(rows["seed"]) == {0}
        for fold, part in rows.groupby("fold"):
            unit = Fit(choice.arm, 2, head, 0, names.index(fold))
            p = bench.probabilities(
                finished.load_fold_head(choice, fold), unit, np.array([place[u] for u in part["utterance"]])
            )
            np.testing.assert_allclose(part[[f"p_{c}" for c in CLASSES]], p, atol=1e-6)


def test_the_head_for_use_is_refitted_on_all_rows(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of the corpus and of the mix, no validation, epochs = the median of the folds' best; kept."""
    study.run_single_study(workspace, flags={"heads": ["net"], "mix": ["crema-d=0.5"]}, name="a")
    finished = study.open_study(workspace, "a")
    units = json.loads((workspace.studies / "a" / "units.json").read_text())
    fits, fit = [], study.FoldTrainer.fit

    def told(self, unit, params, validate):
        fits.append((params, len(self.plan.training_rows(unit.fold, unit.arm)), validate))
        return fit(self, unit, params, validate)

    monkeypatch.setattr(study.FoldTrainer, "fit", told)
    choice = study.choose_best_result(finished.results)
    head = finished.refit(choice)
    assert fits == [({"epochs": round(np.median([u["best"] for u in units]))}, 200 + 80, None)]
    x = np.random.default_rng(0).normal(size=(5, DIM)).astype(np.float32)
    np.testing.assert_allclose(finished.refit(choice).predict_proba(x), head.predict_proba(x), atol=1e-6)
    assert len(fits) == 1


def test_a_study_that_is_not_there_is_named(workspace: Workspace) -> None:
    """None at all, a misspelt name, one that was begun and not finished, and one whose cache has changed."""
    with pytest.raises(StudyError, match="no finished study"):
        study.open_study(workspace)
    study.run_single_study(workspace, flags={"heads": ["quick"]}, name="mine")
    with pytest.raises(StudyError, match="did you mean 'mine'"):
        study.open_study(workspace, "mien")
    (workspace.studies / "half").mkdir()
    (workspace.studies / "half" / "study.json").write_text("{}")
    with pytest.raises(StudyError, match="'half' is not finished"):
        study.open_study(workspace, "half")
    write_cache(workspace.root, utterances("iemocap", 10, 5))
    with pytest.raises(StudyError, match=r"has changed since .rows.iemocap"):
        study.open_study(workspace, "mine")


def test_a_manifests_corpus_needs_no_reader(workspace: Workspace) -> None:
    """A corpus of any name that came from a manifest: class names are its labels."""
    rows = [
        Utterance(f"{s}-{c}-{i}", "a.wav", c, f"mine:{s}")
        for s in range(4)
        for c in (*CLASSES, "bored")
        for i in range(3)
    ]
    LABELS.setdefault("mine", [])
    write_cache(
        workspace.root, [Utterance(u.id, u.file, "xxx" if u.label == "bored" else u.label, u.speaker) for u in rows]
    )
    doc = study.run_single_study(workspace, flags={"corpus": "mine", "folds": "speaker", "heads": ["quick"]})
    assert doc["rows"]["mine"]["classes"] == dict.fromkeys(CLASSES, 12) and doc["rows"]["mine"]["left_out"] == {
        "xxx": 12
    }
    assert doc["folds"]["names"] == ["1", "2", "3", "4"]
