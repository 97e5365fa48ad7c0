"""The one pass: what is to do is decided well, what cannot be used is skipped, and nothing that was done is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from encoders_fixtures import tiny_hubert

from embedkit import cache, cards, encoders
from embedkit.cache import DONE, MISSING, Cache, Identity
from embedkit.corpora import Utterance, pick_balanced_rows, select_rows
from embedkit.encoders import Spec
from embedkit.errors import CacheError, CardError, ClipError, CorpusError, EmbedkitError, UserError
from embedkit.extract import CacheState, Clip, ClipLoader, ExtractPlan, Task, encode, extract_corpus, plan_pass
from embedkit.extract import run as pass_run
from embedkit.workers import TASKS_PER_WORKER, map_in_workers
from embedkit.workspace import Workspace, init_workspace

LABELS = {"anger": ["ang"], "happiness": ["hap", "exc"]}
SPEC = Spec("tiny", Path("nowhere"), "", "digest", True, "hubert", 2, 4, 1)
PLAIN = cards.Recipe(name="plain", views=0, sound=cards.Sound(trim_db=0, pre_emphasis=0, peak=0))


class Fake:
    """An encoder whose features say what it heard: [layer, 2, dim] from the wave's own mean, sd, peak and length."""

    loaded = 0

    def pool(self, wave: npt.NDArray[np.float32], *, pad_to: int = 0) -> npt.NDArray[np.float32]:
        if len(wave) < 100:
            raise ClipError("shorter than a frame")
        if pad_to:
            wave = np.pad(wave, (0, pad_to - len(wave)))
        scale = 1e7 if np.abs(wave).max() > 0.9 else 1.0
        said = np.array([wave.mean(), wave.std(), np.abs(wave).max() * scale, len(wave) / 1000], np.float32)
        return np.stack([np.stack([said, said / 2]), np.stack([-said, said / 4])])

    def pool_many(self, waves: list[npt.NDArray[np.float32]], *, pad_to: int = 0) -> list[npt.NDArray[np.float32]]:
        return [self.pool(wave, pad_to=pad_to) for wave in waves]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """In place of a real encoder; `fake.loaded` counts how often it was loaded."""

    def load(*_: object) -> Fake:
        Fake.loaded += 1
        return Fake()

    Fake.loaded = 0
    monkeypatch.setattr(encoders, "resolve", lambda _: SPEC)
    monkeypatch.setattr(encoders, "load", load)
    return Fake


def record(path: Path, seed: int, peak: float = 0.2) -> None:
    wave = np.random.default_rng(seed).uniform(-1, 1, 4000 + 160 * (seed % 7)) * peak
    soundfile.write(path, wave, 16000, subtype="FLOAT")


def corpus(folder: Path, clips: int = 8) -> Path:
    """A manifest of so many short clips by 4 speakers in 2 classes."""
    folder.mkdir(exist_ok=True)
    for i in range(clips):
        record(folder / f"{i}.wav", i)
    lines = [f"{i}.wav,s{i % 4},{('anger', 'sadness')[i // 4 % 2]}" for i in range(clips)]
    (folder / "mine.csv").write_text("\n".join(["file,speaker,label", *lines]) + "\n")
    return folder / "mine.csv"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return corpus(tmp_path / "corpus")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "workspace")


def run(workspace: Workspace, root: Path, **more: Any) -> dict[str, Any]:
    return extract_corpus(workspace, "mine", **{"root": root, "recipe": PLAIN, "jobs": 1, "device": "cpu", **more})


def opened(workspace: Workspace, recipe: str = "plain") -> Cache:
    return Cache.open(workspace.cache_file(recipe, "tiny", "mine"))


def contents(path: Path) -> dict[str, tuple[Any, bytes]]:
    """Every dataset of a file, bit by bit."""
    with h5py.File(path, locking=False) as file:
        return {name: (str(file[name].dtype), file[name][()].tobytes()) for name in file}


# ---------------------------------------------------------------- what is to do


def rows(n: int) -> list[Utterance]:
    return [Utterance(f"u{i}", f"{i}.wav", ("ang", "exc", "hap")[i % 3], f"c:{i // 3 % 10}") for i in range(n)]


