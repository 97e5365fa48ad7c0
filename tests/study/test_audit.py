"""The audit: each check finds a leak that was planted, stays silent on a clean study, and says what it found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_caches import make_workspace, utterances, write_cache

from embedkit import cli, study
from embedkit.corpora import Utterance
from embedkit.errors import CardError, StudyError
from embedkit.heads import logistic
from embedkit.study import Fold, StudyPlan, plan_study, resolve_study
from embedkit.study import leakage as audit
from embedkit.study.audit import _read_scalers
from embedkit.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Five sessions of two speakers, as study_caches makes them."""
    return make_workspace(tmp_path)


def planned(workspace: Workspace, settings: dict[str, Any] | None = None, **flags: Any) -> StudyPlan:
    return plan_study(workspace, *resolve_study(workspace, flags={"heads": ["net"], **flags}, settings=settings))


def found(p: StudyPlan) -> dict[str, audit.Finding]:
    findings = audit.audit_plan(p)
    assert len({f.check for f in findings}) == len(findings)
    return {f.check: f for f in findings}


def with_session(rows: Sequence[Utterance], **columns: Any) -> list[Utterance]:
    """Rows with columns replaced; a callable is asked for each row."""
    return [replace(u, **{k: v(u) if callable(v) else v for k, v in columns.items()}) for u in rows]


def number(u: Utterance) -> int:
    return int(u.id.split("-")[-1])


def crossing_by_hand(p: StudyPlan, key: Sequence[str]) -> set[str]:
    """A slow original: what two rows on different sides of a fold share."""
    shared = set()
    for fold in p.folds:
        for mixed in p.arms.values():
            side = {
                **dict.fromkeys(np.r_[fold.train, mixed].tolist(), 0),
                **dict.fromkeys(fold.validate.tolist(), 1),
                **dict.fromkeys(fold.test.tolist(), 2),
            }
            shared |= {key[i] for i in side for j in side if side[i] != side[j] and key[i] == key[j] != ""}
    return shared


# ---------------------------------------------------------------- a plan


@pytest.mark.parametrize("flags", [{}, {"mix": ["crema-d"]}, {"folds": "speaker"}, {"test": "ravdess"}])
def test_a_clean_study_is_silent(workspace: Workspace, flags: dict[str, Any]) -> None:
    """Sessions and speakers apart, no sound twice, no text known: nothing at all (but the partners of speaker folds,
    of which each session is one)."""
    p = planned(workspace, **flags)
    assert p.views == 1 and audit.list_checks(p) == ["speaker", "recording", "views", "partner", "text", "labels"]
    expected = {"partner": 5} if flags.get("folds") else {}
    assert {f.check: f.count for f in audit.audit_plan(p)} == expected


def test_a_speaker_in_two_sessions_fails(workspace: Workspace) -> None:
    """The one who crosses is named, with the folds; folds by speaker keep that speaker whole."""
    rows = with_session(
        utterances("iemocap", 10, 4),
        speaker=lambda u: "iemocap:1" if u.speaker == "iemocap:9" else u.speaker,
    )
    write_cache(workspace.root, rows)
    finding = found(planned(workspace))["speaker"]
    assert (finding.verdict, finding.count, finding.examples) == ("fail", 1, ["iemocap:1"])
    assert finding.folds == ["Ses01", "Ses04", "Ses05"]  # where Ses02 or Ses03 tests, 1 and 5 both train
    assert "1 of 9 tested are on another side too (iemocap:1; 3 of 5 folds)" in finding.text
    assert "speaker" not in found(planned(workspace, folds="speaker"))


def test_identical_sound_on_two_sides_fails(workspace: Workspace) -> None:
    """Row 0 (Ses01) sounds as a row of Ses05: found as a recording and, as views are trained on, as views; by name it
    is allowed; within one session it does not matter."""
    rows = utterances("iemocap", 10, 4)
    write_cache(workspace.root, rows, twins=[(0, len(rows) - 2)])
    got = found(planned(workspace))
    assert got["recording"].verdict == got["views"].verdict == "fail"
    assert got["recording"].examples == [f"iemocap/{rows[0].id} = iemocap/{rows[-2].id}"]
    assert "views" not in found(planned(workspace, {"views": 0}))
    assert found(planned(workspace, {"audit.allow": ["recording"]}))["recording"].verdict == "allowed"
    assert found(planned(workspace, {"audit.allow": ["recording"]}))["views"].verdict == "fail"
    write_cache(workspace.root, rows, twins=[(0, 1)])
    assert not found(planned(workspace))


