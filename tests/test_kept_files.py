"""What embedkit 0.1.0 (commit 278ecfd) wrote opens, goes on and predicts as it did then.

The files lie in kept/format-1; kept/make_format_1.py says what they are and how they were made. What was on disk
already is held to the bit. What is computed anew may differ in the last digits from one processor to another, so it is
held to a tolerance far below anything that a changed method would cause.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import soundfile

from embedkit import cli
from embedkit.cache import Cache
from embedkit.runtime import Predictor

KEPT = Path(__file__).parent / "kept" / "format-1"
MADE_AT = "/embedkit-kept"  # where the workspace lay when its studies wrote down the place of their encoder
EXPECTED = json.loads((KEPT / "expected.json").read_text(encoding="utf-8"))
ENCODER, CACHES, MODEL = "encoder/tiny-hubert", "cache/exact/tiny-hubert", "studies/kept/logistic-size.onnx"
CLOSE = 1e-9  # of what is computed anew from the same numbers
FITTED = 1e-6  # of what a temperature is in, which is where a curve is flat: 1e-16 of the curve are 1e-8 of it


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A copy of the kept workspace, as if it had been made where it lies now."""
    root = shutil.copytree(KEPT / "workspace", tmp_path / "kept")
    for file in (root / "studies" / "kept.toml", *root.glob("studies/*/study.json")):
        file.write_text(file.read_text(encoding="utf-8").replace(MADE_AT, root.as_posix()), encoding="utf-8")
    return root


