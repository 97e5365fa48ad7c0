"""The cache file: the contract's layout, reads that touch only what is asked for, and kills that cost nothing."""

from __future__ import annotations

import dataclasses
import math
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from embedkit import audio, cache, cards
from embedkit.cache import Cache, Identity, _create
from embedkit.corpora import Utterance
from embedkit.encoders import Spec
from embedkit.errors import CacheError
from embedkit.workspace import Workspace, init_workspace

ROWS, VIEWS, LAYERS, DIM = 150, 2, 3, 8
SPEC = Spec("org/name", Path("x"), "abc", "d1", False, "hubert", LAYERS, DIM, 1)
IDENTITY = Identity.of("iemocap", cards.Recipe(views=VIEWS), SPEC)


def utterances(n: int = ROWS) -> list[Utterance]:
    return [
        Utterance(
            f"Señor_{i}", f"wav/{i} é.wav", ("ang", "neu")[i % 2], f"iemocap:{i % 7}", start=i / 3, gender="female"
        )
        for i in range(n)
    ]


def features(n: int, seed: int = 0) -> npt.NDArray[np.float16]:
    return np.random.default_rng(seed).normal(size=(n, 1 + VIEWS, LAYERS, 2, DIM)).astype(np.float16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with nothing in it yet."""
    cache.create_cache(path := tmp_path / "exact" / "enc" / "iemocap.h5", IDENTITY, utterances(), LAYERS, DIM)
    return path


@pytest.fixture
def full(path: Path) -> tuple[Path, npt.NDArray[np.float16]]:
    x = features(ROWS)
    with Cache.open(path, write=True) as file:
        file.fill_rows(range(ROWS), x, np.arange(ROWS) / 10, [f"{i:032x}" for i in range(ROWS)])
    return path, x


# ---------------------------------------------------------------- layout


def test_the_file_is_the_contracts(path: Path) -> None:
    """Names, types, chunks and attributes, and every byte allocated before the first row is written."""
    with h5py.File(path) as file:
        x = file["features"]
        assert (x.shape, x.dtype, x.chunks) == ((ROWS, 3, LAYERS, 2, DIM), np.float16, (64, 1, 1, 1, DIM))
        assert x.compression is None and not x.shuffle and np.isnan(x[:]).all()
        assert x.id.get_storage_size() == 192 * 3 * LAYERS * 2 * DIM * 2
        texts = {
            "ids",
            "file",
            "label",
            "speaker",
            "session",
            "text",
            "dialogue",
            "gender",
            "skip_reason",
            "audio_digest",
        }
        numbers = {"start", "end", "seconds", "valence", "activation", "dominance"}
        assert set(file) == texts | numbers | {"done", "features"}
        for name in texts:
            kind = h5py.check_string_dtype(file[name].dtype)
            assert kind.encoding == "utf-8" and kind.length
        assert all(file[name].dtype.kind == "f" for name in numbers) and file["done"].dtype == np.uint8
        assert all(file[n].id.get_storage_size() == file[n].size * file[n].dtype.itemsize for n in texts | numbers)
        assert file["ids"].dtype.itemsize == len("Señor_149".encode())
        attributes = dict(file.attrs)
    assert attributes.pop("digest") == IDENTITY.digest and attributes.pop("recipe").startswith('{"precision": "fp32"')
    assert attributes == {
        "format": 1, "embedkit": "0.1.0", "corpus": "iemocap", "encoder": "org/name", "revision": "abc",
        "weights_digest": "d1", "weights": "pretrained", "labels": "mapped", "views": VIEWS,
    }  # fmt: skip


def test_rows_come_back_as_the_reader_gave_them(path: Path) -> None:
    """Every field, names beyond ASCII, unknown numbers as NaN and unknown texts as ""."""
    with Cache.open(path) as file:
        assert list(map(repr, file.read_utterances())) == list(map(repr, utterances()))
        metadata = file.metadata()
        assert metadata["ids"][3] == "Señor_3" and metadata["session"][0] == "" and math.isnan(metadata["end"][0])
        assert set(metadata) >= {"ids", "file", "label", "speaker", "seconds", "audio_digest", "done", "skip_reason"}
        assert file.identity == IDENTITY and (file.layers, file.dim, file.rows) == (LAYERS, DIM, ROWS)


def test_the_file_never_grows_or_changes_its_metadata(path: Path) -> None:
    """Filling changes bytes in place only: the size stays, and so does the place of every dataset."""

    def places() -> list[object]:
        with h5py.File(path) as file:
            x = file["features"].id
            chunks = [x.get_chunk_info(i).byte_offset for i in range(x.get_num_chunks())]
            return [path.stat().st_size, chunks, *(file[n].id.get_offset() for n in file if n != "features")]

    before = places()
    with Cache.open(path, write=True) as file:
        file.fill_rows(range(ROWS - 1), features(ROWS - 1), [1.0] * (ROWS - 1), ["0" * 32] * (ROWS - 1))
        file.skip(ROWS - 1, "silent", "f" * 32)
    assert places() == before


def test_a_file_that_cannot_be_laid_out_leaves_the_old_one(
    full: tuple[Path, npt.NDArray[np.float16]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, x = full
    monkeypatch.setattr(_create, "format_attributes", lambda _: {"x": object()})
    with pytest.raises(CacheError, match="cannot be written"):
        cache.create_cache(path, IDENTITY, utterances(), LAYERS, DIM)
    with Cache.open(path) as file:
        assert np.array_equal(file.features()[:, 0, 0, 0], x[:, 0, -1, 0])
    assert not list(path.parent.glob("*.new"))


def test_a_full_disk_is_seen_before_it_is_filled(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"needs .* GB"):
        cache.create_cache(tmp_path / "x.h5", IDENTITY, utterances(), 10**6, 10**6)
    assert not list(tmp_path.iterdir())


def test_no_rows_and_no_utf8_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no rows"):
        cache.create_cache(tmp_path / "x.h5", IDENTITY, [], LAYERS, DIM)
    with pytest.raises(CacheError, match="not UTF-8"):
        cache.create_cache(tmp_path / "x.h5", IDENTITY, [Utterance("\udcff", "f", "l", "s")], LAYERS, DIM)


# ---------------------------------------------------------------- filling and reading


@pytest.mark.parametrize(
    "rows",
    [None, [5], [140, 3, 3, 70], list(range(64, 128)), [], [0, 149], np.arange(ROWS) % 3 == 0],
    ids=["all", "one", "any order", "a chunk", "none", "far apart", "a mask"],
)
@pytest.mark.parametrize("which", [((0,), (-1,), (0,)), ((2, 0), (1, 0, -3), (1,)), ((0, 1, 2), (0, 1, 2), (0, 1))])
def test_features_equal_plain_indexing(full: tuple[Path, npt.NDArray[np.float16]], rows, which) -> None:
    """Whatever is asked for, in whatever order, equals numpy's own indexing of what was written."""
    path, x = full
    views, layers, stats = which
    expected = x[np.arange(ROWS) if rows is None else np.array(rows, bool if np.asarray(rows).dtype == bool else int)]
    expected = expected[:, list(views)][:, :, list(layers)][:, :, :, list(stats)]
    with Cache.open(path) as file:
        got = file.features(rows, views=views, layers=layers, stats=stats)
    assert got.dtype == np.float16 and got.shape == expected.shape and np.array_equal(got, expected)


def test_no_chunk_is_read_that_is_not_asked_for(full: tuple[Path, npt.NDArray[np.float16]]) -> None:
    """Rows of the first and third chunk never touch the second, nor another view, layer or statistic."""

    class Spy:
        def __init__(self, data: h5py.Dataset) -> None:
            self.data, self.shape, self.chunks = data, data.shape, set()

        def __getitem__(self, key):
            rows, view, layer, stat = key
            self.chunks |= {(r // 64, view, layer, stat) for r in range(rows.start, rows.stop)}
            return self.data[key]

    with Cache.open(full[0]) as file:
        spy = file._data["features"] = Spy(file._data["features"])
        file.features([1, 140, 7], views=(1,), layers=(-1, 0))
    assert spy.chunks == {(c, 1, layer, 0) for c in (0, 2) for layer in (0, 2)}


@pytest.mark.parametrize("ask", [{"views": (3,)}, {"layers": (3,)}, {"layers": (-4,)}, {"stats": (2,)}])
def test_what_the_file_does_not_hold_is_named(path: Path, ask: dict[str, tuple[int]]) -> None:
    with Cache.open(path) as file:
        with pytest.raises(CacheError, match=r"is asked for, the file holds \w+ 0 to \d"):
            file.features(**ask)
        with pytest.raises(IndexError):
            file.features([ROWS])
        with pytest.raises(IndexError):
            file.features(np.ones(3, bool))


def test_rows_are_filled_in_any_order_and_only_they(path: Path) -> None:
    """Rows given out of order land in their places; the others stay NaN and missing."""
    x, rows = features(5), [9, 3, 100, 4, 2]
    with Cache.open(path, write=True) as file:
        file.fill_rows(rows, x, [float(r) for r in rows], [str(r) for r in rows])
        assert np.flatnonzero(file.done).tolist() == sorted(rows)
    with Cache.open(path) as file:
        assert np.array_equal(file.features(rows)[:, 0, 0, 0], x[:, 0, -1, 0])
        assert np.isnan(file.features([8, 10])).all()
        assert file.metadata()["seconds"][rows].tolist() == rows
        assert file.audio_digests[rows].tolist() == list(map(str, rows))


def test_features_of_another_shape_or_type_are_refused(path: Path) -> None:
    with Cache.open(path, write=True) as file:
        for wrong in (features(2), features(1).astype(np.float32), features(1)[:, :1]):
            with pytest.raises(ValueError, match="expected float16"):
                file.fill_rows([0], wrong, [1.0], ["0"])
        assert not file.done.any()


def test_a_reason_is_cut_at_a_characters_boundary(path: Path) -> None:
    """200 bytes at most, never half a character; a row that is done later has no reason any more."""
    with Cache.open(path, write=True) as file:
        file.skip(3, "x" + "é" * 150, "d" * 32)
        assert file.skipped() == [("Señor_3", "x" + "é" * 99)] and file.audio_digests[3] == "d" * 32
        file.fill_rows([3], features(1), [1.0], ["e" * 32])
        assert file.skipped() == [] and file.metadata()["skip_reason"][3] == ""


# ---------------------------------------------------------------- identity


def test_names_and_the_default_encoder_are_no_part_of_the_identity() -> None:
    recipe = cards.Recipe(name="a", summary="b", encoder="c/d", views=VIEWS)
    assert Identity.of("iemocap", recipe, SPEC).digest == IDENTITY.digest
    assert Identity.of("iemocap", cards.Recipe(views=9), SPEC, views=VIEWS).digest == IDENTITY.digest


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"sound": cards.Sound(trim_db=30)}, "sound.trim_db: 30.0 here, 20.0 in the file"),
        ({"sound": cards.Sound(pad=True)}, "sound.pad: True here, False in the file"),
        ({"augment": cards.Augment(p=0.25)}, "augment.p: 0.25 here, 0.5 in the file"),
        ({"precision": "bf16"}, "precision: bf16 here, fp32 in the file"),
        ({"views": 3}, "views: 3 here, 2 in the file"),
    ],
)
def test_every_setting_is_part_of_the_identity(change: dict[str, object], difference: str) -> None:
    other = Identity.of("iemocap", cards.Recipe(**{"views": VIEWS, **change}), SPEC)
    assert other.digest != IDENTITY.digest and other.list_differences(IDENTITY) == [difference]


