"""The whole path on real recordings with a real encoder: extract, study, stitch-export, predict, evaluate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from embedkit import cli
from embedkit.cache import Cache
from embedkit.cards import CLASSES
from embedkit.workspace import init

pytestmark = pytest.mark.slow

CLASS_OF = {"neutral": "neutral", "calm": "neutral", "happy": "happiness", "sad": "sadness", "angry": "anger"}
LAYER, C = 3, 0.05


def embedkit(workspace: Path, *argv: str, capsys: pytest.CaptureFixture[str]) -> dict:
    """One command with --json: its document."""
    code = cli.run(["--workspace", str(workspace), "--traceback", *argv, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def workspace(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with RAVDESS's 576 real clips cached through the real Whisper encoder, and the study on them."""
    root = init(tmp_path_factory.mktemp("real")).root
    (root / "embedkit.toml").write_text(
        f'[corpora]\nravdess = "{shared / "data" / "ravdess"}"\ncrema-d = "{shared / "data" / "crema-d"}"\n'
    )
    encoder = str(shared / "weights" / "whisper-tiny.en-encoder")
    extract = ["extract", "--corpus", "ravdess", "--recipe", "plain", "--encoder", encoder, "--views", "0"]
    assert cli.run(["--workspace", str(root), *extract]) == 0
    study = ["study", "--corpus", "ravdess", "--recipe", "plain", "--encoder", encoder, "--folds", "speaker"]
    study += ["--head", "logistic", "--layer", str(LAYER), "--set", f"heads.logistic.C={C}", "--name", "landmark"]
    assert cli.run(["--workspace", str(root), *study]) == 0
    return root


@pytest.fixture(scope="module")
def predictions(workspace: Path) -> pd.DataFrame:
    table = pd.read_parquet(workspace / "studies" / "landmark" / "predictions.parquet")
    return table[table["split"] == "test"].set_index("utterance").sort_index()


def probabilities(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    return table[[f"p_{name}" for name in CLASSES]].to_numpy(np.float64)


def slow_logistic(x: npt.NDArray[np.float64], y: npt.NDArray[np.str_], folds: pd.Series) -> npt.NDArray[np.float64]:
    """scikit-learn alone, one fold after another: fold i tests, i + 1 validates (unused), the rest train."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = sorted(folds.unique(), key=lambda f: int("".join(c for c in str(f) if c.isdigit())))
    fold = folds.map({name: i for i, name in enumerate(names)}).to_numpy()
    result = np.zeros((len(y), 4))
    for i in range(len(names)):
        train = (fold != i) & (fold != (i + 1) % len(names))
        model = make_pipeline(StandardScaler(), LogisticRegression(C=C, class_weight="balanced", max_iter=1000))
        result[fold == i] = model.fit(x[train], y[train]).predict_proba(x[fold == i])
    return result


def test_the_study_equals_scikit_learn_on_the_same_features(workspace: Path, predictions: pd.DataFrame) -> None:
    """Same cached features and folds: the same probabilities to 1e-6, and a score that says the sound is right."""
    with Cache.open(next((workspace / "cache").rglob("ravdess.h5"))) as cache:
        ids = [str(i) for i in cache.ids]
        x = cache.features(layers=(LAYER,))[:, 0, 0, 0].astype(np.float64)
    rows = predictions.loc[ids]
    expected = slow_logistic(x, rows["label"].to_numpy(), rows["fold"])
    assert len(rows) == 576
    np.testing.assert_allclose(probabilities(rows), expected, atol=1e-6)


def test_the_landmark_is_reached(workspace: Path) -> None:
    """0.774 WA is what a plain script without a validation part reaches; far below means a fault in sound or labels."""
    results = json.loads((workspace / "studies" / "landmark" / "results.json").read_text())["results"]
    assert len(results) == 1 and results[0]["head"] == "logistic"
    assert results[0]["wa"]["pooled"] > 0.72 and results[0]["ua"]["pooled"] > 0.72
    assert len(results[0]["wa"]["folds"]) == 8


def test_the_study_equals_a_plain_script_end_to_end(shared: Path, predictions: pd.DataFrame) -> None:
    """soundfile, soxr, transformers and scikit-learn alone give the same label for at least 570 of 576 clips."""
    x, rows = [], []
    for path, wave in plain_waves(shared / "data" / "ravdess"):
        x.append(plain_whisper(shared / "weights" / "whisper-tiny.en-encoder", wave))
        rows.append(next(i for i in predictions.index if Path(i).stem == path.stem))
    table = predictions.loc[rows]
    expected = slow_logistic(np.stack(x).astype(np.float64), table["label"].to_numpy(), table["fold"])
    same = (expected.argmax(1) == probabilities(table).argmax(1)).sum()
    assert len(rows) == 576 and same >= 570


def plain_waves(root: Path):
    import soundfile
    import soxr

    for path in sorted(root.rglob("*.flac")):
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
        yield path, soxr.resample(wave.mean(1), rate, 16_000)[: 8 * 16_000].astype(np.float32)


def plain_whisper(folder: Path, wave: npt.NDArray[np.float32], loaded: dict = {}) -> npt.NDArray[np.float32]:  # noqa: B006
    import torch
    from transformers import AutoModel, WhisperFeatureExtractor

    if not loaded:
        torch.set_num_threads(1)
        loaded["mel"] = WhisperFeatureExtractor.from_pretrained(folder)
        loaded["encoder"] = AutoModel.from_pretrained(folder, dtype=torch.float32).encoder.eval()
    mel = loaded["mel"](wave, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        states = loaded["encoder"](mel, output_hidden_states=True).hidden_states
    return states[LAYER][0, : -(-len(wave) // 320)].mean(0).numpy()


def test_the_exported_file_agrees_with_torch_on_real_clips(
    workspace: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """stitch-export writes a certified file; predict and evaluate on it give what the study's own head gives."""
    made = embedkit(workspace, "stitch-export", "landmark", capsys=capsys)
    assert Path(made["model"]).stat().st_size == made["bytes"]
    clips = [str(p) for p in sorted((shared / "data" / "ravdess").rglob("*.flac"))[:6]]
    said = embedkit(workspace, "predict", made["model"], *clips, "--no-vad", capsys=capsys)
    assert [f["file"] for f in said["files"]] == clips
    for f in said["files"]:
        assert abs(sum(f["probabilities"].values()) - 1) < 1e-5 and f["label"] in CLASSES
    small = workspace / "small" / "Actor_01"
    small.mkdir(parents=True)
    for clip in clips:
        shutil.copyfile(clip, small / Path(clip).name)
    score = embedkit(
        workspace, "evaluate", made["model"], "--corpus", "ravdess", "--root", str(small.parent), capsys=capsys
    )
    assert score["rows"] == 6 and score["wa"] >= 4 / 6  # clips that the refitted head was trained on
