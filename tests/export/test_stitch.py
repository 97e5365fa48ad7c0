"""From a corpus to a certified file with the verbs that a user runs, and back through the runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from encoders_fixtures import tiny_hubert
from export_fixtures import CLASSES, corpus, studied

from embedkit import audio, cache, calibration, cards, corpora, encoders, extract, study, workspace
from embedkit.encoders import write_random_distilhubert
from embedkit.errors import CardError, CorpusError, EmbedkitError, EncoderError, StudyError, UserError
from embedkit.export import assemble as files
from embedkit.export import stitch_study
from embedkit.export.clips import _split_rows
from embedkit.runtime import Predictor


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> workspace.Workspace:
    root = tmp_path_factory.mktemp("stitch")
    (root / "clips").mkdir()
    encoder = tiny_hubert(root / "tiny")
    return studied(root / "space", encoder, corpus(root / "clips"), "exact")


@pytest.fixture(scope="module")
def once() -> Callable[[torch.nn.Module], onnx.ModelProto]:
    """The exporter, which takes its time, run once: an encoder's graph is the same whatever the head."""
    exported, kept = files.export_body, []

    def export(body: torch.nn.Module) -> onnx.ModelProto:
        kept[:] = kept or [exported(body).SerializeToString()]
        return onnx.load_from_string(kept[0])

    return export


@pytest.fixture(scope="module")
def made(space: workspace.Workspace, once: Callable) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "export_body", once)
        return stitch_study(space, head="logistic", clips=20)


def test_the_file_lies_where_the_contract_says(space: workspace.Workspace, made: dict) -> None:
    """studies/<study>/<head>-<profile>.onnx with its certificate beside it, and nothing half-written."""
    path = space.studies / "made" / "logistic-size.onnx"
    assert made["model"] == str(path)
    assert made["bytes"] == path.stat().st_size
    beside = json.loads(path.with_suffix(".certificate.json").read_text())
    assert beside == json.loads(json.dumps(made["certificate"]))
    assert not [p.name for p in path.parent.iterdir() if p.name.startswith(".logistic")]


def test_the_certificate_says_what_it_is_of(made: dict) -> None:
    """20 clips, agreement with torch to 1e-4 in float32, 8-bit weights, and the folds' own UA."""
    certificate = made["certificate"]
    assert certificate["clips"] == 20
    assert certificate["float_against_torch"]["largest_change"] < 1e-4
    assert certificate["float_against_torch"]["flips"] == 0
    assert 0 < certificate["file_against_torch"]["mean_change"] < certificate["limits"]["file"]["mean_change"]
    assert certificate["past_limits"] == []
    assert certificate["quantized"]["positional convolution"] == 1
    assert certificate["weights"] == "random"
    assert len(certificate["ua"]["folds"]) == 4


def certified(space: workspace.Workspace, count: int) -> list[corpora.Utterance]:
    """The clips that a certificate of so many looks at."""
    source = study.open_study(space, "made").plan.sources["clips"]
    with cache.Cache.open(source.path) as file:
        utterances = file.read_utterances()
    rows = [utterances[row] for row in source.rows]
    return [rows[i] for i in _split_rows(rows, count)[1]]


