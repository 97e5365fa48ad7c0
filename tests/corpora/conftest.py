"""Corpora as their folders look, with every name and label line but no sound: what a reader reads."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

# Turns by session and label. The four classes as published (happiness: hap and exc); the rest fills up to 10,039.
IEMOCAP = {
    "Ses01": {"ang": 229, "hap": 135, "exc": 143, "neu": 384, "sad": 194, "fru": 280, "xxx": 454},
    "Ses02": {"ang": 137, "hap": 117, "exc": 210, "neu": 362, "sad": 197, "fru": 325, "xxx": 463, "sur": 3},
    "Ses03": {"ang": 240, "hap": 135, "exc": 151, "neu": 320, "sad": 305, "fru": 382, "xxx": 600, "fea": 3},
    "Ses04": {"ang": 327, "hap": 65, "exc": 238, "neu": 258, "sad": 143, "fru": 481, "xxx": 591},
    "Ses05": {"ang": 170, "hap": 143, "exc": 299, "neu": 384, "sad": 245, "fru": 381, "xxx": 541, "dis": 2, "oth": 2},
}
VOTES = "C-E2:\tNeutral;\t()\nC-F1:\tAnger; Frustration;\t(a remark)\nA-E3:\tval 3; act 2; dom  2;\t()\n\n"


def touch(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def make_iemocap(root: Path) -> Path:
    """The whole corpus in six dialogues a session, labels dealt in turn; macOS companions beside sheets and sounds."""
    for number, (session, counts) in enumerate(IEMOCAP.items(), start=1):
        labels = [label for label, count in counts.items() for _ in range(count)]
        stems = ("impro01", "impro05a", "script01_1", "script01_1b", "script02_2", "script03_1")
        dialogues = [f"{session}{'FM'[i % 2]}_{stem}" for i, stem in enumerate(stems)]
        turns: dict[str, list[tuple[str, str]]] = {dialogue: [] for dialogue in dialogues}
        for i, label in enumerate(labels):
            dialogue = dialogues[i % len(dialogues)]
            slot = i // len(dialogues)
            turns[dialogue].append((f"{dialogue}_{'FM'[slot % 2]}{slot // 2:03d}", label))
        sheets = root / f"Session{number}" / "dialog" / "EmoEvaluation"
        touch(sheets, [f"._{dialogue}.txt" for dialogue in dialogues])
        touch(sheets / "Categorical", [f"{dialogue}_e2_cat.txt" for dialogue in dialogues])
        for dialogue, rows in turns.items():
            lines = (f"[1.0 - 2.5]\t{turn}\t{label}\t[2.5000, 3.0000, 3.5000]\n{VOTES}" for turn, label in rows)
            head = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
            (sheets / f"{dialogue}.txt").write_text(head + "".join(lines))
            wavs = [f"{turn}.wav" for turn, _ in rows]
            touch(root / f"Session{number}" / "sentences" / "wav" / dialogue, [*wavs, f"._{wavs[0]}"])
    return root


def make_crema_d(root: Path) -> Path:
    """All 7,442 names (neutral 1,087, each other emotion 1,271), one with a single X."""
    sentences = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
    names = []
    for emotion, missing in {"ANG": 3, "DIS": 3, "FEA": 3, "HAP": 3, "SAD": 3, "NEU": 5}.items():
        of_one = [
            f"{actor}_{sentence}_{emotion}_{level}.wav"
            for actor, sentence in itertools.product(range(1001, 1092), sentences)
            for level in (("LO", "MD", "HI") if sentence == "IEO" and emotion != "NEU" else ("XX",))
        ]
        names += of_one[: len(of_one) - missing]
    names[names.index("1040_ITH_SAD_XX.wav")] = "1040_ITH_SAD_X.wav"
    touch(root / "AudioWAV", [*names, "._1001_IEO_ANG_HI.wav", "readme.txt"])
    table = "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n1002,21,Female,Caucasian,Hispanic\n"
    (root / "VideoDemographics.csv").write_text(table)
    return root


def make_ravdess(root: Path) -> Path:
    """All 1,440 speech clips twice (whole corpus a second time one folder lower), songs and a macOS companion."""
    for actor in range(1, 25):
        names = [
            f"03-01-{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}.wav"
            for emotion in range(1, 9)
            for intensity in ((1,) if emotion == 1 else (1, 2))
            for statement, repetition in itertools.product((1, 2), (1, 2))
        ]
        song = f"03-02-05-01-01-01-{actor:02d}.wav"
        touch(root / f"Actor_{actor:02d}", [*names, song, f"._{names[0]}"])
        touch(root / "Audio_Speech_Actors_01-24" / f"Actor_{actor:02d}", names)
    return root


def make_manifest(root: Path) -> Path:
    touch(root / "clips", ["a.wav", "b.wav", "._a.wav"])
    table = root / "mine.csv"
    table.write_text(
        "\ufefffile,speaker,label,session,gender,start,end,valence\n"
        "clips/a.wav,anna,anger,one,F,,,1.5\n"
        "clips/b.wav,bert,neutral,two,male,0,1.5,\n"
        '"clips/b.wav",bert,"bored, tired",two,,1.5,2.25,\n'
    )
    return table


Maker = Callable[[Path], Path]


def find_maker(corpus: str) -> Maker:
    """This module's make_<corpus>; the test fails with what to write where there is none."""
    function = f"make_{corpus.replace('-', '_')}"
    if function not in globals():
        pytest.fail(
            f"no generated tree of '{corpus}': write {function}(root) in tests/corpora/conftest.py, which lays down its"
            " folders and file names and returns the root",
            pytrace=False,
        )
    maker: Maker = globals()[function]
    return maker


class Makers:
    """makers[corpus](root) lays down the corpus's tree in a new folder and returns its root."""

    def __getitem__(self, corpus: str) -> Maker:
        return find_maker(corpus)


class Trees:
    """trees[corpus] is the root of one generated tree, made when it is first asked for; not to be changed."""

    def __init__(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._new_folder = tmp_path_factory.mktemp
        self._roots: dict[str, Path] = {}

    def __getitem__(self, corpus: str) -> Path:
        if corpus not in self._roots:
            self._roots[corpus] = find_maker(corpus)(self._new_folder(corpus))
        return self._roots[corpus]


@pytest.fixture(scope="session")
def makers() -> Makers:
    return Makers()


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    return Trees(tmp_path_factory)