def test_identical_sound_in_what_is_mixed_in_fails(workspace: Workspace) -> None:
    """A clip of the corpus that is tested lies in the mix under another name: only the arm that mixes it in leaks."""
    rows = utterances("crema-d", 4, 10, sessions=False)
    write_cache(workspace.root, [replace(rows[0], id="iemocap-0-ang-0"), *rows[1:]])
    p = planned(workspace, {"arms": [{"name": "alone"}, {"name": "both", "mix": {"crema-d": 1.0}}]})
    finding = found(p)["recording"]
    assert (finding.arms, finding.count) == (["both"], 1)
    assert finding.folds == ["Ses01", "Ses05"]  # where Ses01 tests, and where it validates


def test_a_row_on_two_sides_fails_without_digests(workspace: Workspace) -> None:
    """A tested row among the training rows is found by its name, where the sound's digest is not known."""
    p = planned(workspace)
    p.columns["audio_digest"][:] = ""
    assert not found(p)
    fold = p.folds[0]
    p = replace(p, folds=[Fold(fold.name, np.r_[fold.train, fold.test[:2]], fold.validate, fold.test), *p.folds[1:]])
    got = found(p)
    assert {"recording", "views", "speaker", "partner"} <= set(got) and got["views"].count == 2
    assert got["partner"].verdict == "fail"


def test_a_view_of_a_validation_clip_fails(workspace: Workspace) -> None:
    """Validation and test may share a sound without a view of it being trained on; validation and training may not."""
    p, fold = planned(workspace), planned(workspace).folds[0]
    both = Fold("a", fold.train, np.r_[fold.validate, fold.test[:1]], fold.test)
    trained = Fold("b", np.r_[fold.train, fold.validate[:1]], fold.validate, fold.test)
    assert {"recording"} <= set(found(replace(p, folds=[both]))) and "views" not in found(replace(p, folds=[both]))
    assert {"recording", "views"} <= set(found(replace(p, folds=[trained])))


def test_a_partner_across_sides_fails_where_folds_are_sessions(workspace: Workspace) -> None:
    """A dialogue that goes on in another session with the other speaker fails under loso, and is told otherwise; a
    dialogue of one speaker, and one within a session, are none of it."""
    rows = utterances("iemocap", 10, 4)
    spread = with_session(rows, dialogue=lambda u: "d" if u.speaker in ("iemocap:2", "iemocap:3") else "")
    write_cache(workspace.root, spread)
    finding = found(planned(workspace))["partner"]
    assert (finding.verdict, finding.count, finding.examples) == ("fail", 1, ["iemocap/d"])
    assert found(planned(workspace, {"audit.allow": ["partner"]}))["partner"].verdict == "allowed"
    assert found(planned(workspace, folds="speaker"))["partner"].verdict == "report"
    write_cache(workspace.root, with_session(rows, dialogue=lambda u: u.session))
    assert not found(planned(workspace))
    alone = with_session(rows, session="", dialogue=lambda u: u.speaker)
    write_cache(workspace.root, alone)
    assert "partner" not in found(planned(workspace, folds="shuffle"))


def test_shared_text_is_told_with_its_count(workspace: Workspace) -> None:
    """Two sentences by all speakers, and one of a single speaker; `audit.text = "fail"` makes a leak of them."""
    rows = with_session(
        utterances("iemocap", 10, 4),
        text=lambda u: "own" if u.speaker == "iemocap:1" else ["kids", "dogs", "", "dogs"][number(u)],
    )
    write_cache(workspace.root, rows)
    finding = found(planned(workspace))["text"]
    assert (finding.verdict, finding.count, finding.examples) == ("report", 2, ["iemocap/dogs", "iemocap/kids"])
    assert "share sentences: 2 of 3 tested" in finding.text
    assert found(planned(workspace, {"audit.text": "fail"}))["text"].verdict == "fail"
    assert found(planned(workspace, {"audit.text": "fail", "audit.allow": ["text"]}))["text"].verdict == "allowed"


def test_sentences_of_two_corpora_are_not_the_same(workspace: Workspace) -> None:
    """A sentence's id counts within its corpus."""
    write_cache(workspace.root, with_session(utterances("iemocap", 10, 4), text=lambda u: u.speaker))
    write_cache(workspace.root, with_session(utterances("crema-d", 4, 10, sessions=False), text="iemocap:1"))
    assert "text" not in found(planned(workspace, mix=["crema-d"]))


