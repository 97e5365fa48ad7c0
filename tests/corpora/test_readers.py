"""Each corpus's own facts: counts, speakers, texts and the quirks of real copies."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from embedkit import corpora
from embedkit.classes import CLASSES
from embedkit.corpora import Utterance, assign_classes
from embedkit.errors import CorpusError


def load(name: str, root: Path) -> tuple[list[Utterance], list[str]]:
    rows = corpora.load(name, root)
    return rows, assign_classes(rows, corpora.find_reader(name).LABELS)


def test_iemocap_counts(trees):
    """10,039 turns, 5,531 in four classes, by session and class as published; the votes below a turn are no labels."""
    rows, classes = load("iemocap", trees["iemocap"])
    assert len(rows) == 10_039
    found = Counter((row.session, c) for row, c in zip(rows, classes, strict=True) if c)
    published = {
        "Ses01": (229, 278, 384, 194),
        "Ses02": (137, 327, 362, 197),
        "Ses03": (240, 286, 320, 305),
        "Ses04": (327, 303, 258, 143),
        "Ses05": (170, 442, 384, 245),
    }
    assert found == {(s, c): n for s, row in published.items() for c, n in zip(CLASSES, row, strict=True)}
    assert sum(found.values()) == 5_531
    assert {row.label for row in rows} == {"ang", "hap", "exc", "neu", "sad", "fru", "xxx", "sur", "fea", "dis", "oth"}


def test_iemocap_fields(trees):
    """The speaker is the letter before the number, not the one after the session; takes of a script share its text."""
    rows = {row.id: row for row in corpora.load("iemocap", trees["iemocap"])}
    row = rows["Ses01F_impro01_M003"]
    assert (row.speaker, row.gender, row.session) == ("iemocap:Ses01M", "male", "Ses01")
    assert (row.dialogue, row.text) == ("Ses01F_impro01", "")
    assert row.file == "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M003.wav"
    assert (row.valence, row.activation, row.dominance) == (2.5, 3.0, 3.5)
    assert math.isnan(row.start) and math.isnan(row.end)
    assert len({row.speaker for row in rows.values()}) == 10
    assert {row.text for row in rows.values()} == {"", "script01_1", "script02_2", "script03_1"}
    assert rows["Ses03M_script01_1b_F000"].text == rows["Ses02F_script01_1_M000"].text == "script01_1"


def test_iemocap_line_without_its_wav(makers, tmp_path):
    """The utterance is there under its .wav name, so that what reads sound can say what is missing."""
    root = makers["iemocap"](tmp_path)
    wav = "Session4/sentences/wav/Ses04F_impro01/Ses04F_impro01_F000.wav"
    (root / wav).unlink()
    rows = {row.id: row for row in corpora.load("iemocap", root)}
    assert len(rows) == 10_039 and rows["Ses04F_impro01_F000"].file == wav


def test_a_sheet_that_is_there_twice(makers, tmp_path):
    """A turn named by two sheets is an error, not two rows."""
    root = makers["iemocap"](tmp_path)
    sheet = root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    sheet.with_name("Ses01F_impro01 copy.txt").write_text(sheet.read_text())
    with pytest.raises(CorpusError, match="is there twice"):
        corpora.load("iemocap", root)


def test_mean_class_weights_of_the_folds(trees):
    """Balanced weights of three sessions and all of CREMA-D, averaged over five folds: the paper's, to 5e-5.

    Session i tests, the next validates; scikit-learn computes the weights.
    """
    from sklearn.utils.class_weight import compute_class_weight

    rows, classes = load("iemocap", trees["iemocap"])
    _, crema = load("crema-d", trees["crema-d"])
    sessions = sorted({row.session for row in rows})
    weights = []
    for i in range(5):
        held_out = {sessions[i], sessions[(i + 1) % 5]}
        y = [c for row, c in zip(rows, classes, strict=True) if c and row.session not in held_out]
        y += [c for c in crema if c]
        weights.append(compute_class_weight("balanced", classes=np.array(CLASSES), y=np.array(y)))
    np.testing.assert_allclose(np.mean(weights, axis=0), [1.0648, 0.9127, 0.9739, 1.0699], rtol=0, atol=5e-5)


def test_crema_d(trees):
    """7,442 clips, 4,900 in four classes as the paper counts them, 91 actors, 12 sentences; no sessions."""
    rows, classes = load("crema-d", trees["crema-d"])
    assert len(rows) == 7_442
    count = Counter(classes)
    assert [count[c] for c in CLASSES] == [1_271, 1_271, 1_087, 1_271]
    assert len({row.speaker for row in rows}) == 91 and len({row.text for row in rows}) == 12
    assert {row.session for row in rows} == {""}
    by_id = {row.id: row for row in rows}
    assert by_id["1040_ITH_SAD_XX"].file == "AudioWAV/1040_ITH_SAD_X.wav"
    assert [by_id[f"{actor}_DFA_ANG_XX"].gender for actor in (1001, 1002, 1003)] == ["male", "female", ""]


def test_crema_d_clips_given_themselves(trees):
    """AudioWAV as the root reads the same clips, files relative to it."""
    clips = trees["crema-d"] / "AudioWAV"
    assert corpora.folder("crema-d", clips) == clips
    rows = corpora.load("crema-d", clips)
    assert len(rows) == 7_442 and rows[0].file == "1001_DFA_ANG_XX.wav"


def test_ravdess(trees):
    """1,440 speech clips though each lies there twice; 864 in four classes (calm is neutral); songs are left out."""
    rows, classes = load("ravdess", trees["ravdess"])
    assert len(rows) == 1_440
    count = Counter(classes)
    assert [count[c] for c in CLASSES] == [192, 192, 288, 192]
    by_id = {row.id: row for row in rows}
    row = by_id["03-01-05-02-01-02-24"]
    assert (row.label, row.text, row.speaker, row.gender) == ("angry", "01", "ravdess:24", "female")
    assert by_id["03-01-02-01-02-01-01"].gender == "male"
    assert len({row.speaker for row in rows}) == 24 and {row.text for row in rows} == {"01", "02"}
    assert not any(row.file.startswith("Audio_Speech") for row in rows)


def test_ravdess_unpacked_as_it_comes(makers, tmp_path):
    """The official archive's own folder alone is found one level down."""
    root = makers["ravdess"](tmp_path)
    for actor in root.glob("Actor_*"):
        for clip in actor.iterdir():
            clip.unlink()
        actor.rmdir()
    rows = corpora.load("ravdess", root)
    assert len(rows) == 1_440
    assert corpora.folder("ravdess", root) == root / "Audio_Speech_Actors_01-24"


