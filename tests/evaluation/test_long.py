"""Neutral bias: recordings are composed as they say, each way hears what it should, and no head judges its own rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from runtime_fixtures import build
from study_caches import DIM, make_workspace, utterances

from embedkit import calibration, cli, heads, study
from embedkit.audio import RATE
from embedkit.classes import CLASSES
from embedkit.corpora import Utterance
from embedkit.errors import CorpusError, StudyError, UserError
from embedkit.evaluation import long
from embedkit.evaluation.composition import plan_recordings
from embedkit.evaluation.table import format_evaluation
from embedkit.runtime import Predictor, speech
from embedkit.workspace import Workspace

QUIET_IS_NEUTRAL = np.array([-2.0, 0.0, 3.0, -3.0])  # on top of a slope by loudness: above 0.2 angry, below neutral
LOUD, SOFT = 0.5, 0.05
MAP = {name: [name] for name in CLASSES}


def square(level: float, seconds: float) -> np.ndarray:
    return (level * np.where(np.arange(round(seconds * RATE)) % 80 < 40, 1, -1)).astype(np.float32)


@pytest.fixture(autouse=True)
def speech_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that can be computed by hand: a frame is speech where it is louder than the pauses' noise."""
    monkeypatch.setattr(speech, "load_silero", lambda: lambda frame: float(np.abs(frame).mean() > 0.03))


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return Predictor(build(tmp_path / "model.onnx", offset=QUIET_IS_NEUTRAL), threads=1)


def corpus(folder: Path, speakers: int = 3, each: int = 6) -> list[Utterance]:
    """Loud anger and soft neutral, clips of 1 to 2 s."""
    rows = []
    for s in range(speakers):
        for label, level in (("anger", LOUD), ("neutral", SOFT)):
            for i in range(each):
                name = f"{s}-{label}-{i}.wav"
                soundfile.write(folder / name, square(level, 1 + i / each), RATE, subtype="FLOAT")
                rows.append(Utterance(name, name, label, f"made:{s}"))
    return rows


def measured(predictor: Predictor, rows: list[Utterance], folder: Path, **composition: Any) -> dict[str, Any]:
    result = long.measure_bias(long.FoldPredictors(predictor), rows, folder, MAP, long.Composition(**composition))
    json.dumps(result, allow_nan=False)
    return result


# ---------------------------------------------------------------- composing


def pauses(wave: np.ndarray, clips: list[np.ndarray]) -> Iterator[np.ndarray]:
    """What lies before, between and after the clips, which must be there whole and in order."""
    at = 0
    for clip in clips:
        begin = at + next(i for i in range(len(wave)) if np.array_equal(wave[at + i : at + i + len(clip)], clip))
        yield wave[at:begin]
        at = begin + len(clip)
    yield wave[at:]


def test_a_recording_is_what_it_says() -> None:
    """Clips as they are, pauses of the lengths asked for, each silent or noise 30 dB below the clips (to 0.4 dB)."""
    clips = [square(level, 0.5) for level in (0.5, 0.25, 0.125)]
    composition = long.Composition(gap=(0.3, 0.9))
    found = [p for name in "abcdefgh" for p in pauses(composition.compose(clips, name), clips)]
    assert all(round(0.3 * RATE) <= len(p) <= round(0.9 * RATE) for p in found)
    assert len({len(p) for p in found}) > 20
    noisy = [p for p in found if p.any()]
    assert 8 <= len(noisy) <= 24 and len(found) == 32
    level = np.sqrt(np.mean([0.5**2, 0.25**2, 0.125**2]))
    for pause in noisy:
        assert abs(20 * np.log10(np.sqrt(np.mean(pause.astype(np.float64) ** 2)) / level) + 30) < 0.4
        assert abs(pause.mean()) < 4 * pause.std() / np.sqrt(len(pause))