def embedkit(workspace: Path, *argv: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """One command with --json: its document."""
    code = cli.run(["--workspace", str(workspace), "--traceback", *argv, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def extract(workspace: Path, corpus: str, *argv: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    argv = (*argv, "--jobs", "1", "--device", "cpu")
    return embedkit(workspace, "extract", "--corpus", corpus, *argv, capsys=capsys)


def contents(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """A cache's datasets and attributes, as HDF5 has them."""
    with h5py.File(path, "r") as file:
        return {name: data[()] for name, data in file.items()}, dict(file.attrs)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stamps(folder: Path) -> dict[str, int]:
    """When each file was written last (ns); a copy keeps it."""
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def differing(now: Any, before: Any, at: str = "") -> Iterator[str]:
    """Where two documents are not the same: keys and their order, kinds, words and whole numbers; floats to CLOSE, and
    to FITTED where they come out of a calibration."""
    if isinstance(now, dict) and isinstance(before, dict) and list(now) == list(before):
        for key in before:
            yield from differing(now[key], before[key], f"{at}.{key}")
    elif isinstance(now, list) and isinstance(before, list) and len(now) == len(before):
        for i, (each, other) in enumerate(zip(now, before, strict=True)):
            yield from differing(each, other, f"{at}[{i}]")
    elif isinstance(now, float) and isinstance(before, float):
        close = FITTED if ".calibration." in at else CLOSE
        if not math.isclose(now, before, rel_tol=close, abs_tol=close):
            yield f"{at}: {before} then, {now} now"
    elif type(now) is not type(before) or now != before:
        yield f"{at}: {before!r} then, {now!r} now"


# ---------------------------------------------------------------- caches


@pytest.mark.parametrize("corpus", ["clips", "again"])
def test_a_cache_opens(workspace: Path, corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Identity and digest, counts and reasons, ids, states and every bit of the features are what they were."""
    then, path = EXPECTED["caches"][corpus], workspace / CACHES / f"{corpus}.h5"
    info = embedkit(workspace, "cache", "info", str(path), capsys=capsys)
    assert {**info, "file": then["info"]["file"]} == then["info"]
    with Cache.open(path) as cache:
        features = cache.features(views=range(1 + info["views"]), layers=range(info["layers"]), stats=range(2))
        assert cache.ids.tolist() == then["ids"] and cache.done.tolist() == then["done"]
        assert hashlib.sha256(features.tobytes()).hexdigest() == then["features"]


@pytest.mark.parametrize("corpus", ["clips", "again"])
def test_verify_finds_nothing(workspace: Path, corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Features and digests, and every recording as it is decoded now, are those that were encoded."""
    found = embedkit(workspace, "cache", "verify", str(workspace / CACHES / f"{corpus}.h5"), capsys=capsys)
    assert found["problems"] == [] and found["recordings"] == EXPECTED["caches"][corpus]["info"]["done"] > 0


def test_an_interrupted_pass_goes_on(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command does what is missing and no more: what was done or skipped keeps its bits, what is new equals
    the pass that was never stopped to float16's rounding, augmented views too."""
    path = workspace / CACHES / "again.h5"
    before, said_before = contents(path)
    made = extract(workspace, "again", "--encoder", str(workspace / ENCODER), "--views", "1", capsys=capsys)
    assert (made["rows"], made["done"], made["todo"], len(made["skipped"])) == (27, 24, 0, 3)
    now, said_now = contents(path)
    tried = before["done"] > 0
    assert list(now) == list(before) and said_now == said_before and 0 < tried.sum() < len(tried)
    for name, column in before.items():
        assert now[name].dtype == column.dtype and now[name][tried].tobytes() == column[tried].tobytes(), name
    whole, _ = contents(workspace / CACHES / "clips.h5")
    place = {id_: i for i, id_ in enumerate(whole["ids"].tolist())}
    same = [place[id_] for id_ in now["ids"].tolist()]
    for name in ("done", "skip_reason", "audio_digest", "seconds"):
        np.testing.assert_array_equal(now[name], whole[name][same], err_msg=name)
    np.testing.assert_allclose(now["features"], whole["features"][same], rtol=2**-9, atol=2e-3)


def test_a_finished_pass_has_nothing_to_do(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its settings are still those of the recipe's card and the encoder's folder, so no row is encoded again."""
    path = workspace / CACHES / "clips.h5"
    before, _ = contents(path)
    made = extract(
        workspace, "clips", "--encoder", str(workspace / ENCODER), "--views", "1", "--labels", "all", capsys=capsys
    )
    assert made["todo"] == 0 and made["audio_seconds_per_second"] == 0
    assert all(column.tobytes() == before[name].tobytes() for name, column in contents(path)[0].items())


# ---------------------------------------------------------------- studies


def test_a_finished_study_trains_nothing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command finds it done: its record, its heads and what it says of its fits and searches are not touched,
    and the same results come out of the record."""
    folder = workspace / "studies" / "kept"
    before, written = files(folder), stamps(folder)
    doc = embedkit(workspace, "study", "kept", "--jobs", "1", capsys=capsys)
    now, derived = files(folder), {"results.json", "report.md", "report.html"}
    assert {name for name in now.keys() - before.keys() if not name.startswith("figures/")} <= derived
    assert [name for name in before if name not in derived and now[name] != before[name]] == []
    trained = [name for name in before if name.startswith(("predictions", "units", "search", "heads/"))]
    assert {name: stamps(folder)[name] for name in trained} == {name: written[name] for name in trained}
    assert "predictions.parquet" in trained and "search.db" not in now
    kept = json.loads(before["results.json"])
    assert list(differing(read(folder / "results.json"), kept)) == []
    assert list(differing({key: doc[key] for key in kept}, kept)) == []


def test_its_audit_passes(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fits, searches and the scalers of the kept heads are held against the plan as it is made now."""
    kept = read(workspace / "studies" / "kept" / "audit.json")
    found = embedkit(workspace, "audit", "kept", capsys=capsys)
    assert found["passed"] and found["findings"] == kept["findings"]
    assert set(kept["checked"]) | {"scaler"} == set(found["checked"])


def test_a_killed_study_goes_on(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL came while its sixth fit was written: the five before it keep every bit, search nothing and train
    nothing again; with the rest, the study ends as the one that was never stopped."""
    folder, whole = workspace / "studies" / "stopped", workspace / "studies" / "kept"
    parts = pd.concat([pd.read_parquet(path) for path in folder.rglob("parts/**/*.parquet")])
    fits = parts[["head", "fold"]].drop_duplicates()
    kept_heads = [folder / f"heads/clips/layer-1/{head}/fold-{fold}" for head, fold in fits.to_numpy()]
    heads = [(files(each), stamps(each)) for each in kept_heads]
    searched = (folder / "search.json").read_bytes()
    assert len(heads) == 5 and all(held for held, _ in heads)

    embedkit(workspace, "study", "kept", "--name", "stopped", "--jobs", "1", capsys=capsys)
    assert not (folder / "parts").exists() and not (folder / "search.db").exists()
    assert (folder / "search.json").read_bytes() == searched
    assert [(files(each), stamps(each)) for each in kept_heads] == heads
    record, kept = (pd.read_parquet(each / "predictions.parquet") for each in (folder, whole))
    key = ["head", "fold", "split", "utterance"]
    pd.testing.assert_frame_equal(
        record.merge(fits).sort_values(key, ignore_index=True),
        parts.sort_values(key, ignore_index=True),
        check_exact=True,
    )
    pd.testing.assert_frame_equal(record, kept, rtol=0, atol=CLOSE)
    results = {**read(folder / "results.json"), "study": "kept"}
    assert list(differing(results, read(whole / "results.json"))) == []


# ---------------------------------------------------------------- exported files


def probabilities(said: dict[str, Any]) -> list[float]:
    return [*said["probabilities"].values(), *(p for w in said["windows"] for p in w["probabilities"].values())]


def test_an_exported_file_predicts(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kept file says of the kept voice note what it said: speech, windows and label; probabilities to 1e-6."""
    note = str(workspace / "note.flac")
    for way, flags in (("speech", ()), ("whole", ("--no-vad",))):
        then = EXPECTED["predict"][way]
        (said,) = embedkit(workspace, "predict", str(workspace / MODEL), note, *flags, capsys=capsys)["files"]
        assert said == Predictor(workspace / MODEL).predict(note, vad=not flags)
        assert list(said) == ["file", *then] and said["label"] == then["label"]
        assert [(w["start"], w["end"]) for w in said["windows"]] == [(w["start"], w["end"]) for w in then["windows"]]
        assert list(said["probabilities"]) == list(then["probabilities"])
        np.testing.assert_allclose(probabilities(said), probabilities(then), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_finished_study_is_exported_to_the_same_file(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """stitch-export takes the kept head: file and certificate say what the kept ones say, probabilities to 1e-6; the
    heads of the folds judge the clips as they did."""
    place = workspace / "anew.onnx"
    made = embedkit(workspace, "stitch-export", "kept", "--head", "logistic", "-o", str(place), capsys=capsys)
    old, new = Predictor(workspace / MODEL), Predictor(place)
    own = {"embedkit.sha256", "embedkit.version"}
    assert old.meta.keys() == new.meta.keys()
    assert {key: new.meta[key] for key in old.meta.keys() - own} == {
        key: old.meta[key] for key in old.meta.keys() - own
    }
    for path in sorted((workspace / "corpus").glob("s?.flac")):
        wave, _ = soundfile.read(path, dtype="float32")
        for clip in (wave[:8_000], wave):
            np.testing.assert_allclose(new.probabilities(clip), old.probabilities(clip), rtol=0, atol=1e-6)
    then = read((workspace / MODEL).with_suffix(".certificate.json"))
    now = made["certificate"]
    assert list(now) == list(then)
    measured = {"bytes", "sha256", "milliseconds", "peak_memory_mb", "weight_bytes"}
    measured |= {"float_against_torch", "file_against_torch", "file_against_float"}
    assert list(differing(*({k: v for k, v in c.items() if k not in measured} for c in (now, then)))) == []


def test_an_exported_file_is_an_encoder(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Features through the kept file are those of the encoder in it, but for the rounding of its weights."""
    extract(workspace, "clips", "--encoder", str(workspace / MODEL), "--views", "0", capsys=capsys)
    (path,) = (p for p in workspace.glob("cache/exact/*/clips.h5") if p.parent.name != "tiny-hubert")
    now, then = contents(path)[0], contents(workspace / CACHES / "clips.h5")[0]
    place = {id_: i for i, id_ in enumerate(then["ids"].tolist())}
    rows = now["done"] == 1
    ours = now["features"][rows][:, 0, 0].astype(float)
    theirs = then["features"][[place[id_] for id_ in now["ids"][rows].tolist()]][:, 0, -1].astype(float)
    assert rows.sum() == 24 and ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 0.05 * theirs.std(0).mean()
