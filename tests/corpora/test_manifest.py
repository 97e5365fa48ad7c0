"""Manifests: what a CSV may say, and the line and reason for what it may not."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from embedkit import corpora
from embedkit.errors import CorpusError


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "mine.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_fields(trees):
    """Optional columns, a byte order mark, quoted cells, parts of a file; unknown numbers are NaN."""
    a, first, second = corpora.load("mine", trees["manifest"])
    assert (a.id, a.file, a.label, a.speaker, a.session) == ("clips/a.wav", "clips/a.wav", "anger", "mine:anna", "one")
    assert a.gender == "female" and a.valence == 1.5 and math.isnan(a.start) and math.isnan(a.activation)
    assert (first.id, first.start, first.end) == ("clips/b.wav#0-1.5", 0.0, 1.5)
    assert (second.id, second.label, second.gender) == ("clips/b.wav#1.5-2.25", "bored, tired", "")
    assert corpora.folder("mine", trees["manifest"]) == trees["manifest"].parent


def test_open_ended_parts(tmp_path):
    """Only a start or only an end is a part too; ids do not run together however long the file is."""
    rows = corpora.load(
        "mine",
        write(
            tmp_path,
            "file,speaker,label,start,end\n./a.wav,1,x,2,\na.wav,1,x,,2\na.wav,1,x,12345.678,12346\n"
            "a.wav,1,x,12345.679,12346\n\n",
        ),
    )
    assert [row.id.partition("#")[2] for row in rows] == ["2-", "-2", "12345.678-12346", "12345.679-12346"]
    assert {row.file for row in rows} == {"a.wav"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column 'file'"),
        ("file,speaker\na.wav,1\n", "line 1: no column 'label'"),
        ("file,speaker,lable\na.wav,1,x\n", "line 1: unknown column 'lable'; did you mean 'label'"),
        ("file,speaker,label,label\na.wav,1,x,y\n", "line 1: column 'label' is there twice"),
        ("file;speaker;label\na.wav;1;x\n", "separate columns by commas"),
        ("file,speaker,label\na.wav,1,x\nb.wav,1,\n", "line 3: 'label' is empty"),
        ("file,speaker,label\na.wav,1\n", "line 2: not as many cells"),
        ("file,speaker,label\na.wav,1,x,y\n", "line 2: not as many cells"),
        ("file,speaker,label,start\na.wav,1,x,two\n", "line 2: start 'two' is not a number"),
        ("file,speaker,label,valence\na.wav,1,x,inf\n", "line 2: valence 'inf' is not a number"),
        ("file,speaker,label,start,end\na.wav,1,x,2,2\n", "line 2: start 2 s, end 2 s: expected 0 <= start < end"),
        ("file,speaker,label,start,end\na.wav,1,x,-1,2\n", "expected 0 <= start < end"),
        ("file,speaker,label,gender\na.wav,1,x,frau\n", "line 2: gender 'frau': expected female"),
        ("file,speaker,label\n../a.wav,1,x\n", "line 2: '../a.wav' leads out of"),
        ("file,speaker,label\n/etc/a.wav,1,x\n", "line 2: '/etc/a.wav' leads out of"),
        ("file,speaker,label\nclips\\a.wav,1,x\n", "forward slashes"),
        ("file,speaker,label\na\0.wav,1,x\n", "line 2: "),
        ('file,speaker,label\na.wav,1,"x\ny"\n', "line 3: label 'x\\ny' holds a control character"),
        ('file,speaker,label\na.wav,1,"x"y\n', "line 2: not CSV"),
        ("file,speaker,label\na.wav,1,x\na.wav,2,y\n", "'a.wav' is there twice"),
        ("file,speaker,label\n", "no labelled utterance"),
    ],
)
def test_refused(text, message, tmp_path):
    """One line with the file, the line's number and what to do."""
    with pytest.raises(CorpusError, match=re.escape(message)) as error:
        corpora.load("mine", write(tmp_path, text))
    assert "mine.csv" in str(error.value) and "\n" not in str(error.value)


def test_other_encodings(tmp_path):
    """A table that is not UTF-8 is refused in words."""
    with pytest.raises(CorpusError, match="not UTF-8"):
        corpora.load("mine", write(tmp_path, "file,speaker,label\nä.wav,1,x\n", encoding="latin-1"))


def test_link_that_leads_out(tmp_path):
    """A link inside the folder to a recording outside is a way out, and refused."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret.wav").touch()
    (inner / "a.wav").symlink_to(tmp_path / "secret.wav")
    with pytest.raises(CorpusError, match="leads out"):
        corpora.load("mine", write(inner, "file,speaker,label\na.wav,1,x\n"))
