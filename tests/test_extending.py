"""A plug-in is one file: the contract tests find it by themselves, and say what to write where they need a fixture."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORPORA, HEADS = "tests/corpora/test_contract.py", "tests/heads/test_heads.py"
ENCODERS = "tests/encoders/test_contract.py"

EMODB = '''
"""Emo-DB: 10 speakers, 10 German sentences. A name such as `03a01Wa.wav` is speaker, sentence, emotion and version."""

from embedkit.corpora._base import Utterance, list_recordings, locate_corpus

SOURCE = "http://emodb.bilderbar.info; root is the folder that holds wav/"
LICENCE = "free to use"
LABELS = {"anger": ["W"], "happiness": ["F"], "neutral": ["N"], "sadness": ["T"]}


def folder(root):
    return locate_corpus("Emo-DB", root, "wav")


def read(root):
    place = folder(root)
    for stem, path in list_recordings(place / "wav").items():
        yield Utterance(stem, path.relative_to(place).as_posix(), label=stem[5], speaker=stem[:2], text=stem[2:5])
'''
MAKE_EMODB = """

def make_emodb(root: Path) -> Path:
    touch(root / "wav", [f"{speaker:02d}a01{emotion}a.wav" for speaker in (3, 8) for emotion in "WFNTL"])
    return root
"""

NEAREST = '''
"""The nearest centroid of standardised features."""

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import NearestCentroid
from sklearn.utils.validation import check_is_fitted, validate_data

from embedkit.heads._base import check_views, compute_mean_and_scale, find_classes, stack_views
from embedkit.heads._onnx import make_dense_onnx

VIEWS = ("clean", "all")
ROUNDS = ""
EXTRA_PARAMETERS = ()


class Nearest(ClassifierMixin, BaseEstimator):
    def fit(self, X, y, *, views=None, validation=None):
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_views(X, views)
        self.classes_, _ = find_classes(y)
        self.mean_, self.scale_ = compute_mean_and_scale(X)
        X, y, _, _ = stack_views(X, y, views)
        self.centroids_ = NearestCentroid().fit((X - self.mean_) / self.scale_, y).centroids_
        return self

    def predict_proba(self, X):
        check_is_fitted(self)
        X = (validate_data(self, X, dtype=np.float64, reset=False) - self.mean_) / self.scale_
        return softmax(X @ self.centroids_.T - (self.centroids_**2).sum(1) / 2, axis=1)

    def predict(self, X):
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]


def constructor(_):
    return Nearest


def make(parameters, seed):
    return Nearest(**parameters)


def save(estimator, folder):
    np.savez(folder / "head.npz", mean_=estimator.mean_, scale_=estimator.scale_, centroids_=estimator.centroids_)
    return {}


def load(folder, meta):
    estimator = Nearest()
    estimator.classes_ = np.array(meta["classes"])
    with np.load(folder / "head.npz", allow_pickle=False) as arrays:
        for name in arrays:
            setattr(estimator, name, arrays[name])
    estimator.n_features_in_ = len(estimator.mean_)
    return estimator


def to_onnx(estimator, temperature):
    centroids = estimator.centroids_
    layers = [(centroids.T, -(centroids**2).sum(1) / 2)]
    return make_dense_onnx(layers, "", estimator.mean_, estimator.scale_, temperature)
'''

OTHER = '''
"""A family of encoders."""

MODEL_TYPES = ("other",)


def geometry(config):
    return config["num_hidden_layers"] + 1, config["hidden_size"]


def is_used(key):
    return True


def load(spec, precision, device, crop):
    raise NotImplementedError
'''


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the package, its cards and its contract tests, with a new plug-in of each sort and nothing else."""
    tests = [path.relative_to(ROOT) for path in (ROOT / "tests").glob("*_fixtures.py")]
    tests += [Path("tests") / name for name in ("conftest.py", "study_caches.py", "corpora", "heads", "encoders")]
    for path in [*map(Path, ("embedkit", "heads", "cache", "studies", "pyproject.toml")), *tests]:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, tmp_path / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, tmp_path / path)
    for path, text in (("corpora/emodb.py", EMODB), ("heads/nearest.py", NEAREST), ("encoders/other.py", OTHER)):
        (tmp_path / "embedkit" / path).write_text(text.lstrip())
    return tmp_path


def run_contracts(checkout: Path, keywords: str, *files: str) -> tuple[int, list[str]]:
    """The exit code and the lines of pytest on these tests of the copy."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", keywords, *files],
        cwd=checkout,
        env=environment | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.returncode, answer.stdout.splitlines()


@pytest.mark.slow
def test_what_is_missing_is_said(checkout: Path) -> None:
    """A corpus without a tree, a kind of head without a card, a family without a checkpoint: a line for each."""
    code, lines = run_contracts(checkout, "emodb or every_kind or (encoders and other)", CORPORA, HEADS, ENCODERS)
    assert code == 1, lines
    for expected in (
        "no generated tree of 'emodb': write make_emodb(root) in tests/corpora/conftest.py, which lays down its folders"
        " and file names and returns the root",
        "kind 'nearest' has no card: write heads/nearest.toml (see CONTRIBUTING.md)",
        "no tiny checkpoint of model_type 'other': write make_other(folder) in tests/encoders_fixtures.py, which saves"
        " a random model of it and its feature extractor there and returns the folder",
    ):
        assert expected in lines, lines
    assert not [line for line in lines if line.startswith("E ")], lines


@pytest.mark.slow
def test_what_was_asked_for_is_enough(checkout: Path) -> None:
    """With the tree and the card, the corpus and the head keep every contract, and no other file was touched."""
    with (checkout / "tests/corpora/conftest.py").open("a") as file:
        file.write(MAKE_EMODB)
    (checkout / "heads" / "nearest.toml").write_text('kind = "nearest"\nsummary = "Nearest centroid"\n')
    code, lines = run_contracts(checkout, "emodb or every_kind or nearest", CORPORA, HEADS)
    assert code == 0, lines