def test_the_same_name_gives_the_same_recording() -> None:
    """Whatever was composed before; another name or another seed gives another one."""
    clips = [square(0.5, 0.2)]
    once, again = long.Composition(), long.Composition()
    again.compose(clips, "other")
    assert np.array_equal(once.compose(clips, "name"), again.compose(clips, "name"))
    assert not np.array_equal(once.compose(clips, "name"), once.compose(clips, "another"))
    assert not np.array_equal(once.compose(clips, "name"), long.Composition(seed=1).compose(clips, "name"))


def test_no_noise_and_no_pause() -> None:
    clips = [square(0.5, 0.2), square(0.1, 0.3)]
    assert np.array_equal(long.Composition(gap=(0, 0)).compose(clips, "name"), np.concatenate(clips))


@pytest.mark.parametrize(
    "bad", [{"clips": 0}, {"gap": (-1, 2)}, {"gap": (3, 2)}, {"gap": (1, np.inf)}, {"noise": 3}, {"noise": -np.inf}]
)
def test_what_cannot_be_composed(bad: Mapping[str, Any]) -> None:
    with pytest.raises(UserError, match="expected at least 1 clip") as caught:
        long.Composition(**bad)
    assert "\n" not in str(caught.value)


def test_every_clip_is_in_one_recording(predictor: Predictor, tmp_path: Path) -> None:
    """6 clips of a speaker and class, 4 a recording: all in one; 3 a recording: two of 3; 9: one with what there is."""
    rows = corpus(tmp_path)
    classes = [row.label for row in rows]
    for clips, sizes in ((4, [6]), (3, [3, 3]), (9, [6]), (1, [1] * 6)):
        groups = list(plan_recordings(rows, classes, long.FoldPredictors(predictor), long.Composition(clips=clips)))
        assert sorted(row.id for g in groups for row in g.rows) == sorted(row.id for row in rows)
        assert [len(g.rows) for g in groups] == sizes * 6
        assert all({(row.speaker, row.label) for row in g.rows} == {(g.speaker, g.truth)} for g in groups)


# ---------------------------------------------------------------- the four ways


def test_silence_that_is_called_neutral_shows(predictor: Predictor, tmp_path: Path) -> None:
    """A file to which quiet is neutral: without detection the pauses turn anger to neutral, with it nothing is lost.

    Pauses are four times as long as clips, so that the mean of every window lies below 0.2.
    """
    rows = corpus(tmp_path)
    result = measured(predictor, rows, tmp_path, clips=3, gap=(6, 7))
    assert (result["recordings"], result["speakers"]) == (12, 3)
    assert result["truth"] == {"anger": 6, "happiness": 0, "neutral": 6, "sadness": 0}
    for way, right in (("vad", 1.0), ("clips", 1.0), ("windows", 0.5), ("whole", 0.5)):
        scores = result["ways"][way]
        assert scores["ua"]["estimate"] == scores["wa"]["estimate"] == right
        assert scores["neutral"]["truth"] == 0.5
        assert scores["neutral"]["bias"]["estimate"] == scores["neutral"]["said"]["estimate"] - 0.5 == 1 - right
        assert scores["recall"]["anger"]["estimate"] == 2 * right - 1
        assert scores["recall"]["happiness"]["estimate"] is None
        assert scores["precision"]["neutral"]["estimate"] == right
        assert scores["no_answer"] == 0
    assert [(c["score"], c["against"]) for c in result["comparisons"]] == [
        (score, way) for score in ("ua", "neutral said") for way in ("windows", "whole", "clips")
    ]
    differences = {(c["score"], c["against"]): c["difference"] for c in result["comparisons"]}
    assert differences["ua", "windows"] == 0.5 and differences["neutral said", "windows"] == -0.5
    assert differences["ua", "clips"] == 0