def test_contradicting_labels_are_listed(workspace: Workspace) -> None:
    """Identical sound under two classes is told with both labels; under two labels of one class it is not."""
    rows = utterances("iemocap", 10, 4)
    place = {label: next(i for i, u in enumerate(rows) if u.label == label) for label in ("hap", "exc", "neu")}
    write_cache(workspace.root, rows, twins=[(place["hap"], place["exc"])])
    assert not found(planned(workspace))
    write_cache(workspace.root, rows, twins=[(place["hap"], place["neu"])])
    finding = found(planned(workspace))["labels"]
    assert (finding.verdict, finding.count) == ("report", 1)
    assert finding.examples == ["iemocap/iemocap-0-hap-0 (hap) = iemocap/iemocap-0-neu-0 (neu)"]


def test_what_crosses_is_what_a_slow_search_finds(workspace: Workspace) -> None:
    """On folds drawn at random: speakers, recordings and sentences equal a look at every pair of rows."""
    random = np.random.default_rng(0)
    rows = with_session(utterances("iemocap", 10, 4), text=lambda u: f"s{random.integers(80)}" if number(u) else "")
    twins = random.permutation(len(rows))[:20].reshape(10, 2)
    write_cache(workspace.root, rows, twins=[(int(a), int(b)) for a, b in twins])
    p = planned(workspace)
    parts = np.split(random.permutation(len(p.y))[:60], [30, 45])
    p = replace(p, folds=[Fold("x", *parts), Fold("y", *reversed(parts))])
    got, digests = found(p), p.columns["audio_digest"]
    assert got["speaker"].count == len(crossing_by_hand(p, p.columns["speaker"]))
    assert got["text"].count == len(crossing_by_hand(p, p.columns["text"])) > 0
    by_hand = crossing_by_hand(p, digests)
    assert (got["recording"].count if by_hand else 0) == len(by_hand)


# ---------------------------------------------------------------- a study that leaks


def bad(workspace: Workspace) -> str:
    """A deliberately bad card: "sessions" that are takes, so that clips are split and every speaker is on each side."""
    rows = with_session(utterances("iemocap", 10, 4), session=lambda u: f"take{number(u)}")
    write_cache(workspace.root, rows)
    (workspace.studies / "bad.toml").write_text('corpus = "iemocap"\nheads = ["quick"]\n[folds]\nkind = "loso"\n')
    return "bad"


