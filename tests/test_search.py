"""Searches: the space is kept to, the best is found, a kill or a second call goes on, test rows are never seen."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest

from embedkit import cards
from embedkit.errors import StudyError
from embedkit.search import search, without_password

SPACE = {
    "x": cards.FloatRange(type="float", low=1e-3, high=10.0, log=True),
    "n": cards.IntRange(type="int", low=4, high=64, step=4),
    "kind": cards.Choice(type="choice", of=["good", "bad", True]),
}


class Folds:
    """Five folds whose scores peak at x = 1, kind = "good"; counts what was asked."""

    def __init__(self) -> None:
        self.params: list[dict] = []
        self.scores = 0

    def __call__(self, params: dict):
        self.params.append(params)
        for fold in range(5):
            self.scores += 1
            yield 0.8 + 0.01 * fold - 0.05 * abs(params["x"] - 1) - 0.2 * (params["kind"] != "good")


def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'search.db'}"


def test_it_finds_the_peak_and_prunes_the_hopeless(tmp_path: Path) -> None:
    """The best of 40 trials is near the peak, all lie in the space, and pruned trials end before their last fold."""
    folds = Folds()
    found = search("s", SPACE, folds, cards.Search(trials=40), storage(tmp_path))
    assert found.trials == 40 == len(folds.params) and 0 < found.pruned < 40
    assert folds.scores < 5 * 40
    assert found.params["kind"] == "good" and 0.3 < found.params["x"] < 3
    assert found.value == pytest.approx(0.82 - 0.05 * abs(found.params["x"] - 1))
    for p in folds.params:
        assert 1e-3 <= p["x"] <= 10 and p["n"] in range(4, 65, 4) and p["kind"] in ("good", "bad", True)


def test_the_same_seed_gives_the_same_trials(tmp_path: Path) -> None:
    """Two searches from the start ask for the same parameters, another seed for others."""
    asked = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        folds = Folds()
        search(name, SPACE, folds, cards.Search(trials=15, seed=seed), storage(tmp_path))
        asked.append(folds.params)
    assert asked[0] == asked[1] != asked[2]


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """After a crash in a trial, only what is missing is done, with new points; a finished search does nothing."""
    folds, told = Folds(), []

    def falls(params: dict):
        if len(folds.params) == 3:
            raise MemoryError
        return folds(params)

    with pytest.raises(MemoryError):
        search("s", SPACE, falls, cards.Search(trials=6), storage(tmp_path))
    found = search("s", SPACE, folds, cards.Search(trials=6), storage(tmp_path), told.append)
    assert found.trials == 6 == len(folds.params) and told == [3, 4, 5, 6]
    assert len({p["x"] for p in folds.params}) == 6
    search("s", SPACE, folds, cards.Search(trials=6), storage(tmp_path))
    assert len(folds.params) == 6


def test_without_a_pruner_every_fold_counts(tmp_path: Path) -> None:
    """pruner = "none": five scores a trial; sampler = "random" runs too."""
    folds = Folds()
    found = search("s", SPACE, folds, cards.Search(trials=12, pruner="none", sampler="random"), storage(tmp_path))
    assert found.pruned == 0 and folds.scores == 60


def test_a_storage_that_cannot_be_used_is_named_without_its_password() -> None:
    """One line with the storage; the password stays out of it."""
    with pytest.raises(StudyError, match=r"storage nodb://me:\*\*\*@host/x cannot be used") as caught:
        search("s", SPACE, Folds(), cards.Search(trials=1), "nodb://me:secret@host/x")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert without_password("sqlite:///a/b.db") == "sqlite:///a/b.db"


def test_optuna_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its log line for every trial would drown the progress."""
    search("s", SPACE, Folds(), cards.Search(trials=2), storage(tmp_path))
    assert capsys.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR


def test_a_study_searches_on_validation_and_trains_with_what_it_found(tmp_path: Path) -> None:
    """--trials: the record equals that of a study whose card holds the found parameters; results say what was tried."""
    import pandas as pd
    from study_caches import make_workspace

    from embedkit import study

    workspace = make_workspace(tmp_path)
    doc = study.run(workspace, flags={"heads": ["quick"], "trials": 6}, name="searched")
    (entry,) = doc["search"]
    assert (entry["arm"], entry["head"], entry["layer"], entry["trials"]) == ("iemocap", "quick", 2, 6)
    assert entry["validation_ua"] == pytest.approx(doc["results"][0]["validation_ua"]["mean"], abs=1e-12)
    fixed = {"heads.quick.C": entry["params"]["C"]}
    study.run(workspace, flags={"heads": ["quick"]}, settings=fixed, name="fixed")
    records = [pd.read_parquet(workspace.studies / n / "predictions.parquet") for n in ("searched", "fixed")]
    pd.testing.assert_frame_equal(*records)
    assert (workspace.studies / "searched" / "search.db").is_file()
    settings = (workspace.studies / "searched" / "study.json").read_text()
    assert "storage" not in json.loads(settings)["settings"]["search"]
    finished = study.open_study(workspace, "searched")
    assert finished.params(study.best(finished.results)) == entry["params"]


def test_a_search_never_sees_test_rows(tmp_path: Path) -> None:
    """With the tested corpus's features replaced by noise, a search asks for the same and finds the same."""
    from study_caches import make_workspace, utterances, write_cache

    from embedkit import study

    workspace = make_workspace(tmp_path)
    flags = {"heads": ["quick"], "trials": 5, "test": "ravdess"}
    before = study.run(workspace, flags=flags, name="a")
    write_cache(tmp_path, utterances("ravdess", 3, 5, sessions=False), signal=0.0)
    after = study.run(workspace, flags=flags, name="b")
    assert before["search"] == after["search"]
    assert before["results"][0]["ua"]["mean"] > after["results"][0]["ua"]["mean"]