def test_the_confusion_is_counted_as_it_is_answered(predictor: Predictor, tmp_path: Path) -> None:
    """Against the four ways written out: predict with and without detection on a file, the first 8 s, clip by clip."""
    rows = corpus(tmp_path, speakers=2)
    result = measured(predictor, rows, tmp_path, clips=2, gap=(0.2, 3))
    groups = plan_recordings(
        rows, [r.label for r in rows], long.FoldPredictors(predictor), composition := long.Composition(2, (0.2, 3))
    )
    tables = {way: np.zeros((4, 4), int) for way in long.WAYS}
    for group in groups:
        clips = [soundfile.read(tmp_path / row.file, dtype="float32")[0] for row in group.rows]
        wave = composition.compose(clips, group.name)
        soundfile.write(tmp_path / "whole.wav", wave, RATE, subtype="FLOAT")
        each = sum(predictor.probabilities(clip).astype(float) * len(clip) for clip in clips)
        said = {
            "vad": predictor.predict(tmp_path / "whole.wav")["label"],
            "windows": predictor.predict(tmp_path / "whole.wav", vad=False)["label"],
            "whole": CLASSES[int(predictor.probabilities(wave[: 8 * RATE]).argmax())],
            "clips": CLASSES[int(each.argmax())],
        }
        for way, label in said.items():
            tables[way][CLASSES.index(group.truth), CLASSES.index(label)] += 1
    assert {way: scores["confusion"] for way, scores in result["ways"].items()} == {
        way: table.tolist() for way, table in tables.items()
    }
    assert tables["windows"][0, 0] not in (0, 6), "both answers should occur, or this test shows little"