@pytest.mark.parametrize("field", ["id", "revision", "weights_digest"])
def test_another_encoder_is_another_identity(field: str) -> None:
    other = Identity.of("iemocap", cards.Recipe(views=VIEWS), dataclasses.replace(SPEC, **{field: "other"}))
    name = {"id": "encoder"}.get(field, field)
    assert [d.partition(":")[0] for d in other.list_differences(IDENTITY)] == [name]


def test_more_than_asked_for_serves() -> None:
    """A file of more views or of all labels serves who asks for fewer; without views, augmentation does not count."""
    wild = cards.Recipe(augment=cards.Augment(p=1.0), views=VIEWS)
    fewer = Identity.of("iemocap", cards.Recipe(views=1), SPEC)
    clean = Identity.of("iemocap", wild, SPEC, views=0)
    everything = dataclasses.replace(IDENTITY, labels="all")
    assert (
        fewer.list_differences(IDENTITY)
        == clean.list_differences(IDENTITY)
        == IDENTITY.list_differences(everything)
        == []
    )
    assert everything.list_differences(IDENTITY) == ["labels: all here, mapped in the file"]
    assert IDENTITY.list_differences(clean) == ["views: 2 here, 0 in the file"]
    assert clean.digest == Identity.of("iemocap", cards.Recipe(views=0), SPEC).digest


