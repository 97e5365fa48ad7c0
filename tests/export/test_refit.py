"""An exported file as an encoder, and the head fitted anew to what it gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from encoders_fixtures import tiny_hubert
from export_fixtures import corpus, studied

from embedkit import audio, cards, encoders, extract, study, workspace
from embedkit.cache import Cache
from embedkit.classes import CLASSES
from embedkit.encoders import exported
from embedkit.errors import EncoderError, UserError
from embedkit.export.quantize import _graph
from embedkit.refit import stitch_export
from embedkit.runtime.model import make_session_options


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> workspace.Workspace:
    root = tmp_path_factory.mktemp("refit")
    (root / "clips").mkdir()
    return studied(root / "space", tiny_hubert(root / "tiny"), corpus(root / "clips"), "exact")


@pytest.fixture(scope="module")
def made(space: workspace.Workspace) -> dict:
    """The file, and the one that is fitted to it; the head is quantized too, as one of a real encoder's width is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_graph, "SMALLEST", 100)
        after = stitch_export(space, "made", head="logistic", clips=8, refit=True)
    before = space.studies / "made" / "logistic-size.onnx"
    certificate = json.loads(before.with_suffix(".certificate.json").read_text())
    return {"before": {"model": str(before), "certificate": certificate}, "after": after}


def test_its_features_are_the_embedding_that_the_file_gives(space: workspace.Workspace, made: dict) -> None:
    """pool() of the prepared, cut sound equals the file's own embedding of the raw sound to 1e-5."""
    path = Path(made["before"]["model"])
    spec = encoders.resolve(str(path))
    assert (spec.id, spec.slug, spec.family) == ("made/logistic-size", "made--logistic-size", "exported")
    assert spec.random and spec.layers == 1
    encoder = encoders.load(spec)
    sound = cards.read(cards.Recipe, space.card("cache", "exact")).sound
    session = onnxruntime.InferenceSession(str(path), make_session_options(1), providers=["CPUExecutionProvider"])
    for n in (9_000, 20_000):
        wave = np.sin(np.arange(n) ** 1.2 / 40).astype(np.float32) * np.linspace(0.01, 0.5, n, dtype=np.float32)
        (theirs,) = session.run(["embedding"], {"signal": wave[None], "lengths": np.array([n])})
        ours = encoder.pool(audio.cut_to_length(audio.prepare(wave, sound), sound))
        assert ours.shape == (1, 2, spec.dim)
        np.testing.assert_allclose(ours[0, 0], theirs[0], atol=1e-5)
        np.testing.assert_array_equal(ours[0, 1], 0)  # a file of means holds no standard deviations


def test_another_head_makes_no_other_encoder(made: dict) -> None:
    specs = [encoders.resolve(made[name]["model"]) for name in ("before", "after")]
    assert specs[0].weights_digest == specs[1].weights_digest
    assert made["before"]["model"] != made["after"]["model"]