def test_recordings_without_an_answer_are_wrong(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detector that never hears speech: no answers, no right ones, no NaN; the other ways are not concerned."""
    monkeypatch.setattr(speech, "load_silero", lambda: lambda _: 0.0)
    result = measured(predictor, corpus(tmp_path), tmp_path, clips=3)
    deaf = result["ways"]["vad"]
    assert deaf["no_answer"] == result["recordings"] == 12
    assert deaf["wa"]["estimate"] == deaf["ua"]["estimate"] == deaf["neutral"]["said"]["estimate"] == 0
    assert deaf["neutral"]["bias"]["estimate"] == -0.5
    assert np.sum(deaf["confusion"]) == 0
    assert deaf["precision"]["anger"]["estimate"] is None
    assert result["ways"]["clips"]["no_answer"] == 0
    assert result["ways"]["clips"]["wa"]["estimate"] == 1
    assert "12\n" in format_evaluation({**result, "corpus": "made", "heads": "the file's own", "notes": []})


def test_clips_that_cannot_be_used(predictor: Predictor, tmp_path: Path) -> None:
    """Missing, silent or outside the folder: named with the reason; labels without a class are counted."""
    rows = corpus(tmp_path)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    bad = [
        Utterance("a", "none.wav", "anger", "made:0"),
        Utterance("b", "silent.wav", "anger", "made:0"),
        Utterance("c", "none.wav", "boredom", "made:0"),
    ]
    result = measured(predictor, [*rows, *bad], tmp_path)
    assert {s["id"]: s["reason"] for s in result["skipped"]}.keys() == {"a", "b"}
    assert result["left_out"] == {"boredom": 1}
    with pytest.raises(CorpusError, match="of 3 utterances: 1 have no class, 2 cannot be used, 0 were tested"):
        measured(predictor, bad, tmp_path)


# ---------------------------------------------------------------- heads that have not heard the clips


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a finished study of made-up features: three speakers, three folds."""
    workspace = make_workspace(tmp_path_factory.mktemp("neutral"))
    flags = {"corpus": "ravdess", "folds": "speaker", "heads": ["quick"]}
    study.run_single_study(workspace, flags=flags, name="mine")
    return workspace


def exported(folder: Path, **changes: str | None) -> Predictor:
    meta = {"study": "mine", "arm": "ravdess", "head": "quick", "layer": "2", "weights_digest": "1" * 64}
    return Predictor(build(folder / "held.onnx", width=DIM, **{**meta, "temperature": "2", **changes}), threads=1)


def test_each_utterance_is_judged_by_the_head_of_its_fold(finished: Workspace, tmp_path: Path) -> None:
    """The judge of each utterance is the head that its fold kept, which was not trained on it; with the temperature."""
    held = exported(tmp_path)
    judges = long.load_fold_predictors(held, finished)
    opened = study.open_study(finished, "mine")
    rows = utterances("ravdess", 3, 5, sessions=False)
    known = [row for row in rows if row.label != "xxx"]
    assert set(judges.fold_by_utterance) == {row.id for row in known}
    assert judges.fold(rows[-1]) is None
    ids = opened.plan.columns["ids"]
    for i, fold in enumerate(opened.plan.folds):
        tested = {u for u, name in judges.fold_by_utterance.items() if name == fold.name}
        assert {row.speaker for row in known if row.id in tested} == {f"ravdess:{i + 1}"}
        assert not tested & set(ids[opened.plan.training_rows(i, "ravdess")])
        head = heads.load("logistic", finished.studies / f"mine/heads/ravdess/layer-2/quick/fold-{fold.name}")
        wave = square(0.3, 1)
        expected = calibration.apply_temperature(head.predict_proba(np.full((1, DIM), 0.3)), 2)[0]
        assert np.abs(judges[fold.name].probabilities(wave) - expected).max() < 1e-5
    assert np.abs(held.probabilities(square(0.3, 1)) - expected).max() > 1e-3, "the file's own head stays as it was"


def test_files_that_no_study_has_heads_for(finished: Workspace, tmp_path: Path) -> None:
    """Of no study, of one that is gone, of another encoder, of a head that it has not: one line each."""
    for changes, why in (
        ({"study": None}, "does not say"),
        ({"study": "gone"}, "gone"),
        ({"weights_digest": "2" * 64}, "another encoder"),
        ({"head": "mlp"}, "mlp"),
    ):
        with pytest.raises(StudyError, match=why) as caught:
            long.load_fold_predictors(exported(tmp_path, **changes), finished)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the verb


def test_the_verb(
    predictor: Predictor, finished: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """evaluate --long: one JSON document, a table for people, a note where the file has heard the clips."""
    rows = corpus(tmp_path, speakers=2)
    lines = ["file,speaker,label", *(f"{r.file},{r.speaker},{r.label}" for r in rows)]
    (tmp_path / "made.csv").write_text("\n".join(lines))
    begin = ["--workspace", str(finished.root), "evaluate"]
    ask = ["--corpus", "made", "--root", str(tmp_path / "made.csv")]
    more = ["--clips", "2", "--gap", "0.5", "2", "--noise", "-40", "--seed", "3"]
    assert cli.run([*begin, str(predictor.path), *ask, "--long", *more, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["composition"] == {"clips": 2, "gap": [0.5, 2], "noise": -40, "seed": 3}
    assert (said["recordings"], said["notes"]) == (12, [])
    assert cli.run([*begin, str(predictor.path), *ask, "--long", *more]) == 0
    shown = capsys.readouterr().out
    assert "called neutral" in shown and f"{said['ways']['windows']['ua']['estimate']:.3f}" in shown
    assert long.was_trained_on(exported(tmp_path), finished, "ravdess")
    assert not long.was_trained_on(exported(tmp_path), finished, "crema-d")
    for wrong, why in (
        ([str(predictor.path), *ask, "--held-out"], "--held-out belongs to --long"),
        ([str(predictor.path), *ask, "--gap", "1", "2"], "--gap belongs to --long"),
        ([str(exported(tmp_path).path), *ask, "--long", "--held-out"], "24 were tested by no fold"),
    ):
        assert cli.run([*begin, *wrong]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and why in captured.err and captured.err.strip().count("\n") == 0