def test_a_limit_is_spread_over_speakers_and_labels() -> None:
    """Every pair once before any twice; a few rows have as many speakers as rows and all labels; limits are nested."""
    many = sorted(rows(300), key=lambda u: (u.speaker, u.label))  # as a corpus lists them
    for limit in (10, 30, 60):
        chosen = [many[i] for i in pick_balanced_rows(many, limit)]
        assert len(chosen) == limit and set(Counter(u.speaker for u in chosen).values()) == {limit // 10}
        labels = Counter(u.label for u in chosen).values()
        assert len(labels) == 3 and max(labels) - min(labels) <= 1
    assert (
        set(pick_balanced_rows(many, 10))
        < set(pick_balanced_rows(many, 25))
        < set(pick_balanced_rows(many, 300))
        == set(range(300))
    )
    assert pick_balanced_rows(many, None) == pick_balanced_rows(many, 999) == list(range(300))


def test_rows_are_those_of_the_label_map_or_all() -> None:
    """Labels that the map does not name are left out; where none is left, the ones that there are are named."""
    there = [Utterance("a", "f", "exc", "s"), Utterance("b", "f", "xxx", "s"), Utterance("c", "f", "ang", "s")]
    assert [u.id for u in select_rows("iemocap", there, LABELS, "mapped")] == ["a", "c"]
    assert select_rows("iemocap", there, LABELS, "all") == there
    with pytest.raises(CorpusError, match=r"no label is one of ang, exc, hap; it has xxx; --labels all"):
        select_rows("iemocap", there[1:2], LABELS, "mapped")


def planned(
    held: CacheState | None, limit: int | None = None, labels: str = "mapped", views: int = 2, n: int = 6
) -> ExtractPlan:
    wanted = Identity.of("iemocap", cards.Recipe(views=views), SPEC, labels=labels)
    return plan_pass(Path("x.h5"), wanted, [*rows(n), Utterance("other", "f", "xxx", "s")], LABELS, limit, held)


def held(views: int = 2, labels: str = "mapped", n: int = 6, done: tuple[int, ...] = (0, 1, 2)) -> CacheState:
    states = np.zeros(n, np.uint8)
    states[list(done)] = 1, 1, 2
    return CacheState(Identity.of("iemocap", cards.Recipe(views=views), SPEC, labels=labels), rows(n), states)


def test_a_plan_is_what_is_missing() -> None:
    """Nothing held: all rows. Some held: the missing ones are to do, the skipped ones to be heard again."""
    assert planned(None).todo == list(range(6)) and planned(None).retry == []
    assert (planned(held()).todo, planned(held()).retry) == ([3, 4, 5], [2])
    assert len(planned(held(), limit=3).todo) + len(planned(held(), limit=3).retry) < 4
    assert planned(held(), limit=6) == planned(held())


def test_a_plan_keeps_to_a_file_that_holds_more() -> None:
    """Fewer views than cached are served by the file as it is; more need --fresh."""
    assert planned(held(views=4)).identity.views == 4
    assert planned(held(views=4), views=0).identity.views == 4
    with pytest.raises(CacheError, match=r"views: 3 here, 2 in the file; --fresh"):
        planned(held(), views=3)


def test_another_corpus_at_the_same_place_is_told() -> None:
    with pytest.raises(CacheError, match=r"the corpus has changed since, its rows: 2 new; --fresh"):
        planned(held(), n=8)
    with pytest.raises(CacheError, match=r"labels: all here, mapped in the file"):
        planned(held(), labels="all")


# ---------------------------------------------------------------- a pass


def test_a_pass_fills_the_file_with_what_the_encoder_said(workspace: Workspace, mine: Path, fake: type[Fake]) -> None:
    """Every row in the corpus's order, rounded to float16, with lengths and digests; a second pass is idle."""
    report = run(workspace, mine)
    with opened(workspace) as file:
        x = file.features(layers=(0, 1), stats=(0, 1))
        for i in range(8):
            wave, _ = soundfile.read(mine.parent / f"{i}.wav", dtype="float32")
            assert np.array_equal(x[i, 0], Fake().pool(wave).astype(np.float16))
            assert file.metadata()["seconds"][i] == len(wave) / 16000
        assert all(len(d) == 32 for d in file.audio_digests) and len(set(file.audio_digests)) == 8
        before = contents(file.path)
    assert report.pop("audio_seconds_per_second") > 0
    expected = {"cache": str(file.path), "rows": 8, "done": 8, "todo": 0, "skipped": [], "weights": "random"}
    assert report == expected and json.dumps(report)
    assert run(workspace, mine) == {**expected, "audio_seconds_per_second": 0.0}
    assert fake.loaded == 1 and contents(file.path) == before


def test_names_and_folders_may_stand_for_a_card_and_a_workspace(
    workspace: Workspace, mine: Path, fake: type[Fake]
) -> None:
    """The recipe by the name of its card, workspace and place as text: the same file as with the objects."""
    options = {"views": 0, "jobs": 1, "device": "cpu"}
    report = extract_corpus(str(workspace.root), "mine", recipe="plain", root=str(mine), **options)
    card = cards.read(cards.Recipe, workspace.card("cache", "plain"))
    assert report["done"] == 8 and fake.loaded == 1
    again = extract_corpus(workspace, "mine", recipe=card, root=mine, **options)
    assert again == {**report, "audio_seconds_per_second": 0.0} and fake.loaded == 1
    with pytest.raises(CardError, match="did you mean 'plain'"):
        extract_corpus(workspace, "mine", recipe="plan", root=mine, **options)


@pytest.mark.usefixtures("fake")
def test_the_sound_is_the_recipes(workspace: Workspace, mine: Path) -> None:
    """Peak, cut, padding and views reach the encoder; views are those of augment.views, cut after they are made."""
    from embedkit import audio, augment

    recipe = cards.Recipe(name="own", views=2, sound=cards.Sound(trim_db=0, max_seconds=0.1, pad=True, peak=0.5))
    run(workspace, mine, recipe=recipe)
    prepared = audio.prepare(audio.read(mine.parent / "3.wav"), recipe.sound)
    views = [prepared, *augment.make_views(prepared, recipe, "3.wav", 2)]
    expected = np.stack([Fake().pool(v[:1600], pad_to=1600) for v in views]).astype(np.float16)
    with opened(workspace, "own") as file:
        assert np.array_equal(file.features([3], views=(0, 1, 2), layers=(0, 1), stats=(0, 1))[0], expected)


def test_bad_clips_are_skipped_with_their_reason(workspace: Workspace, mine: Path, fake: type[Fake]) -> None:
    """A pointer, a silence, a missing and a short clip, and one that float16 cannot hold: the others are done. They
    are not encoded again until their sound is another."""
    (mine.parent / "1.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    record(mine.parent / "2.wav", 2, peak=0)
    (mine.parent / "3.wav").unlink()
    soundfile.write(mine.parent / "4.wav", np.full(50, 0.5), 16000)
    record(mine.parent / "5.wav", 5, peak=1.0)
    report = run(workspace, mine)
    reasons = {s["id"]: s["reason"] for s in report["skipped"]}
    assert (report["done"], report["todo"], len(reasons)) == (3, 0, 5)
    assert "git lfs pull" in reasons["1.wav"] and "silent" in reasons["2.wav"] and "no such file" in reasons["3.wav"]
    assert reasons["4.wav"] == "shorter than a frame"
    assert reasons["5.wav"].startswith("view 0, layer 0: its mean holds 9.") and "outside float16" in reasons["5.wav"]
    before = contents(Path(report["cache"]))
    again = run(workspace, mine)
    assert again["skipped"] == report["skipped"] and fake.loaded == 1 and contents(Path(report["cache"])) == before

    (mine.parent / "1.wav").unlink()  # another reason
    record(mine.parent / "2.wav", 2)  # healed
    healed = run(workspace, mine)
    reasons = {s["id"]: s["reason"] for s in healed["skipped"]}
    assert healed["done"] == 4 and "2.wav" not in reasons and "no such file" in reasons["1.wav"] and fake.loaded == 2
    with opened(workspace) as file:
        assert file.skipped() == list(reasons.items()) and np.isfinite(file.features([2])).all()
        assert np.isnan(file.features([5])).all()


@pytest.mark.usefixtures("fake")
def test_a_label_line_without_its_wav_is_skipped(workspace: Workspace, tmp_path: Path) -> None:
    """IEMOCAP's own layout, one wav missing: its row is there, skipped, and the pass goes on."""
    folder = tmp_path / "IEMOCAP" / "Session1"
    name = "Ses01F_impro01"
    sheet, wavs = folder / "dialog" / "EmoEvaluation" / f"{name}.txt", folder / "sentences" / "wav" / name
    sheet.parent.mkdir(parents=True)
    wavs.mkdir(parents=True)
    lines = [f"[0.0 - 1.0]\t{name}_F00{i}\t{label}\t[2.5, 2.5, 2.5]" for i, label in enumerate(("ang", "xxx", "neu"))]
    sheet.write_text("% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n" + "\n".join(lines) + "\n")
    record(wavs / f"{name}_F002.wav", 0)
    report = extract_corpus(workspace, "iemocap", root=tmp_path / "IEMOCAP", recipe=PLAIN, jobs=1, device="cpu")
    assert (report["rows"], report["done"]) == (2, 1) and report["skipped"][0]["id"] == f"{name}_F000"
    with pytest.raises(CacheError, match="labels: all here"):
        extract_corpus(workspace, "iemocap", root=tmp_path / "IEMOCAP", recipe=PLAIN, labels="all", device="cpu")
    every = extract_corpus(
        workspace, "iemocap", root=tmp_path / "IEMOCAP", recipe=PLAIN, labels="all", device="cpu", jobs=1, fresh=True
    )
    assert (every["rows"], every["done"], len(every["skipped"])) == (3, 1, 2)


def test_a_limit_then_the_rest_equals_one_pass(workspace: Workspace, mine: Path, fake: type[Fake]) -> None:
    """The file is laid out for all rows at once; the same limit again does nothing; the rest gives the same bits."""
    some = run(workspace, mine, limit=3)
    assert (some["rows"], some["done"], some["todo"]) == (8, 3, 5)
    assert run(workspace, mine, limit=3)["done"] == 3 and fake.loaded == 1
    assert run(workspace, mine, limit=5)["done"] == 5
    assert run(workspace, mine)["done"] == 8
    whole = run(workspace, mine, recipe=PLAIN.model_copy(update={"name": "whole"}))
    assert contents(Path(some["cache"])) == contents(Path(whole["cache"]))


@pytest.mark.usefixtures("fake")
def test_other_settings_are_refused_and_named(workspace: Workspace, mine: Path) -> None:
    """The differing key is named, nothing is touched; --fresh begins anew."""
    first = run(workspace, mine)
    before = contents(Path(first["cache"]))
    other = PLAIN.model_copy(update={"sound": cards.Sound(trim_db=0, pre_emphasis=0.5, peak=0)})
    with pytest.raises(
        CacheError, match=r"made with other settings: sound.pre_emphasis: 0.5 here, 0.0 in the file; --fresh"
    ):
        run(workspace, mine, recipe=other)
    assert contents(Path(first["cache"])) == before
    assert run(workspace, mine, recipe=other, fresh=True, limit=1)["done"] == 1


@pytest.mark.usefixtures("fake")
def test_fewer_views_are_served_and_more_refused(workspace: Workspace, mine: Path) -> None:
    """A pass with fewer views goes on in the file's own terms, augmentation included."""
    two = PLAIN.model_copy(update={"views": 2, "name": "two"})
    run(workspace, mine, recipe=two, limit=2)
    wild = two.model_copy(update={"augment": cards.Augment(p=1.0)})
    assert run(workspace, mine, recipe=wild, views=0)["done"] == 8
    whole = run(workspace, mine, recipe=two.model_copy(update={"name": "whole"}))
    assert contents(Path(whole["cache"])) == contents(workspace.cache_file("two", "tiny", "mine"))
    with pytest.raises(CacheError, match=r"views: 3 here, 2 in the file"):
        run(workspace, mine, recipe=two, views=3)


@pytest.mark.usefixtures("fake")
def test_a_grown_corpus_and_a_damaged_file_need_fresh(workspace: Workspace, mine: Path) -> None:
    path = Path(run(workspace, mine)["cache"])
    mine.write_text(mine.read_text() + "more.wav,s9,neutral\n")
    with pytest.raises(CacheError, match=r"its rows: 1 new; --fresh"):
        run(workspace, mine)
    path.write_text("no")
    with pytest.raises(CacheError, match="damaged; --fresh"):
        run(workspace, mine)
    assert run(workspace, mine, fresh=True)["rows"] == 9


@pytest.mark.parametrize("lines", ["", "0.wav,s,joyful\n"], ids=["no rows", "no known label"])
@pytest.mark.usefixtures("fake")
def test_a_corpus_with_nothing_to_do_is_told(workspace: Workspace, mine: Path, lines: str) -> None:
    mine.write_text("file,speaker,label\n" + lines)
    with pytest.raises(CorpusError, match=r"no labelled utterance|it has joyful"):
        run(workspace, mine)
    assert not list(workspace.cache.rglob("*.h5"))


@pytest.mark.parametrize("flags", [{"views": -1}, {"limit": 0}, {"jobs": 0}, {"labels": "some"}])
@pytest.mark.usefixtures("fake")
def test_impossible_flags_are_told(workspace: Workspace, mine: Path, flags: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected"):
        run(workspace, mine, **flags)


@pytest.mark.usefixtures("fake")
def test_a_cuda_that_is_not_there_is_told(workspace: Workspace, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="finds no CUDA device"):
        run(workspace, mine, device="cuda")
    assert run(workspace, mine, device="auto")["done"] == 8


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.usefixtures("fake")
def test_batches_on_a_gpu_give_what_single_clips_give(
    workspace: Workspace, mine: Path, monkeypatch: pytest.MonkeyPatch, batches: bool
) -> None:
    """The path that a GPU takes, with an encoder that needs none: same features, bad clips skipped one by one."""
    record(mine.parent / "1.wav", 1, peak=0)
    soundfile.write(mine.parent / "4.wav", np.full(50, 0.5), 16000)
    one_by_one = run(workspace, mine)
    monkeypatch.setattr(encode, "_resolve_device", lambda _: "cuda")
    monkeypatch.setattr(encode, "BATCH_SECONDS", 0.6)
    if not batches:  # an encoder that takes one clip at a time
        monkeypatch.delattr(Fake, "pool_many")
    together = run(workspace, mine, recipe=PLAIN.model_copy(update={"name": "gpu"}))
    assert together["skipped"] == one_by_one["skipped"] and together["done"] == 6
    assert contents(Path(together["cache"])) == contents(Path(one_by_one["cache"]))


@pytest.mark.usefixtures("fake")
def test_an_unexpected_fault_names_the_clip_and_keeps_the_rest(
    workspace: Workspace, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that is not the clip's ends the pass with one line; the same command goes on once it is mended."""
    pool = Fake.pool

    def faulty(self: Fake, wave: npt.NDArray[np.float32], *, pad_to: int = 0) -> npt.NDArray[np.float32]:
        if len(wave) == 4160:  # clip 1
            raise IndexError("out of\nbounds")
        return pool(self, wave, pad_to=pad_to)

    with monkeypatch.context() as patch:
        patch.setattr(Fake, "pool", faulty)
        with pytest.raises(EmbedkitError, match=r"1.wav: IndexError: .*; 1 of 8 rows are kept") as error:
            run(workspace, mine)
    assert error.value.exit_code == 1 and "\n" not in str(error.value)
    assert run(workspace, mine)["done"] == 8


@pytest.mark.usefixtures("fake")
def test_an_interrupt_keeps_what_was_done(workspace: Workspace, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(file: Cache, clips: list[Clip]) -> None:
        write(file, clips)
        if (file.done == DONE).sum() == 3:
            raise KeyboardInterrupt

    write = pass_run._write_clips
    with monkeypatch.context() as patch:
        patch.setattr(pass_run, "_write_clips", interrupted)
        with pytest.raises(EmbedkitError, match=r"stopped; 3 of 8 rows are kept, and the same command"):
            run(workspace, mine)
    assert run(workspace, mine)["done"] == 8


@pytest.mark.usefixtures("fake")
def test_threads_are_as_before_after_a_pass(workspace: Workspace, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process the pass uses one thread, and gives the others back."""
    import torch

    before, pool, inside = torch.get_num_threads(), Fake.pool, []

    def counting(self: Fake, wave: npt.NDArray[np.float32], *, pad_to: int = 0) -> npt.NDArray[np.float32]:
        inside.append(torch.get_num_threads())
        return pool(self, wave, pad_to=pad_to)

    monkeypatch.setattr(Fake, "pool", counting)
    torch.set_num_threads(2)
    try:
        run(workspace, mine)
        assert set(inside) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("fake")
def test_a_second_writer_is_refused(workspace: Workspace, mine: Path) -> None:
    path = Path(run(workspace, mine, limit=2)["cache"])
    with Cache.open(path, write=True):
        for fresh in (False, True):
            with pytest.raises(CacheError, match="another process is writing it"):
                run(workspace, mine, fresh=fresh)
    assert run(workspace, mine)["done"] == 8


# ---------------------------------------------------------------- worker processes

# Workers are fresh processes that import this script too, so its encoder is theirs.
SCRIPT = """
import os, sys, time
from pathlib import Path
import numpy as np
from embedkit import cards, encoders
from embedkit.encoders import Spec
from embedkit.errors import EmbedkitError
from embedkit.workspace import Workspace

class Slow:
    def pool(self, wave, *, pad_to=0):
        time.sleep(float(os.environ.get("PAUSE", "0")))
        if DIES and len(wave) == int(DIES):
            os.kill(os.getpid(), 9)
        x = np.resize(wave, (2, 2, 4)).astype(np.float32)
        return x * 2

def load(spec, *_):
    with open(os.environ["PIDS"], "a") as f:
        f.write(f"{os.getpid()}\\n")
    return Slow()

DIES = os.environ.get("DIES")
SPEC = Spec("tiny", Path("nowhere"), "", "digest", True, "hubert", 2, 4, 1)
encoders.resolve, encoders.load = lambda name: SPEC, load

if __name__ == "__main__":
    from embedkit.extract import extract_corpus
    root, corpus, jobs, name = sys.argv[1:]
    recipe = cards.Recipe(name=name, views=0, sound=cards.Sound(trim_db=0, pre_emphasis=0, peak=0))
    try:
        workspace, corpus = Workspace.find(Path(root)), Path(corpus)
        report = extract_corpus(workspace, "mine", root=corpus, recipe=recipe, jobs=int(jobs), device="cpu")
    except EmbedkitError as error:
        sys.exit(f"{error.exit_code}: {error}")
    print(report["done"], len(report["skipped"]))
"""


def _hears_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Passes:
    """Real passes in processes of their own."""

    def __init__(self, folder: Path, clips: int) -> None:
        self.mine, self.workspace = corpus(folder / "corpus", clips), init_workspace(folder / "workspace")
        self.pids, self.script = folder / "pids", folder / "passes.py"
        self.pids.touch()
        self.script.write_text(SCRIPT)

    def start(self, name: str, jobs: int, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, self.script, self.workspace.root, self.mine, str(jobs), name]
        environment = {**os.environ, "PIDS": str(self.pids), **environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # A shell's background jobs ignore SIGINT, and so would what they start.
        return subprocess.Popen(command, env=environment, preexec_fn=_hears_interrupts, **pipes)

    def finish(self, name: str, jobs: int, **environment: str) -> tuple[int, str, str]:
        process = self.start(name, jobs, **environment)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def path(self, name: str) -> Path:
        return self.workspace.cache_file(name, "tiny", "mine")

    def done(self, name: str) -> int:
        if not self.path(name).exists():
            return 0
        with Cache.open(self.path(name)) as file:
            return int((file.done == DONE).sum())

    def workers_alive(self) -> list[int]:
        return [pid for pid in map(int, self.pids.read_text().split()) if alive(pid)]


def alive(pid: int) -> bool:
    """Whether a process runs (not: has ended, and only waits to be counted)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: Any, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.fixture
def passes(tmp_path: Path) -> Passes:
    return Passes(tmp_path, clips=60)


def test_killed_passes_that_are_resumed_give_the_same_bits(passes: Passes) -> None:
    """SIGKILL to a pass of 2 workers at random moments, each time with rows missing afterwards: no worker outlives it,
    the next pass goes on from what was done, and at the end the file equals that of one process without a kill."""
    assert passes.finish("whole", 1)[:2] == (0, "60 0\n")
    rng, seen = random.Random(0), [0]
    for _ in range(3):
        process = passes.start("killed", 2, PAUSE="0.1")
        until(lambda: passes.done("killed") > seen[-1])
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.communicate()
        process.communicate()
        until(lambda: not passes.workers_alive())
        with Cache.open(passes.path("killed"), write=True) as file:  # its lock died with it
            assert (file.done == MISSING).any(), "killed too late to prove anything"
            seen.append(int((file.done == DONE).sum()))
    assert seen == sorted(set(seen))
    assert passes.finish("killed", 2)[:2] == (0, "60 0\n")
    assert contents(passes.path("killed")) == contents(passes.path("whole"))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_pass_that_is_interrupted_says_how_to_go_on(passes: Passes, jobs: int) -> None:
    """Ctrl-C (SIGINT to the whole group, workers too): one line, exit code 1, no traceback."""
    process = passes.start("stopped", jobs, PAUSE="0.1")
    until(lambda: passes.done("stopped") > 2 or process.poll() is not None)
    for pid in {process.pid, *passes.workers_alive()}:
        os.kill(pid, signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and err.startswith("1: stopped; ") and err.count("\n") == 1
    assert 2 < passes.done("stopped") < 60 and not passes.workers_alive()


def test_a_worker_that_dies_ends_the_pass_with_what_is_kept(passes: Passes) -> None:
    """A worker that is killed (by the system when memory runs out, or by a clip): one line that names the clip, exit
    code 1, the other rows kept, and the same command goes on."""
    code, _, err = passes.finish("dying", 2, DIES="4160")  # the length of clips 1, 8, 15, ...
    assert code == 1 and err.count("\n") == 1
    assert err.startswith("1: a worker process died (exit code -9: killed") and "of 60 rows are kept" in err
    assert any(f" at {i}.wav;" in err for i in range(1, 60, 7))
    kept = passes.done("dying")
    assert kept < 60 and f"; {kept} of 60" in err and not passes.workers_alive()
    assert passes.finish("dying", 2)[:2] == (0, "60 0\n")


def test_no_more_tasks_are_in_flight_than_workers_need() -> None:
    """The tasks are taken one by one as answers come, however many there are: memory does not grow with the corpus."""
    taken: list[int] = []

    def tasks(n: int = 40) -> Any:
        for i in range(n):
            taken.append(i)
            yield Task(i, rows(1)[0])

    answers = map_in_workers(Clip, tasks(), 1)  # type: ignore[arg-type]
    for i, _ in enumerate(answers):
        assert len(taken) == i + 1
    taken.clear()
    answers = map_in_workers(ClipLoader(Path("/nowhere"), PLAIN, 0), tasks(), 2)
    for i, clip in enumerate(answers):
        assert clip.reason == "no such file" and len(taken) <= i + 1 + 2 * TASKS_PER_WORKER
    assert taken == list(range(40)) and i == 39


def test_clips_are_fetched_ahead_and_no_further() -> None:
    """While the caller is busy a few clips are made ready; when it stops early, the maker is closed."""
    made, closed = [], threading.Event()

    def make(fails: bool = False) -> Any:
        try:
            for i in range(20):
                made.append(i)
                yield Clip(i)
            if fails:
                raise EmbedkitError("broken")
        finally:
            closed.set()

    ahead = encode._prefetch_clips(make(), 3)
    assert next(ahead).row == 0
    until(lambda: len(made) == 5)  # one taken, three ready, one in the maker's hand
    ahead.close()  # type: ignore[attr-defined]
    assert closed.is_set() and len(made) == 5
    assert [clip.row for clip in encode._prefetch_clips(make(), 3)] == list(range(20))
    with pytest.raises(EmbedkitError, match="broken"):
        list(encode._prefetch_clips(make(fails=True), 3))


# ---------------------------------------------------------------- with a real encoder


@pytest.mark.slow
def test_a_real_encoder_gives_the_same_bits_whatever_the_jobs(workspace: Workspace, mine: Path, tmp_path: Path) -> None:
    """DistilHuBERT's architecture, trim, pitch and all: 1 and 2 processes give the same file; its
    features are the encoder's own, one clip at a time, rounded to float16."""
    from embedkit import audio

    tiny = tiny_hubert(tmp_path / "tiny")
    files = []
    for name, jobs in (("one", 1), ("two", 2)):
        recipe = cards.Recipe(name=name, views=1)
        report = run(workspace, mine, recipe=recipe, encoder=str(tiny), jobs=jobs)
        assert report["done"] == 8 and report["weights"] == "random"
        files.append(contents(Path(report["cache"])))
    assert files[0] == files[1]
    encoder = encoders.load(encoders.resolve(str(tiny)))
    with opened(workspace, "one") as file:
        x = file.features(layers=(0, 1, 2), stats=(0, 1))
        assert not cache.verify(file.path, mine)["problems"]
    for i in range(8):
        prepared = audio.prepare(audio.read(mine.parent / f"{i}.wav"), recipe.sound)
        np.testing.assert_allclose(x[i, 0], encoder.pool(prepared), rtol=1e-3, atol=1e-3)
