"""The command line as a user meets it: documents, exit codes, one-line errors, and the path with its own words."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from encoders_fixtures import tiny_hubert

from embedkit import cli, refit, synth
from embedkit.workspace import init_workspace


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    try:
        code = cli.run([str(a) for a in argv])
    except SystemExit as end:  # argparse's own way out
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def document(capsys: pytest.CaptureFixture[str], *argv: object) -> Any:
    code, out, err = run(capsys, *argv, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose settings know a small synthetic corpus in IEMOCAP's layout; its recipes' encoder is tiny."""
    root = init_workspace(tmp_path_factory.mktemp("home")).root
    synth.make_iemocap(root / "corpus", turns=60)
    synth.make_voice_note(root / "note.wav", seconds=20)
    (root / "embedkit.toml").write_text('[corpora]\niemocap = "corpus"\n')
    encoder = tiny_hubert(root / "encoder" / "tiny")
    for card in (root / "cache").glob("*.toml"):
        card.write_text(card.read_text().replace("ntu-spml/distilhubert", str(encoder)))
    return root


@pytest.mark.slow
def test_the_three_verbs_work_exactly_so(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """extract --corpus iemocap, study --folds loso, stitch-export, predict: no more flags once the place is known."""
    here = ("--workspace", home)
    made = document(capsys, *here, "extract", "--corpus", "iemocap")
    assert made["done"] == made["rows"] > 40 and made["todo"] == 0 and made["skipped"] == []
    assert made["weights"] == "random" and Path(made["cache"]).is_file()
    again = document(capsys, *here, "extract", "--corpus", "iemocap")
    assert (again["done"], again["todo"]) == (made["rows"], 0)

    quick = ("--set", "heads.mlp.epochs=2", "--set", "heads.lightgbm.n_estimators=10")
    study = document(capsys, *here, "study", "--folds", "loso", *quick)
    assert study["study"] == "iemocap-loso" and study["weights"] == "random"
    assert [r["head"] for r in study["results"]] == ["mlp", "logistic", "lightgbm"]
    for result in study["results"]:
        assert set(result) >= {"arm", "head", "layer", "encoder", "wa", "ua", "macro_f1", "f1"}
        assert set(result["ua"]) >= {"mean", "sd", "folds", "pooled"} and len(result["ua"]["folds"]) == 5
    code, out, _ = run(capsys, *here, "study", "--folds", "loso", *quick)
    assert code == 0 and "weights: random" in out and "lightgbm" in out
    code, out, err = run(capsys, *here, "study", "--folds", "loso", *quick, "--set", "heads.mlp.epochs=3", "--json")
    assert (code, out) == (2, "") and "epochs" in err and "--name" in err

    monkeypatch.setattr(refit, "stitch_export", partial(refit.stitch_export, clips=8))
    model = document(capsys, *here, "stitch-export")
    assert Path(model["model"]).parent == home / "studies" / "iemocap-loso" and model["certificate"]
    said = document(capsys, *here, "predict", model["model"], home / "note.wav")["files"][0]
    assert set(said) == {"file", "label", "probabilities", "windows"} and said["windows"]
    score = document(capsys, *here, "evaluate", model["model"], "--corpus", "iemocap")
    assert score["rows"] == made["rows"] and 0 <= score["ua"] <= 1

    rows = document(capsys, *here, "cache", "ls")
    assert [r["corpus"] for r in rows] == ["iemocap"] and rows[0]["weights"] == "random"
    checked = document(capsys, *here, "cache", "verify", made["cache"])
    assert checked["problems"] == [] and checked["recordings"] == made["rows"]

    code, out, err = run(capsys, *here, "predict", model["model"], home / "no.wav", home / "note.wav", "--json")
    files = json.loads(out)["files"]
    assert code == 1 and "error" in files[0] and files[1]["label"], "one bad file does not stop the others"


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["extract", "--corpus", "iemocpa"], 2, "iemocpa"),
        (["extract", "--corpus", "crema-d"], 2, "EMBEDKIT_CREMA_D"),
        (["extract", "--corpus", "ravdess", "--root", "nowhere"], 2, "nowhere"),
        (["extract", "--recipe", "exat"], 2, "did you mean 'exact'"),
        (["extract", "--set", "sound.trimdb=3"], 2, "did you mean 'trim_db'"),
        (["extract", "--corpus", "ravdess", "--root", ".", "--encoder", "nowhere/at/all"], 2, "no such folder"),
        (["study", "--head", "mpl"], 2, "did you mean 'mlp'"),
        (["study", "--folds", "los"], 2, "loso"),
        (["study", "--set", "folds.kk=3"], 2, "did you mean 'k'"),
        (["study", "--corpus", "ravdess"], 2, "embedkit extract --corpus ravdess"),
        (["study", "no-such-card"], 2, "no card 'no-such-card'"),
        (["stitch-export"], 2, "no finished study"),
        (["predict", "no.onnx", "a.wav"], 2, "no.onnx"),
        (["cache", "info", "no.h5"], 2, "no such cache"),
        (["corpora", "nowhere"], 2, "nowhere"),
        (["--workspace", "/", "cache", "ls"], 2, "embedkit init"),
        (["no-such-verb"], 2, "extract"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    argv: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("IEMOCAP", "CREMA_D", "RAVDESS"):
        monkeypatch.delenv(f"EMBEDKIT_{name}", raising=False)
    root = init_workspace(tmp_path).root
    for card in (root / "cache").glob("*.toml"):
        card.write_text(card.read_text().replace("ntu-spml/distilhubert", str(tiny_hubert(root / "tiny"))))
    monkeypatch.chdir(root)
    got, out, err = run(capsys, *argv, *([] if argv == ["no-such-verb"] else ["--json"]))
    assert (got, out) == (code, ""), err
    assert said in err and "Traceback" not in err
    assert argv == ["no-such-verb"] or err.count("\n") == 1, "one line"


def test_an_unexpected_fault_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("embedkit.workspace.Workspace.find", broken)
    code, out, err = run(capsys, "cache", "ls", "--json")
    assert (code, out) == (1, "") and "RuntimeError: two lines" in err and err.count("\n") == 1


def test_python_m_embedkit_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "embedkit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("embedkit ")


@pytest.mark.parametrize("verb", [[], ["extract"], ["cache"], ["study"], ["stitch-export"], ["predict"], ["corpora"]])
def test_every_verb_has_help(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *verb, "--help")
    assert code == 0 and "usage: embedkit" in out