def test_changed_rows_are_counted_and_told() -> None:
    held = utterances(4)
    assert cache.describe_changes(held, held[::-1]) == ""
    wanted = [*held[:2], dataclasses.replace(held[2], label="exc"), Utterance("new", "f", "l", "s")]
    assert cache.describe_changes(held, wanted) == (
        "1 new, 1 gone, 1 described otherwise ('Señor_2': label was 'ang', is now 'exc')"
    )


# ---------------------------------------------------------------- files that are not ours, or damaged


def _edit(path: Path, change: Callable[[h5py.File], object]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def _foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = 1


DAMAGE: dict[str, Callable[[Path], object]] = {
    "text": lambda p: p.write_text("not HDF5"),
    "empty": lambda p: p.write_bytes(b""),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "foreign": _foreign,
    "newer": lambda p: _edit(p, lambda f: f.attrs.update(format=2)),
    "a dataset less": lambda p: _edit(p, lambda f: f.pop("speaker")),
    "an attribute less": lambda p: _edit(p, lambda f: f.attrs.pop("encoder")),
    "another recipe": lambda p: _edit(p, lambda f: f.attrs.update(recipe="{")),
    "other views": lambda p: _edit(p, lambda f: f.attrs.update(views=1)),
    "no text": lambda p: _edit(p, lambda f: f["ids"].__setitem__(0, b"\xff\xfe")),
}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("text", "not a cache, or damaged"), ("empty", "not a cache, or damaged"), ("truncated", "truncated file"),
        ("foreign", "not a cache of embedkit's"), ("newer", "format 2; this embedkit reads format 1"),
        ("a dataset less", "speaker"), ("an attribute less", "encoder"), ("another recipe", "damaged"),
        ("other views", "do not fit"), ("no text", "damaged"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_whole_cache_is_refused_in_one_line(path: Path, how: str, said: str) -> None:
    """One line that names the file and what to do; and the lock is free afterwards."""
    DAMAGE[how](path)
    for write in (False, True):
        with pytest.raises(CacheError, match=said) as error:
            Cache.open(path, write=write)
        assert "\n" not in str(error.value) and str(path) in str(error.value) and "--fresh" in str(error.value)
    cache.create_cache(path, IDENTITY, utterances(), LAYERS, DIM)
    Cache.open(path, write=True).close()


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"embedkit extract --corpus iemocap$"):
        Cache.open(tmp_path / "iemocap.h5")


def test_a_missing_file_of_a_workspace_names_those_that_are_there(workspace: Workspace) -> None:
    """With the flags that reach them and how many rows are done; neither other corpora nor a damaged file."""
    for recipe, corpus in (("exact", "iemocap"), ("crop", "iemocap"), ("exact", "ravdess")):
        path = workspace.cache_file(recipe, SPEC.slug, corpus)
        cache.create_cache(path, IDENTITY, utterances(), LAYERS, DIM)
    with Cache.open(workspace.cache_file("exact", SPEC.slug, "iemocap"), write=True) as file:
        file.fill_rows([0, 1], features(2), [1.0, 1.0], ["0", "1"])
    workspace.cache_file("exact", "damaged", "iemocap").parent.mkdir()
    workspace.cache_file("exact", "damaged", "iemocap").write_text("no")
    there = (
        f"; cached of iemocap: --recipe crop --encoder org/name (0 of {ROWS} rows),"
        f" --recipe exact --encoder org/name (2 of {ROWS} rows)"
    )
    assert cache.describe_cached(workspace.cache, "iemocap") == there
    assert cache.describe_cached(workspace.cache, "crema-d") == ""
    with pytest.raises(CacheError, match=re.escape(there) + "$"):
        Cache.open(workspace.cache_file("plain", SPEC.slug, "iemocap"))


# ---------------------------------------------------------------- one writer, and kills


def test_one_writer_at_a_time_and_any_readers(path: Path) -> None:
    """A second writer, and one that would begin anew, are refused; a reader sees rows as they are done."""
    with Cache.open(path, write=True) as writer:
        for attempt in (
            lambda: Cache.open(path, write=True),
            lambda: cache.create_cache(path, IDENTITY, utterances(), LAYERS, DIM),
        ):
            with pytest.raises(CacheError, match="another process is writing it"):
                attempt()
        with Cache.open(path) as reader:
            writer.fill_rows([7], features(1), [1.0], ["0"])
            assert reader.done[7] == cache.DONE and np.array_equal(
                reader.features([7])[0, 0, 0, 0], features(1)[0, 0, -1, 0]
            )
    Cache.open(path, write=True).close()


FILL = """
import sys, time
from pathlib import Path
import numpy as np
from embedkit.cache import Cache
file = Cache.open(Path(sys.argv[1]), write=True)
print("open", flush=True)
for row in np.flatnonzero(file.done == 0):
    x = np.full((1, *file._data["features"].shape[1:]), row, np.float16)
    file.fill_rows([row], x, [float(row)], [str(row)])
time.sleep(60)
"""


def test_a_kill_while_rows_are_written_costs_only_the_row_in_hand(path: Path) -> None:
    """SIGKILL at 5 random moments of a tight writing loop: the file opens, its lock is free, and every row that is
    marked done holds what was written. A kill that found no row missing does not count; the file is begun anew."""
    kills, rng = 0, random.Random(0)
    for _ in range(100):
        writer = subprocess.Popen([sys.executable, "-c", FILL, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"open\n"
        time.sleep(rng.uniform(0, 0.02))
        with pytest.raises(CacheError, match="another process"):
            Cache.open(path, write=True)
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()
        with Cache.open(path, write=True) as file:
            done = np.flatnonzero(file.done)
            everything = {"views": (0, 1, 2), "layers": (0, 1, 2), "stats": (0, 1)}
            assert (file.features(done, **everything) == done[:, None, None, None, None]).all()
            assert file.audio_digests[done].tolist() == list(map(str, done))
        if len(done) < ROWS:
            kills += 1
        else:
            cache.create_cache(path, IDENTITY, utterances(), LAYERS, DIM)
        if kills == 5:
            return
    pytest.fail(f"{kills} of 100 kills came in time")


# ---------------------------------------------------------------- looking at files


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "workspace")


def test_ls_and_info_tell_what_is_there(workspace: Workspace) -> None:
    """Complete or not, of what; a damaged file is a line with its problem and hides no other."""
    path = workspace.cache_file("exact", SPEC.slug, "iemocap")
    cache.create_cache(path, dataclasses.replace(IDENTITY, random=True), utterances(), LAYERS, DIM)
    with Cache.open(path, write=True) as file:
        file.fill_rows([0, 1], features(2), [1800.0, 1800.0], ["0", "1"])
        file.skip(2, "silent")
    workspace.cache_file("exact", SPEC.slug, "ravdess").write_text("no")
    good, bad = cache.list_caches(workspace)
    assert good["recipe"] == "exact" and good["encoder"] == "org--name" and good["weights"] == "random"
    assert (good["rows"], good["done"], good["skipped"], good["todo"]) == (ROWS, 2, 1, ROWS - 3) and not good["problem"]
    assert list(bad) == list(good) and bad["corpus"] == "ravdess" and "damaged" in bad["problem"]
    info = cache.describe_cache(path)
    assert info["complete"] is False and info["hours"] == 1.0 and info["recipe"]["sound.trim_db"] == 20.0
    assert info["done_by_label"] == {"ang": 1, "neu": 1} and info["skips"] == ["Señor_2: silent"]


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Path]:
    """A corpus of three clips as a manifest, and its cache file."""
    lines = ["file,speaker,label"]
    rng = np.random.default_rng(0)
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", rng.normal(0, 0.1, 8000), 16000)
        lines.append(f"{i}.wav,s{i},anger")
    (manifest := tmp_path / "mine.csv").write_text("\n".join(lines))
    rows = [Utterance(f"{i}.wav", f"{i}.wav", "anger", f"mine:s{i}") for i in range(3)]
    cache.create_cache(path := tmp_path / "mine.h5", dataclasses.replace(IDENTITY, corpus="mine"), rows, LAYERS, DIM)
    with Cache.open(path, write=True) as file:
        digests = [audio.digest(audio.read(tmp_path / row.file)) for row in rows[:2]]
        file.fill_rows([0, 1], features(2), [0.5, 0.5], digests)
        file.skip(2, "silent")
    return path, manifest


def test_verify_finds_nothing_in_a_sound_file(recorded: tuple[Path, Path]) -> None:
    path, manifest = recorded
    expected = {"file": str(path), "rows": 3, "recordings": 2, "problems": []}
    assert cache.verify(path, manifest) == expected
    assert cache.verify(path) == {**expected, "recordings": 0}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("a value", "0.wav: marked done, but its features are not finite"),
        ("no digest", "1.wav: marked done without a digest of its sound"),
        ("a state", "1 rows are neither missing, done nor skipped"),
        ("a setting", "its digest is not that of its settings"),
        ("another clip", "0.wav: 0.wav is not the sound that was encoded"),
        ("a clip less", "0.wav: no such file"),
        ("a label", "1 described otherwise ('0.wav': label was 'anger', is now 'neutral')"),
    ],
)
def test_verify_finds_each_fault(recorded: tuple[Path, Path], how: str, said: str) -> None:
    """Each fault, brought in by hand, is told first."""
    path, manifest = recorded
    with h5py.File(path, "r+") as file:
        if how == "a value":
            file["features"][0, 1, 2, 1, 3] = np.inf
        elif how == "no digest":
            file["audio_digest"][1] = b""
        elif how == "a state":
            file["done"][2] = 7
        elif how == "a setting":
            file.attrs["recipe"] = file.attrs["recipe"].replace("20.0", "30.0")
    if how == "another clip":
        soundfile.write(manifest.parent / "0.wav", np.full(100, 0.5), 16000)
    elif how == "a clip less":
        (manifest.parent / "0.wav").unlink()
    elif how == "a label":
        manifest.write_text(manifest.read_text().replace("s0,anger", "s0,neutral"))
    problems = cache.verify(path, manifest)["problems"]
    assert said in problems[0]


def test_the_lock_lies_beside_the_file(path: Path) -> None:
    Cache.open(path, write=True).close()
    assert {p.name for p in path.parent.iterdir()} <= {"iemocap.h5", "iemocap.h5.lock"}