def test_real_recordings(shared):
    """The real clips at hand: counts, and hours by an independent sum over every file's frames."""
    ravdess = corpora.summarise_corpus("ravdess", shared / "data" / "ravdess")
    assert ravdess["utterances"] == 576 and len(ravdess["speakers"]) == 16 and ravdess["unreadable"] == 0
    assert ravdess["classes"] == {"anger": 128, "happiness": 128, "neutral": 192, "sadness": 128}
    crema = corpora.summarise_corpus("crema-d", shared / "data" / "crema-d")
    assert crema["utterances"] == 722 and crema["sessions"] == {}
    assert crema["classes"]["happiness"] == crema["labels"]["HAP"]
    frames = [len(soundfile.read(p)[0]) / 16_000 for p in (shared / "data" / "crema-d").rglob("*.flac")]
    assert crema["hours"] == pytest.approx(sum(frames) / 3600, abs=5e-5)


def test_summary_counts_what_it_cannot_read(tmp_path):
    """Hours of what is readable, parts by their length within the file; the rest counted as unreadable."""
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000 * 9, np.float32), 16_000)
    (tmp_path / "b.wav").write_text("version https://git-lfs.github.com/spec/v1\n")
    table = tmp_path / "mine.csv"
    table.write_text(
        "file,speaker,label,start,end\na.wav,1,anger,0,5\na.wav,1,sad,5,99\nb.wav,2,anger,,\nc.wav,2,x,,\n"
    )
    found = corpora.summarise_corpus("mine", table)
    assert (found["utterances"], found["unreadable"]) == (4, 2)
    assert found["hours"] == pytest.approx(9 / 3600, abs=5e-5)
    assert found["classes"] == {"anger": 2, "happiness": 0, "neutral": 0, "sadness": 0}
    assert found["labels"] == {"anger": 2, "sad": 1, "x": 1}
    assert found["speakers"] == {"mine:1": 2, "mine:2": 2}


def test_a_label_has_one_class():
    with pytest.raises(CorpusError, match="'exc' is both anger and happiness"):
        assign_classes([], {"anger": ["ang", "exc"], "happiness": ["exc"]})
