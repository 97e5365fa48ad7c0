"""A whole corpus: scores equal scikit-learn's on the same clips, and what is left out is named and counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from embedkit import audio
from embedkit.classes import CLASSES
from embedkit.corpora import Utterance
from embedkit.errors import CorpusError
from embedkit.evaluation import evaluate_clips
from embedkit.runtime import Predictor

MAP = {"anger": ["angry"], "happiness": ["happy", "glad"], "neutral": ["neutral"], "sadness": ["sad"]}
CLASS_OF = {label: name for name, labels in MAP.items() for label in labels}
WORDS = ["angry", "happy", "glad", "neutral", "sad", "bored"]


@pytest.fixture
def predictor(exported: Path) -> Predictor:
    return Predictor(exported, threads=1)


def corpus(folder: Path, count: int = 60) -> list[Utterance]:
    """Noise at random levels under random labels, one file for three utterances each."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count // 3):
        parts = [rng.normal(0, level, 16_000) for level in rng.uniform(0.01, 0.3, 3)]
        soundfile.write(folder / f"{i}.wav", np.concatenate(parts), 16_000, subtype="FLOAT")
        rows += [
            Utterance(f"{i}-{k}", f"{i}.wav", str(rng.choice(WORDS)), "noise:1", start=float(k), end=k + 1.0)
            for k in range(3)
        ]
    return rows


def test_scores_equal_scikit_learns(predictor: Predictor, tmp_path: Path) -> None:
    """WA, UA, macro F1, F1 and the confusion matrix of 60 clips, to 1e-12; labels that no class names are left out."""
    rows = corpus(tmp_path)
    result = evaluate_clips(predictor, rows, tmp_path, MAP)
    covered = [u for u in rows if u.label in CLASS_OF]
    truth = [CLASS_OF[u.label] for u in covered]
    waves = [audio.read(tmp_path / u.file, u.start, u.end) for u in covered]
    said = [CLASSES[int(predictor.probabilities(w).argmax())] for w in waves]
    assert len(set(said)) >= 3
    assert result["rows"] == len(covered) < len(rows)
    assert result["left_out"] == {"bored": len(rows) - len(covered)}
    assert result["skipped"] == []
    assert result["wa"] == pytest.approx(accuracy_score(truth, said), abs=1e-12)
    assert result["ua"] == pytest.approx(balanced_accuracy_score(truth, said), abs=1e-12)
    assert result["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"), abs=1e-12)
    each = f1_score(truth, said, average=None, labels=list(CLASSES), zero_division=0)
    assert list(result["f1"]) == list(CLASSES)
    assert np.allclose(list(result["f1"].values()), each, atol=1e-12)
    assert result["confusion"] == confusion_matrix(truth, said, labels=list(CLASSES)).tolist()
    json.dumps(result, allow_nan=False)


def test_bad_clips_are_skipped_with_their_reasons(predictor: Predictor, tmp_path: Path) -> None:
    """Missing, silent, out of the corpus's folder: named with the reason; the others are scored."""
    rows = corpus(tmp_path, 6)
    good = sum(u.label in CLASS_OF for u in rows)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    (tmp_path / "inner").mkdir()
    bad = [
        Utterance("a", "none.wav", "sad", "x:1"),
        Utterance("b", "silent.wav", "sad", "x:1"),
        Utterance("c", "../0.wav", "sad", "x:1"),
        Utterance("d", "/etc/hostname", "sad", "x:1"),
    ]
    result = evaluate_clips(predictor, [*bad, *rows], tmp_path, MAP)
    reasons = {s["id"]: s["reason"] for s in result["skipped"]}
    assert list(reasons) == ["a", "b", "c", "d"]
    assert "no such file" in reasons["a"]
    assert "silent" in reasons["b"]
    assert "leads out" in reasons["c"]
    assert "leads out" in reasons["d"]
    assert result["rows"] == good > 0


def test_a_class_that_never_occurs(predictor: Predictor, tmp_path: Path) -> None:
    """It has F1 0 and an empty row, and no part in macro F1."""
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.9), 16_000)
    result = evaluate_clips(predictor, [Utterance("a", "a.wav", "angry", "x:1")], tmp_path, MAP)
    assert result["f1"] == {"anger": 1.0, "happiness": 0.0, "neutral": 0.0, "sadness": 0.0}
    assert result["macro_f1"] == 1.0
    assert result["confusion"][3] == [0, 0, 0, 0]


def test_nothing_to_evaluate(predictor: Predictor, tmp_path: Path) -> None:
    rows = [Utterance("a", "none.wav", "sad", "x:1"), Utterance("b", "none.wav", "bored", "x:1")]
    with pytest.raises(CorpusError, match="1 clips skipped, 1 of other labels"):
        evaluate_clips(predictor, rows, tmp_path, MAP)