def test_a_bad_card_is_refused_before_anything_trains(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the leak and how to allow it; nothing is written; allowed by name it runs and tells."""
    name = bad(workspace)
    with monkeypatch.context() as m:
        m.setattr(study.FoldTrainer, "train", lambda *_: pytest.fail("trained"))
        with pytest.raises(StudyError, match=r'leak speakers: 10 of 10 .*audit.allow=\["speaker"\]') as caught:
            study.run_single_study(workspace, name)
    assert "\n" not in str(caught.value) and not (workspace.studies / name).exists()
    doc = study.run_single_study(workspace, name, settings={"audit.allow": ["speaker"]})
    assert [(f["check"], f["verdict"]) for f in doc["audit"]] == [("speaker", "allowed")]
    assert "leak speakers: 10 of 10 tested" in doc["table"]
    kept = json.loads((workspace.studies / name / "audit.json").read_text())
    assert kept["passed"] and kept["findings"] == doc["audit"]


def test_the_verb_ends_with_1_where_something_leaks(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """On a card that has not run; a study that is clean, or allowed by name, ends with 0; an unknown name with 2."""
    name, here = bad(workspace), ["--workspace", str(workspace.root), "audit"]
    assert cli.run([*here, name]) == 1
    out = capsys.readouterr().out
    assert "FAIL     speaker" in out and "ok       recording" in out
    assert cli.run([*here, str(workspace.studies / "bad.toml"), "--json"]) == 1
    doc = json.loads(capsys.readouterr().out)
    assert (doc["study"], doc["passed"], doc["findings"][0]["count"]) == ("bad", False, 10)
    study.run_single_study(workspace, name, settings={"audit.allow": ["speaker"]})
    assert cli.run([*here, name]) == 0
    assert "allowed  speaker" in capsys.readouterr().out
    assert cli.run([*here, "bda", "--json"]) == 2
    assert capsys.readouterr().err.endswith("did you mean 'bad'?\n")


def test_a_shuffle_is_asked_for_and_tells_its_leak(workspace: Workspace) -> None:
    """--folds shuffle allows crossing speakers, and nothing else."""
    got = found(planned(workspace, folds="shuffle"))
    assert {c: f.verdict for c, f in got.items()} == {"speaker": "allowed", "partner": "report"}
    rows = utterances("iemocap", 10, 4)
    write_cache(workspace.root, rows, twins=[(i, len(rows) - 2 - i) for i in range(60)])
    with pytest.raises(StudyError, match=r'leak recordings.*audit.allow=\["recording"\]'):
        study.run_single_study(workspace, flags={"heads": ["quick"], "folds": "shuffle"})


def test_an_unknown_allowance_is_refused(workspace: Workspace) -> None:
    """A misspelt check, and a key that is none."""
    with pytest.raises(CardError, match=r"audit\.allow\.0 = 'speakers'"):
        planned(workspace, {"audit.allow": ["speakers"]})
    with pytest.raises(CardError, match="did you mean 'allow'"):
        planned(workspace, {"audit.alow": ["speaker"]})


# ---------------------------------------------------------------- what a study kept


@pytest.fixture
def finished(workspace: Workspace) -> Workspace:
    flags = {"heads": ["quick", "net"], "trials": 1, "seeds": 2, "mix": ["crema-d=0.5"]}
    study.run_single_study(workspace, flags=flags, settings={"heads.net.standardize": True}, name="s")
    return workspace


def test_a_finished_study_is_held_against_its_record(finished: Workspace) -> None:
    """Fits, searches and scalers of a study that did what was planned: all are looked at, nothing is found."""
    doc = study.audit_single_study(finished, "s")
    assert doc["checked"][-3:] == ["fit", "search", "scaler"] and doc["passed"] and not doc["findings"]
    assert json.loads((finished.studies / "s" / "audit.json").read_text()) == doc
    scalers = list(_read_scalers(study.open_study(finished, "s").plan))
    assert len(scalers) == 10 and all(np.abs(s.mean).max() > 0.01 for s in scalers)  # five folds of two heads
    unit, p = json.loads((finished.studies / "s" / "units.json").read_text())[0], study.open_study(finished, "s").plan
    rows = np.concatenate([p.folds[0].train, p.arms["iemocap+crema-d=0.5"]])
    assert unit["saw"]["train"] == p.digest_utterances(rows[::-1]) != p.digest_utterances(rows[1:])


def test_a_fit_that_saw_test_rows_fails(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bench that hands test rows to one fold's fit: the study ends without results, and says which fit."""
    init = study.FoldTrainer.__init__

    def leaky(self: study.FoldTrainer, p: StudyPlan) -> None:
        third = replace(p.folds[2], train=np.r_[p.folds[2].train, p.folds[2].test[:1]])
        init(self, replace(p, folds=[*p.folds[:2], third, *p.folds[3:]]))

    said = r"heads trained on, .* rows than the plan's: 1 \(iemocap/layer-2/quick, seed 0, fold Ses03\)"
    with monkeypatch.context() as m:
        m.setattr(study.FoldTrainer, "__init__", leaky)
        with pytest.raises(StudyError, match=said):
            study.run_single_study(workspace, flags={"heads": ["quick"]}, name="s", jobs=1)
    assert not (workspace.studies / "s" / "results.json").exists()
    doc = study.audit_single_study(workspace, "s")
    assert {f["check"]: f["folds"] for f in doc["findings"]} == {"fit": ["Ses03"], "scaler": ["Ses03"]}
    assert not doc["passed"]


def test_a_scaler_that_saw_other_rows_fails(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head whose scaler is fitted on more than it was given to train on is found from what it kept."""
    standard = logistic.compute_mean_and_scale
    with monkeypatch.context() as m:
        m.setattr(logistic, "compute_mean_and_scale", lambda X: standard(np.concatenate([X, X[:1]])))  # one row twice
        study.run_single_study(workspace, flags={"heads": ["quick"]}, name="s")
    doc = study.audit_single_study(workspace, "s")
    assert [(f["check"], f["verdict"], f["count"]) for f in doc["findings"]] == [("scaler", "fail", 5)]


def test_a_search_that_saw_test_rows_fails(finished: Workspace) -> None:
    """A search whose record is of other rows, or has none, is named; one that was given the plan's is not."""
    p = study.open_study(finished, "s").plan
    known = json.loads((finished.studies / "s" / "search.json").read_text())
    assert [entry["head"] for entry in known] == ["quick"] and not audit.audit_record(p, [], known)
    leaky = [Fold(f.name, f.train, np.r_[f.validate, f.test], f.test) for f in p.folds]
    bench = study.FoldTrainer(replace(p, folds=leaky))
    for saw in (bench.digest_search_rows(("iemocap+crema-d=0.5", 2, "quick")), {}):
        (finding,) = audit.audit_record(p, [], [{**known[0], "saw": saw}])
        assert (finding.check, finding.verdict) == ("search", "fail") and "layer-2/quick" in finding.text


def test_a_changed_cache_cannot_be_audited(finished: Workspace) -> None:
    """The record says nothing about rows that are no longer there."""
    write_cache(finished.root, utterances("iemocap", 10, 5))
    with pytest.raises(StudyError, match="has changed since"):
        study.audit_single_study(finished, "s")
