"""Searches: the space is kept to, the best is found, a kill or a second call goes on, test rows are never seen."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from embedkit import cards
from embedkit.errors import FitError, StudyError
from embedkit.study.search import mask_password, search_parameters

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
    found = search_parameters("s", SPACE, folds, cards.Search(trials=40), storage(tmp_path))
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
        search_parameters(name, SPACE, folds, cards.Search(trials=15, seed=seed), storage(tmp_path))
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
        search_parameters("s", SPACE, falls, cards.Search(trials=6), storage(tmp_path))
    found = search_parameters("s", SPACE, folds, cards.Search(trials=6), storage(tmp_path), told.append)
    assert found.trials == 6 == len(folds.params) and told == [3, 4, 5, 6]
    assert len({p["x"] for p in folds.params}) == 6
    search_parameters("s", SPACE, folds, cards.Search(trials=6), storage(tmp_path))
    assert len(folds.params) == 6


def test_what_was_killed_does_not_count(tmp_path: Path) -> None:
    """A trial that a dead process left running is done again by another; with one process or two the points differ."""
    optuna.create_study(study_name="s", storage=storage(tmp_path), direction="maximize").ask()
    folds = Folds()
    assert (
        search_parameters("s", SPACE, folds, cards.Search(trials=4), storage(tmp_path)).trials == 4 == len(folds.params)
    )
    states = [t.state for t in optuna.load_study(study_name="s", storage=storage(tmp_path)).trials]
    assert states[0] == optuna.trial.TrialState.RUNNING and len(states) == 5


def test_a_trial_that_cannot_be_fitted_counts_and_costs_no_other(tmp_path: Path) -> None:
    """Some parameters make no head: told, never the best. Where none make one, the first reason is told."""
    folds = Folds()

    def picky(params: dict):
        if params["kind"] == "bad":
            raise FitError("singular matrix")
        yield from folds(params)

    found = search_parameters("s", SPACE, picky, cards.Search(trials=12, pruner="none"), storage(tmp_path))
    assert found.trials == 12 == found.failed + len(folds.params) and found.failed > 0
    assert found.params["kind"] != "bad"

    def never(_: dict):
        raise FitError("singular matrix")
        yield

    with pytest.raises(StudyError, match="none of 3 trials could be fitted; the first: singular matrix"):
        search_parameters("t", SPACE, never, cards.Search(trials=3), storage(tmp_path))


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """A real PostgreSQL server of its own, on a socket in a folder (whose path must be short)."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    found = shutil.which("initdb") or next(iter(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
    if found is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    bin_, folder = Path(found).resolve().parent, Path(tempfile.mkdtemp(prefix="pg-"))
    user: dict = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        user = {"user": "postgres", "group": "postgres"}
        shutil.chown(folder, "postgres")
    data = folder / "data"
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, **user}
    subprocess.run([bin_ / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"], **quiet)
    settings = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    control = [bin_ / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
    subprocess.run([*control, "-o", settings, "start"], **quiet)
    yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
    shutil.rmtree(folder)


def share(url: str, trials: int, told: Path) -> None:
    """One of several processes: searches until all together have done so many, and writes how many were its own."""
    folds = Folds()

    def slowly(params: dict):
        for score in folds(params):
            time.sleep(0.01)
            yield score

    found = search_parameters("shared", SPACE, slowly, cards.Search(trials=trials), url)
    told.write_text(json.dumps([len(folds.params), found.trials, found.value, found.params]))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_several_processes_share_a_search(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Three at once do 24 trials together (each may add the one it was at), all at different points, and agree."""
    url = request.getfixturevalue("postgresql") if kind == "postgresql" else storage(tmp_path)
    optuna.create_study(study_name="shared", storage=url, direction="maximize")  # so that none waits for the tables
    context = multiprocessing.get_context("fork")
    crew = [context.Process(target=share, args=(url, 24, tmp_path / f"{i}.json")) for i in range(3)]
    for each in crew:
        each.start()
    for each in crew:
        each.join(240)
        assert each.exitcode == 0
    own, seen, values, _ = zip(*(json.loads((tmp_path / f"{i}.json").read_text()) for i in range(3)), strict=True)
    assert all(count > 0 for count in own) and 24 <= sum(own) <= 26 and max(seen) <= 26
    trials = optuna.load_study(study_name="shared", storage=url).get_trials(deepcopy=False)
    assert len({t.params["x"] for t in trials}) == len(trials) == sum(own)
    assert max(values) == max(t.value for t in trials if t.state == optuna.trial.TrialState.COMPLETE)


@pytest.mark.slow
def test_a_study_searches_in_postgresql_and_goes_on_after_a_kill(tmp_path: Path, postgresql: str) -> None:
    """The verb with --storage: killed in its search, run again by two processes at once, in one folder: all trials are
    in the database once, both processes end with the same results, and the study's folder has no database."""
    from study_caches import make_workspace

    workspace = make_workspace(tmp_path)
    flags = f"study --head quick --trials 14 --storage {postgresql} --name s --json --jobs 1".split()
    command = [sys.executable, "-m", "embedkit", "--workspace", str(workspace.root), *flags]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = 0
    while done < 3:
        time.sleep(0.05)
        assert first.poll() is None
        studies = optuna.get_all_study_summaries(postgresql)
        done = sum(s.n_trials for s in studies if s.study_name.startswith("s/"))
    first.kill()
    first.wait()
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [each.communicate(timeout=240) for each in both]
    assert [each.returncode for each in both] == [0, 0], ends
    first_doc, second_doc = (json.loads(out) for out, _ in ends)
    assert first_doc["results"] == second_doc["results"]
    kept = json.loads((workspace.studies / "s" / "search.json").read_text())
    assert 14 <= kept[0]["trials"] <= 15
    assert not (workspace.studies / "s" / "search.db").exists()


def test_without_a_pruner_every_fold_counts(tmp_path: Path) -> None:
    """pruner = "none": five scores a trial; sampler = "random" runs too."""
    folds = Folds()
    found = search_parameters(
        "s", SPACE, folds, cards.Search(trials=12, pruner="none", sampler="random"), storage(tmp_path)
    )
    assert found.pruned == 0 and folds.scores == 60


def test_a_storage_that_cannot_be_used_is_named_without_its_password() -> None:
    """One line with the storage; the password stays out of it."""
    with pytest.raises(StudyError, match=r"storage nodb://me:\*\*\*@host/x cannot be used") as caught:
        search_parameters("s", SPACE, Folds(), cards.Search(trials=1), "nodb://me:secret@host/x")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert mask_password("sqlite:///a/b.db") == "sqlite:///a/b.db"


def test_optuna_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its log line for every trial would drown the progress."""
    search_parameters("s", SPACE, Folds(), cards.Search(trials=2), storage(tmp_path))
    assert capsys.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR


def test_a_study_searches_on_validation_and_trains_with_what_it_found(tmp_path: Path) -> None:
    """--trials: the record equals that of a study whose card holds the found parameters; results say what was tried."""
    import pandas as pd
    from study_caches import make_workspace

    from embedkit import study

    workspace = make_workspace(tmp_path)
    doc = study.run_single_study(workspace, flags={"heads": ["quick"], "trials": 6}, name="searched")
    (entry,) = doc["search"]
    assert (entry["arm"], entry["head"], entry["layer"], entry["trials"]) == ("iemocap", "quick", 2, 6)
    assert entry["validation_ua"] == pytest.approx(doc["results"][0]["validation_ua"]["mean"], abs=1e-12)
    fixed = {"heads.quick.C": entry["params"]["C"]}
    study.run_single_study(workspace, flags={"heads": ["quick"]}, settings=fixed, name="fixed")
    records = [pd.read_parquet(workspace.studies / n / "predictions.parquet") for n in ("searched", "fixed")]
    pd.testing.assert_frame_equal(*records)
    assert (workspace.studies / "searched" / "search.db").is_file()
    settings = (workspace.studies / "searched" / "study.json").read_text()
    assert "storage" not in json.loads(settings)["settings"]["search"]
    finished = study.open_study(workspace, "searched")
    assert finished.params(study.choose_best_result(finished.results)) == entry["params"]


def test_a_search_never_sees_test_rows(tmp_path: Path) -> None:
    """With the tested corpus's features replaced by noise, a search asks for the same and finds the same."""
    from study_caches import make_workspace, utterances, write_cache

    from embedkit import study

    workspace = make_workspace(tmp_path)
    flags = {"heads": ["quick"], "trials": 5, "test": "ravdess"}
    before = study.run_single_study(workspace, flags=flags, name="a")
    write_cache(tmp_path, utterances("ravdess", 3, 5, sessions=False), signal=0.0)
    after = study.run_single_study(workspace, flags=flags, name="b")
    assert before["search"] == after["search"]
    assert before["results"][0]["ua"]["mean"] > after["results"][0]["ua"]["mean"]
