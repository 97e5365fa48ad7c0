"""`import embedkit`: what it offers, the example of its docstring, and `load`."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from study_caches import LABELS, make_workspace, utterances, write_cache

import embedkit
from embedkit.cache import Cache
from embedkit.classes import CLASSES
from embedkit.errors import CacheError, CardError, CorpusError
from embedkit.workspace import Workspace, init_workspace

PATH = "cache/exact/ntu-spml--distilhubert/ravdess.h5"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("library")
    space = make_workspace(root)
    write_cache(root, utterances("ravdess", 4, 5, sessions=False))
    return space


def test_every_name_is_there() -> None:
    """What `__all__` offers can be had, and `dir` shows it."""
    for name in embedkit.__all__:
        assert getattr(embedkit, name) is not None
    assert {*embedkit.__all__} - {"__version__"} == {*dir(embedkit)}
    with pytest.raises(AttributeError, match="no attribute 'lode'; there are Cache, "):
        embedkit.lode  # noqa: B018


def test_the_example_runs(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The docstring of `embedkit`, in a workspace whose cache holds RAVDESS."""
    monkeypatch.chdir(workspace.root)
    result = doctest.testmod(embedkit)
    assert result.attempted >= 6 and not result.failed


def test_load_gives_the_rows_of_the_cache(workspace: Workspace) -> None:
    """By name and by path alike: the clean view's mean of the last layer, the four classes, speakers as groups."""
    X, y, groups = embedkit.load("ravdess", workspace=str(workspace.root))
    assert X.dtype == np.float32 and X.shape == (4 * 5 * 5, 6)
    assert set(y) == set(CLASSES) and set(groups) == {f"ravdess:{i}" for i in (1, 2, 3, 4)}
    with Cache.open(workspace.root / PATH) as cache:
        rows = np.flatnonzero(cache.metadata()["label"] != "xxx")
        np.testing.assert_array_equal(X, cache.features(rows, layers=(2,))[:, 0, 0, 0])
        both = cache.features(rows, views=(1,), layers=(0,), stats=(0, 1))[:, 0, 0].reshape(len(rows), -1)
    for again in (workspace.root / PATH, str(workspace.root / PATH)):
        np.testing.assert_array_equal(embedkit.load(again)[0], X)
    deep = embedkit.load("ravdess", layer=0, view=1, stat=["mean", "std"], workspace=workspace)[0]
    np.testing.assert_array_equal(deep, both.astype(np.float32))


def test_classes(workspace: Workspace) -> None:
    """Some of the map's classes, the corpus's own labels, or any map."""
    two = embedkit.load("ravdess", classes=["sadness", "anger"], workspace=workspace)[1]
    assert set(two) == {"anger", "sadness"} and len(two) == 40
    assert set(embedkit.load("ravdess", classes="sadness", workspace=workspace)[1]) == {"sadness"}
    assert set(embedkit.load("ravdess", classes="own", workspace=workspace)[1]) == {*LABELS["ravdess"], "xxx"}
    loud = embedkit.load("ravdess", classes={"loud": ["angry", "happy"], "soft": ["sad"]}, workspace=workspace)[1]
    assert {name: int((loud == name).sum()) for name in ("loud", "soft")} == {"loud": 40, "soft": 20}


def test_a_missing_cache_lists_those_that_are_there(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"no such cache; make it with: embedkit extract --corpus ravdess") as error:
        embedkit.load("ravdess", recipe="plain", workspace=workspace)
    assert "--recipe exact" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(CacheError, match="make it with: embedkit extract --corpus ravdess"):
        embedkit.load("ravdess", workspace=init_workspace(tmp_path))


def test_mistakes_end_in_one_line(workspace: Workspace) -> None:
    with pytest.raises(CacheError, match=r"layer 7 .* holds layers 0 to 2"):
        embedkit.load("ravdess", layer=7, workspace=workspace)
    with pytest.raises(CacheError, match="stat 'means'; did you mean 'mean'"):
        embedkit.load("ravdess", stat="means", workspace=workspace)
    with pytest.raises(CorpusError, match="class 'angre' of ravdess; did you mean 'anger'"):
        embedkit.load("ravdess", classes=["angre"], workspace=workspace)
    with pytest.raises(CorpusError, match="no encoded utterance is labelled furious"):
        embedkit.load("ravdess", classes={"rage": ["furious"]}, workspace=workspace)
    with pytest.raises(CardError, match="no card 'exakt'"):
        embedkit.load("ravdess", recipe="exakt", workspace=workspace)


USER = """
import embedkit
prediction = embedkit.Predictor("model.onnx").predict("voice-note.wav")
reveal_type(prediction)
X, y, groups = embedkit.load("ravdess")
reveal_type(X)
reveal_type(embedkit.run_study("."))
reveal_type(embedkit.extract_corpus(".", "ravdess"))
reveal_type(embedkit.stitch_export("."))
embedkit.lode
"""


@pytest.mark.slow
def test_a_users_mypy_sees_real_types(tmp_path: Path) -> None:
    """No answer is Any, and a misspelt name is an error."""
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", sys.executable, "user.py"]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    revealed = [line.split("Revealed type is ")[1] for line in out.splitlines() if "Revealed type" in line]
    assert len(revealed) == 5, out
    assert not [line for line in revealed if line.startswith(('"Any', '"builtins.dict[builtins.str, Any'))], revealed
    assert "Prediction" in revealed[0] and "ndarray" in revealed[1]
    assert 'Module has no attribute "lode"' in out
