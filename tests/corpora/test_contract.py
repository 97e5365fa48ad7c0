"""What every reader of embedkit/corpora/ promises; a new one joins by itself, and asks for a tree in conftest.py."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

import pytest

from embedkit import corpora
from embedkit.classes import CLASSES
from embedkit.errors import CorpusError


@pytest.fixture(params=corpora.list_corpora())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_has_a_tree(name, trees):
    """The suite runs over all that is registered; conftest.py says what to write for one that has no tree."""
    assert trees[name].exists()


def test_says_what_it_is(name):
    """Source, licence, and a default label map with exactly the four classes, each label in one."""
    reader = corpora.find_reader(name)
    assert reader.SOURCE and reader.LICENCE
    assert tuple(reader.LABELS) == CLASSES
    labels = [label for of_class in reader.LABELS.values() for label in of_class]
    assert len(labels) == len(set(labels))


def test_rows(name, trees):
    """Two reads are equal; ids are unique; files exist, lie inside the folder and are no macOS companions."""
    rows = corpora.load(name, trees[name])
    place = corpora.folder(name, trees[name])
    assert [repr(row) for row in rows] == [repr(row) for row in corpora.load(name, trees[name])]
    assert len({row.id for row in rows}) == len(rows)
    assert all(row.label and row.speaker.startswith(f"{name}:") for row in rows)
    assert {row.gender for row in rows} <= {"female", "male", ""}
    for file in {row.file for row in rows}:
        assert not PurePosixPath(file).is_absolute() and ".." not in PurePosixPath(file).parts
        assert not PurePosixPath(file).name.startswith("._")
        assert (place / file).is_file()


def test_flac_under_the_same_names(name, makers, tmp_path):
    """With FLAC in place of WAV the same utterances are read; with both, WAV is taken once."""
    if name == "manifest":
        pytest.skip("a manifest names its files itself")
    root = makers[name](tmp_path)
    before = corpora.load(name, root)
    wavs = sorted(p for p in root.rglob("*.wav") if not p.name.startswith("._"))
    wavs[0].with_suffix(".flac").touch()
    assert repr(corpora.load(name, root)) == repr(before)
    for wav in wavs:
        wav.rename(wav.with_suffix(".flac"))
    after = corpora.load(name, root)
    assert [(row.id, row.label) for row in after] == [(row.id, row.label) for row in before]
    assert all(row.file.endswith(".flac") for row in after)


def test_one_level_too_high_is_found(name, makers, tmp_path):
    """The folder above gives the same rows, relative to the folder that is meant; two copies in it are an error."""
    if name == "manifest":
        pytest.skip("a manifest's place is the CSV")
    root = makers[name](tmp_path / "above" / "corpus")
    assert corpora.folder(name, root.parent) == root
    assert repr(corpora.load(name, root.parent)) == repr(corpora.load(name, root))
    if name != "ravdess":  # whose copies lie in one another
        shutil.copytree(root, root.with_name("copy"))
        with pytest.raises(CorpusError, match=r"2 times.*copy, corpus"):
            corpora.load(name, root.parent)


@pytest.mark.parametrize(
    ("corpus", "low"),
    [("iemocap", "Session1"), ("iemocap", "Session2/dialog/EmoEvaluation"), ("ravdess", "Actor_01")],
)
def test_too_low_is_explained(corpus, low, trees):
    """A folder inside the corpus is refused with the one to give."""
    with pytest.raises(CorpusError, match="give the folder above: ") as error:
        corpora.load(corpus, trees[corpus] / low)
    assert str(error.value).endswith(str(trees[corpus]))


def test_wrong_places(name, trees, tmp_path):
    """A missing place, an empty folder, and a folder or file where the other is expected: one line each."""
    other = trees["manifest"] if name != "manifest" else tmp_path
    for place in (tmp_path / "nowhere", tmp_path, other):
        with pytest.raises(CorpusError) as error:
            corpora.load(name, place)
        assert str(place) in str(error.value) and "\n" not in str(error.value)


def test_unknown_corpus():
    """A misspelt name is met with the nearest; any name is a manifest where its place is a CSV."""
    with pytest.raises(CorpusError, match="did you mean 'crema-d'"):
        corpora.find_reader("crema_d")
    assert corpora.find_reader("mine", Path("mine.csv")) is corpora.find_reader("manifest")