def test_the_refitted_file_is_the_study_on_its_features(space: workspace.Workspace, made: dict) -> None:
    """Its cache, study, file and certificate; file and ordinary path agree to 0.02: only the head is rounded anew."""
    assert Path(made["after"]["model"]).name == "logistic-size-refit.onnx"
    finished = study.open_study(space, "made.logistic-size-refit")
    assert finished.plan.identity.encoder == "made/logistic-size"
    with Cache.open(space.cache / "exact" / "made--logistic-size" / "clips.h5") as file:
        assert file.rows == 32 and (file.done == 1).all()
    certificate = made["after"]["certificate"]
    assert 0 < certificate["file_against_torch"]["largest_change"] < 0.02
    assert certificate["float_against_torch"]["largest_change"] < 1e-4
    assert certificate["quantized"]["head"] == 1
    assert certificate["quantized"] == made["before"]["certificate"]["quantized"]
    won = certificate["refit"]
    assert (won["clips"], won["speakers"]) == (32, 4)
    rows = finished.read_test_rows(study.ResultChoice("clips", "logistic", 0))
    p = rows[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(1)
    right = np.mean(np.array(CLASSES)[p] == rows["label"])
    assert won["ways"]["refit"]["wa"]["estimate"] == pytest.approx(right)
    assert {x["way"] for x in won["comparisons"]} == {"study", "refit"}


def test_before_is_the_folds_heads_on_the_files_features(space: workspace.Workspace, made: dict) -> None:
    """WA of the base study's fold heads, by hand: each row of the file's cache through the head of its fold."""
    base = study.open_study(space, "made")
    choice = study.ResultChoice("clips", "logistic", base.plan.layers[0])
    with Cache.open(space.cache / "exact" / "made--logistic-size" / "clips.h5") as file:
        ids, x = list(file.ids), file.features()[:, 0, 0, 0].astype(np.float32)
    right = []
    for row in base.read_test_rows(choice).itertuples():
        head = base.load_fold_head(choice, row.fold)
        p = head.predict_proba(x[ids.index(row.utterance)][None])[0]
        right.append(head.classes_[p.argmax()] == row.label)
    found = made["after"]["certificate"]["refit"]["ways"]["before"]["wa"]["estimate"]
    assert found == pytest.approx(np.mean(right))


def test_what_a_file_does_not_fit_is_said(space: workspace.Workspace, made: dict, tmp_path: Path) -> None:
    """Another profile, a recipe that pads, a damaged file, a file of before, no file."""
    with pytest.raises(UserError, match="of profile size"):
        stitch_export(space, "made.logistic-size-refit", profile="speed", clips=8)
    encoder = encoders.load(encoders.resolve(made["before"]["model"]))
    with pytest.raises(EncoderError, match="use the recipe that it was exported with"):
        encoder.pool(np.ones(8_000, np.float32), pad_to=128_000)
    with pytest.raises(EncoderError, match="No such file"):
        encoders.resolve(str(tmp_path / "away.onnx"))
    bad = tmp_path / "bad.onnx"
    shutil.copy(made["before"]["model"], bad)
    data = bytearray(bad.read_bytes())
    data[len(data) // 2] ^= 1
    bad.write_bytes(data)
    with pytest.raises(EncoderError, match="damaged"):
        encoders.resolve(str(bad))
    model = onnx.load(made["before"]["model"])
    for node in model.graph.node:
        node.output[:] = ["other" if name == "prepared" else name for name in node.output]
        node.input[:] = ["other" if name == "prepared" else name for name in node.input]
    with pytest.raises(EncoderError, match="cannot be told apart"):
        exported.extract_encoder(model, "old.onnx")


def test_layers_of_a_file_count_from_0(space: workspace.Workspace, tmp_path: Path) -> None:
    """A file of two layers and both statistics: a study of its second layer's means takes its columns, and so does
    the file that is made of it."""
    base = study.open_study(space, "made").plan
    flags = {"corpus": "clips", "recipe": "exact", "encoder": base.place, "folds": "speaker", "heads": ["logistic"]}
    flags["layer"] = "concat"
    study.run_single_study(space, flags=flags, settings={"folds.k": 4, "stats": ["mean", "std"]}, name="both")
    both = stitch_export(space, "both", profile="float", clips=8)["model"]
    spec = encoders.resolve(both)
    assert spec.layers == base.sources["clips"].layers > 1
    card = cards.read(cards.Recipe, space.card("cache", "exact"))
    extract.extract_corpus(space, "clips", recipe=card, encoder=both, views=0, jobs=1, progress=False)
    with (
        Cache.open(space.cache / "exact" / spec.slug / "clips.h5") as ours,
        Cache.open(base.sources["clips"].path) as b,
    ):
        layers, stats = range(spec.layers), (0, 1)
        got, expected = (f.features(layers=layers, stats=stats).astype(np.float32) for f in (ours, b))
        np.testing.assert_allclose(got, expected, atol=2e-3, rtol=2e-3)  # float16 steps
    study.run_single_study(
        space, flags={**flags, "encoder": both, "layer": "1"}, settings={"folds.k": 4}, name="second"
    )
    second = stitch_export(space, "second", output=tmp_path / "second.onnx", clips=8)
    assert second["certificate"]["file_against_torch"]["largest_change"] < 1e-4
    assert json.loads(Path(second["model"]).with_suffix(".certificate.json").read_text())["layer"] == 1
    assert encoders.resolve(second["model"]).layers == 1
