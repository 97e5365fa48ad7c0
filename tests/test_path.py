"""The whole path on real recordings with a real encoder: extract, study, stitch-export, predict, evaluate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from embedkit import cli, refit
from embedkit.cache import Cache
from embedkit.classes import CLASSES
from embedkit.workspace import init_workspace

pytestmark = pytest.mark.slow

CLASS_OF = {"neutral": "neutral", "calm": "neutral", "happy": "happiness", "sad": "sadness", "angry": "anger"}
LAYER, C = 3, 0.05
TAKES = "*-01-01-[01][0-9].flac"  # first statement and repetition: every label of 16 actors, 9 clips of each
CLIPS = 144


def embedkit(workspace: Path, *argv: str, capsys: pytest.CaptureFixture[str]) -> dict:
    """One command with --json: its document."""
    code = cli.run(["--workspace", str(workspace), "--traceback", *argv, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def recordings(root: Path) -> list[Path]:
    return sorted(root.rglob(TAKES))


@pytest.fixture(scope="module")
def workspace(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with real clips of RAVDESS cached through the real Whisper encoder, and the study on them."""
    root = init_workspace(tmp_path_factory.mktemp("real")).root
    corpus = root / "ravdess"
    for clip in recordings(shared / "data" / "ravdess"):
        (corpus / clip.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip, corpus / clip.parent.name / clip.name)
    (root / "embedkit.toml").write_text(f'[corpora]\nravdess = "{corpus}"\n')
    encoder = str(shared / "weights" / "whisper-tiny.en-encoder")
    extract = ["extract", "--corpus", "ravdess", "--recipe", "plain", "--encoder", encoder, "--views", "0"]
    extract += ["--jobs", "1"]
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


def cached(workspace: Path) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Utterances and their features of LAYER [clip, dim] in the cache."""
    with Cache.open(next((workspace / "cache").rglob("ravdess.h5"))) as cache:
        return [str(i) for i in cache.ids], cache.features(layers=(LAYER,))[:, 0, 0, 0].astype(np.float64)


def test_the_study_equals_scikit_learn_on_the_same_features(workspace: Path, predictions: pd.DataFrame) -> None:
    """Same cached features and folds: the same probabilities to 1e-6."""
    ids, x = cached(workspace)
    rows = predictions.loc[ids]
    expected = slow_logistic(x, rows["label"].to_numpy(), rows["fold"])
    assert len(rows) == CLIPS
    np.testing.assert_allclose(probabilities(rows), expected, atol=1e-6)


def test_the_landmark_is_reached(workspace: Path) -> None:
    """WA and UA are 0.76 (0.77 on all 576 clips): clearly below means a fault in sound, labels or folds."""
    results = json.loads((workspace / "studies" / "landmark" / "results.json").read_text())["results"]
    assert len(results) == 1 and results[0]["head"] == "logistic"
    assert results[0]["wa"]["pooled"] > 0.72 and results[0]["ua"]["pooled"] > 0.72
    assert len(results[0]["wa"]["folds"]) == 8


def test_the_study_equals_a_plain_script_end_to_end(workspace: Path, shared: Path, predictions: pd.DataFrame) -> None:
    """soundfile, soxr and transformers alone give every fourth clip's features to float16's rounding (2^-11; 1e-3 for
    what lies near 0); scikit-learn, trained with these in place of the cached ones, gives the same labels but one."""
    ids, x = cached(workspace)
    place = {Path(utterance).stem: i for i, utterance in enumerate(ids)}
    table, rows = predictions.loc[ids], []
    for path, wave in plain_waves(recordings(workspace / "ravdess")[::4]):
        features = plain_whisper(shared / "weights" / "whisper-tiny.en-encoder", wave)
        rows.append(place[path.stem])
        np.testing.assert_allclose(x[rows[-1]], features, rtol=2**-11, atol=1e-3)
        x[rows[-1]] = features
    expected = slow_logistic(x, table["label"].to_numpy(), table["fold"])
    same = (expected.argmax(1) == probabilities(table).argmax(1)).sum()
    assert len(set(rows)) == CLIPS // 4 and same >= CLIPS - 1


def plain_waves(paths: list[Path]) -> Iterator[tuple[Path, npt.NDArray[np.float32]]]:
    import soundfile
    import soxr

    for path in paths:
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
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """stitch-export writes a file that 12 real clips certify; predict and evaluate on it give a label for each."""
    monkeypatch.setattr(refit, "stitch_export", partial(refit.stitch_export, clips=12))
    made = embedkit(workspace, "stitch-export", "landmark", capsys=capsys)
    assert Path(made["model"]).stat().st_size == made["bytes"]
    assert made["certificate"]["clips"] == 12 and made["certificate"]["float_against_torch"]["flips"] == 0
    clips = [str(p) for p in recordings(workspace / "ravdess")[:6]]
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