def test_ua_is_that_of_the_folds_own_heads_on_their_test_rows(space: workspace.Workspace, made: dict) -> None:
    """All 20 clips were tested by one fold each; torch's answers are those of the study's record (cached features are
    float16, so one clip may differ)."""
    found = made["certificate"]["test_folds"]
    assert (found["clips"], found["left_out"], found["speakers"], found["judged"]) == (20, 0, 4, False)
    assert set(found["ways"]) == {"torch", "float", "file"}
    assert [x["way"] for x in found["comparisons"]] == ["float", "file"]
    chosen = {u.id for u in certified(space, 20)}
    finished = study.open_study(space, "made")
    record = finished.read_test_rows(study.choose_best_result(finished.results, head="logistic"))
    record = record[record["utterance"].isin(chosen)]
    right = record["label"] == np.array(CLASSES)[record[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(1)]
    assert len(record) == 20 and abs(found["ways"]["torch"]["wa"]["estimate"] - right.mean()) < 1.5 / 20


def test_the_card_and_the_costs(made: dict) -> None:
    """Beside the file; it names what it is of, warns of random weights, and holds the certificate's figures."""
    certificate, page = made["certificate"], Path(made["card"]).read_text()
    assert Path(made["card"]) == Path(made["model"]).with_suffix(".md")
    assert set(certificate["milliseconds"]["1"]) == {"torch", "float", "file"}
    assert set(certificate["milliseconds"]["2"]) == {"float", "file"}
    assert 30 < certificate["peak_memory_mb"] < 1_000
    for said in ("weights are random", "logistic-size.onnx", "study `made`", certificate["sha256"], "20 clips"):
        assert said in page
    assert "as its recordings" in page, "the corpus's terms"


def test_the_runtime_reads_the_file_and_agrees_with_torch(space: workspace.Workspace, made: dict) -> None:
    """Metadata, and probabilities of every clip against prepare, pool and predict_proba at the folds' temperature."""
    predictor = Predictor(made["model"])
    meta = {key.removeprefix("embedkit."): value for key, value in predictor.meta.items()}
    recipe = cards.Recipe.model_validate_json(meta["recipe"])
    assert (meta["study"], meta["head"], meta["layer"], meta["profile"]) == ("made", "logistic", "2", "size")
    assert (meta["encoder"], meta["weights"], meta["rate"]) == ("tiny", "random", "16000")
    finished = study.open_study(space, "made")
    choice = study.choose_best_result(finished.results, head="logistic")
    head, kept = finished.refit(choice), next(r for r in finished.results if r["head"] == "logistic")["calibration"]
    temperature = kept["temperature"]["median"]
    assert abs(temperature - 1) > 0.01 and float(meta["temperature"]) == pytest.approx(temperature, rel=1e-5)
    encoder = encoders.load(encoders.resolve(finished.plan.place))
    for file in sorted(space.resolve_corpus_root("clips").parent.glob("*.wav"))[::3]:
        wave = audio.read(file)
        pooled = encoder.pool(audio.cut_to_length(audio.prepare(wave, recipe.sound), recipe.sound))
        expected = calibration.apply_temperature(head.predict_proba(pooled[-1, :1])[0], temperature)
        np.testing.assert_allclose(predictor.probabilities(wave), expected, atol=0.05)


def test_past_the_limits_no_file_is_left(
    space: workspace.Workspace, once: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a limit that nothing can keep: exit code 1, no file, and what was found under a name that says so. Once a
    file of that name is written (a tree head this time), the rejected certificate goes."""
    monkeypatch.setattr(files, "export_body", once)
    path = tmp_path / "model.onnx"
    with pytest.raises(EmbedkitError, match=r"change by .* \(limit 0\).* no file is written") as raised:
        stitch_study(space, head="logistic", output=path, clips=8, settings={"certificate.size.mean_change": 0.0})
    assert raised.value.exit_code == 1 and "\n" not in str(raised.value)
    (rejected,) = tmp_path.iterdir()
    assert rejected.name == "model.rejected.certificate.json" and str(rejected) in str(raised.value)
    assert json.loads(rejected.read_text())["past_limits"]
    stitch_study(space, head="lightgbm", output=path, clips=8)
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "model.certificate.json", "model.md"}


def test_mistakes_end_in_one_line_before_the_long_work(
    space: workspace.Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wrong profile, head, folder or study, a corpus that is gone, weights that were exchanged."""
    monkeypatch.setattr("embedkit.export.stitch.build_float_graph", lambda _: pytest.fail("the long work began"))
    for error, wanted in (
        (UserError, {"profile": "sise"}),
        (StudyError, {"head": "logistics"}),
        (StudyError, {"layer": 7}),
        (StudyError, {"study": "mad"}),
        (UserError, {"output": tmp_path / "no" / "model.onnx"}),
        (UserError, {"output": tmp_path / "model.md"}),
        (UserError, {"clips": 0}),
        (CardError, {"settings": {"certificate.size.flip": 0.1}}),
        (CardError, {"settings": {"folds.k": 4}}),
        (StudyError, {"root": tmp_path / "no.csv"}),
    ):
        with pytest.raises(error) as raised:
            stitch_study(space, **wanted)
        assert raised.value.exit_code == 2
        assert "\n" not in str(raised.value)
    monkeypatch.setattr("embedkit.workspace.Workspace.settings", lambda _: {})
    with pytest.raises(CorpusError):
        stitch_study(space)


def test_another_encoder_under_the_same_name_is_refused(space: workspace.Workspace) -> None:
    """The study's features are of other weights than those that the folder now holds."""
    place = Path(study.open_study(space, "made").plan.place)
    before = (place / encoders.WEIGHTS).read_bytes()
    tiny_hubert(place, seed=1)
    try:
        with pytest.raises(EncoderError, match="not those"):
            stitch_study(space)
    finally:
        (place / encoders.WEIGHTS).write_bytes(before)


def test_a_family_without_a_graph_is_refused(space: workspace.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new family serves caches and studies at once; an export says that it cannot, before the long work."""
    resolve = encoders.resolve
    monkeypatch.setattr(encoders, "resolve", lambda name: replace(resolve(name), family="other"))
    with pytest.raises(EncoderError, match=r"family other can be exported, only of hubert, whisper, exported"):
        stitch_study(space)


@pytest.mark.slow
def test_distilhuberts_geometry_fits_into_24_million_bytes(tmp_path: Path, shared: Path) -> None:
    """All 8-bit, in the paper's size, and certified on real recordings."""
    encoder = write_random_distilhubert(tmp_path / "distil")
    space = workspace.init_workspace(tmp_path / "space")
    card = cards.read(cards.Recipe, space.card("cache", "exact"))
    root = shared / "data" / "ravdess"
    extract.extract_corpus(
        space, "ravdess", root=root, recipe=card, encoder=str(encoder), views=0, limit=32, jobs=1, progress=False
    )
    flags = {"corpus": "ravdess", "encoder": str(encoder), "folds": "speaker", "heads": ["logistic"]}
    study.run_single_study(space, flags=flags, settings={"folds.k": 4}, name="made", partial=True)
    made = stitch_study(space, root=root, clips=8)
    assert made["bytes"] <= 24_000_000
    counts = made["certificate"]["quantized"]
    assert counts == {"convolution": 6, "head": 1, "linear": 13, "positional convolution": 1}
    assert made["certificate"]["float_against_torch"]["largest_change"] < 1e-3
