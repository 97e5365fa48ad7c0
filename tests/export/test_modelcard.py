"""The model card: what it must say of a file, from a certificate made up by hand."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import runtime_fixtures
import soundfile

from embedkit import stats
from embedkit.cards import Certificate, Sound
from embedkit.classes import CLASSES
from embedkit.export import certify, modelcard
from embedkit.report import render


class Sure:
    """A head that says what the embedding's first value is the number of."""

    classes_ = np.array(CLASSES)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return np.eye(4)[X[:, 0].astype(int)]


def certificate(weights: str = "pretrained", tested: int = 240) -> dict:
    """240 clips of 8 speakers; the file has every tenth label wrong, and half as many on the test folds."""
    truth = np.arange(240) % 4
    said = np.where(np.arange(240) % 10 == 0, (truth + 1) % 4, truth)
    heard = np.where(np.arange(240) % 20 == 0, (truth + 1) % 4, truth)
    ways = {
        name: certify.Answers(np.eye(4)[labels] * 0.97 + 0.0075, np.stack([numbers, numbers], 1).astype(float))
        for name, labels, numbers in (("torch", truth, truth), ("float", truth, truth), ("file", said, heard))
    }
    rows = [certify.TestedClip(i, "1", f"s{i % 8}", CLASSES[truth[i]]) for i in range(tested)]
    folds = certify.score_test_folds(ways, rows, lambda _: Sure())
    return {
        "study": "mine",
        "arm": "ravdess",
        "head": "logistic",
        "layer": 3,
        "temperature": 1.25,
        "encoder": "openai/whisper-tiny.en",
        "weights": weights,
        "profile": "small",
        "bytes": 6_543_210,
        "sha256": "ab" * 32,
        "ua": {"mean": 0.774, "sd": 0.094, "pooled": 0.77, "interval": {"low": 0.689, "high": 0.841}},
        **certify.build_certificate(ways, folds, {"float": Certificate().float, "file": Certificate().small}),
        "milliseconds": {"1": {"torch": 80.0, "float": 60.0, "file": 30.0}, "2": {"float": 36.0, "file": 20.0}},
        "peak_memory_mb": 123.4,
        "quantized": {"convolution": 2, "linear": 24},
        "four_bit": {"linear": 20},
        "integer_products": {},
        "weight_bytes": {"convolution int8": 1_000, "linear int4": 2_000, "linear float32": 30},
    }


ABOUT = {
    "version": "0.1.0",
    "recipe": "exact",
    "sound": Sound().model_dump(),
    "stats": ["mean"],
    "encoder": {"revision": "abc", "parameters": 7_632_384},
    "head": "logistic",
    "folds": {"kind": "speaker", "count": 8},
    "seeds": 1,
    "tested": "ravdess",
    "corpora": {
        "ravdess": {"share": 1.0, "classes": {"anger": 128}, "speakers": 16, "licence": "CC BY-NC-SA 4.0"},
    },
}


@pytest.mark.parametrize(
    "said",
    [
        "# logistic-small.onnx",
        "anger, happiness, neutral, sadness",
        "6,543,210 bytes",
        "openai/whisper-tiny.en, revision `abc`, 7,632,384 parameters, pretrained weights; its licence: Apache-2.0",
        "hidden state 3, mean over time",
        "ends cut where they are 20 dB below the loudest frame, pre-emphasis 0.97, scaled to a peak of 0.95",
        'onnxruntime.InferenceSession("logistic-small.onnx", options)',
        "24 of 240",  # labels that flip
        "6.8% to 14.4%",  # Wilson's
        "240 clips of 8 speakers",
        "1.00 / 1.00",  # float against itself
        "2.00 / 1.80",  # 60 ms to 30 ms on one thread, 36 to 20 on two
        "123 million bytes",
        "Quantized weights: 26 (2 convolution, 24 linear), 20 of them in 4 bits. Products in integers: 0.",
        "| ravdess | 100%  | 16       | 128   | 0",
        "CC BY-NC-SA 4.0",
        "UA 0.774 (sd over folds 0.094), pooled 0.770, 95 % 0.689 to 0.841 by speaker",
        "ab" * 32,
        "embedkit predict logistic-small.onnx",
    ],
)
def test_a_card_says(said: str) -> None:
    assert said in modelcard.build_page("logistic-small.onnx", certificate(), ABOUT)


def test_the_loss_of_ua_is_that_of_the_certificate() -> None:
    """Every twentieth clip's class is wrong: 12 of 240, all of them of one class, whose recall falls by a fifth."""
    page = modelcard.build_page("f.onnx", certificate(), ABOUT)
    (line,) = [line for line in page.splitlines() if "not distinguishable" in line or "torch above file" in line][-1:]
    assert "| this file" in line and "0.950" in line and "-0.0500" in line


def test_the_sample_code_runs_and_says_what_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file of the same interface, beside a voice note: 4 probabilities."""
    page = modelcard.build_page("loud.onnx", certificate(), ABOUT)
    (code,) = re.findall("```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    runtime_fixtures.build(tmp_path / "loud.onnx")
    soundfile.write(tmp_path / "voice-note.wav", np.sin(np.arange(8_000) / 20), 16_000)
    told: dict = {}
    exec(code, told)
    assert told["probabilities"].shape == (1, 4) and abs(told["probabilities"].sum() - 1) < 1e-6


def test_every_row_of_a_table_is_as_wide_as_its_header() -> None:
    lines = modelcard.build_page("f.onnx", certificate(), ABOUT).splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) > 20
    for above, below in pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert above.count("|") == below.count("|")


def test_random_weights_are_loud_and_missing_folds_are_said() -> None:
    page = modelcard.build_page("f.onnx", certificate("random", tested=0), ABOUT)
    assert "**The encoder's weights are random" in page and "**Random weights" in page
    assert "nothing is said of UA" in page
    assert "random" not in modelcard.build_page("f.onnx", certificate(), ABOUT)


def test_a_terminal_shows_the_same_figures() -> None:
    shown = render.render_text(modelcard.describe_certificate(certificate()))
    assert "24 of 240" in shown and "2.00 / 1.80" in shown and "|" not in shown


def test_what_a_refit_wins_back_stands_in_the_card() -> None:
    """One row for the study, one for its heads on the file's features, one for the new heads; none without a refit."""
    truth = [CLASSES[i % 4] for i in range(48)]
    wrong = [CLASSES[(i + (i % 6 == 0)) % 4] for i in range(48)]
    speakers = [f"s{i % 8}" for i in range(48)]
    tables = {
        way: stats.confusion_by_cluster(truth, said, speakers) for way, said in (("study", truth), ("before", wrong))
    }
    found = {"clips": 48, "speakers": 8, **stats.compare_ways({**tables, "refit": tables["study"]}, "before")}
    text = modelcard.build_page("x.onnx", {**certificate(), "refit": found}, ABOUT)
    rows = [line for line in text.splitlines() if line.startswith("| this file's features, heads")]
    assert len(rows) == 2 and "0.833" in rows[0] and "1.000" in rows[1] and "+0.1667" in rows[1]
    assert "heads trained on them" not in modelcard.build_page("x.onnx", certificate(), ABOUT)
