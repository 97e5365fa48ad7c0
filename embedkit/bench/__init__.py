"""`embedkit bench`: what this machine can do, and how near embedkit comes to it, on one page.

Each table is one module of this folder with a TITLE, a HOW and `rows(size)`. Every figure that has a floor is a ratio
of things measured in turns in one run, so that a busy machine slows both sides: the median of at least 5, with the
lowest and the highest beside it. Times are CPU seconds of one thread, but where a process is started: those are wall.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from embedkit import __version__
from embedkit.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from embedkit.encoders import Spec
    from embedkit.workspace import Workspace

TABLES = ("machine", "extraction", "heads", "growth", "startup")  # in the page's order
RATE = 16_000  # Hz
MEAN, SD, LONGEST = 4.5, 3.1, 8.0  # s: IEMOCAP's turns, and where a recipe cuts them

Wave = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Size:
    """How much is measured: the defaults take about 10 minutes on 2 idle cores."""

    repeats: int = 5
    full: bool = False  # what takes minutes more: 100 trials, 100,000 rows and a million
    clips: int = 16  # of the naive loop's batch
    views: int = 4
    passes: tuple[int, int] = (40, 120)  # clips of those whose memory is watched
    encoder: Mapping[str, Any] = field(default_factory=dict)  # keys of config.json that differ from DistilHuBERT's
    train: int = 8_200  # rows a fold
    dim: int = 768
    epochs: int = 2  # of the MLP's 25; each costs the same
    sessions: Sequence[int] = (1085, 1023, 1151, 1031, 1241)  # IEMOCAP's turns
    mixed: int = 4_900  # CREMA-D's
    axes: Mapping[str, Sequence[int]] = field(default_factory=lambda: AXES)


AXES: Mapping[str, Sequence[int]] = {
    "rows": (1_000, 3_000, 10_000, 30_000),
    "folds": (3, 6, 12, 24),
    "trials": (2, 4, 8),
    "views": (1, 4, 16),
}


@dataclass(frozen=True)
class Row:
    """One figure. floor: what it must reach, aim: what it should; at least, or at most where `most`."""

    what: str
    value: float | str
    unit: str = ""
    floor: float | None = None
    aim: float | None = None
    most: bool = False
    low: float | None = None  # of the repeats
    high: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """ "short of 5.5", "short of the aim 6.5", or "" where there is nothing to complain of."""
        if isinstance(self.value, str):
            return ""
        for limit, name in ((self.floor, ""), (self.aim, "the aim ")):
            if limit is not None and (self.value > limit if self.most else self.value < limit):
                return f"short of {name}{limit:g}"
        return ""


class Table(Protocol):
    """What a module of this folder offers."""

    TITLE: str
    HOW: str  # of what, and how it is measured

    def rows(self, size: Size) -> Iterator[Row]: ...


def run(
    only: Sequence[str] = (),
    size: Size | None = None,
    figures: Path | None = None,
    announce: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure. only: names of tables; figures: a folder for pictures; announce is told each row as it is known.

    Returns {embedkit, seconds, short: [what], tables: [{name, title, how, rows: [{what, value, unit, floor, aim, most,
    low, high, note, verdict}]}]}. Raises UserError for an unknown table or a folder that is not there.
    """
    for name in only:
        if name not in TABLES:
            raise UserError(f"no table '{name}'{did_you_mean(name, TABLES)}")
    if figures and not figures.is_dir():
        raise UserError(f"{figures}: no such folder; make it, or give another")
    begin = time.perf_counter()
    tables: list[dict[str, Any]] = []
    for name in (n for n in TABLES if not only or n in only):
        table = cast(Table, importlib.import_module(f"{__name__}.{name}"))
        rows = []
        for row in table.rows(size or Size()):
            announce(f"{name}: {row.what}: {shown(row.value)} {row.unit} {row.verdict}".rstrip())
            rows.append({**asdict(row), "verdict": row.verdict})
        tables.append({"name": name, "title": table.TITLE, "how": table.HOW, "rows": rows})
        if figures and hasattr(table, "draw"):
            table.draw(rows, figures)
    short = [str(row["what"]) for table in tables for row in table["rows"] if row["verdict"]]
    return {"embedkit": __version__, "seconds": time.perf_counter() - begin, "short": short, "tables": tables}


# ---------------------------------------------------------------- the page


def text(document: Mapping[str, Any]) -> str:
    """The page: a Markdown table for each of the document's."""
    lines = [f"# embedkit {document['embedkit']} bench, {document['seconds'] / 60:.1f} minutes"]
    for table in document["tables"]:
        lines += ["", f"## {table['title']}", "", table["how"], ""]
        head = ["", "here", "lowest to highest", "floor", "aim", ""]
        lines += _aligned([head, *map(_cells, table["rows"])])
        notes = [f"- {row['what']}: {row['note']}" for row in table["rows"] if row["note"]]
        lines += ["", *notes] if notes else []
    short = document["short"]
    return "\n".join([*lines, "", f"Short of floor or aim: {', '.join(short) if short else 'nothing'}."])


def _cells(row: Mapping[str, Any]) -> list[str]:
    spread = "" if row["low"] is None else f"{shown(row['low'])} to {shown(row['high'])}"
    limits = ["" if row[k] is None else f"{'<=' if row['most'] else '>='} {shown(row[k])}" for k in ("floor", "aim")]
    return [row["what"], f"{shown(row['value'])} {row['unit']}".strip(), spread, *limits, row["verdict"]]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a Markdown table, the first one its head, columns of one width."""
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in ruled
    ]


def shown(value: float | str) -> str:
    """Three digits, five where a number is near 1 from below (a cosine, a share).

    >>> [shown(x) for x in (5.678, 0.99991, 123.4, 12345.6, "AVX2")]
    ['5.68', '0.99991', '123', '12,346', 'AVX2']
    """
    if isinstance(value, str):
        return value
    if 0.999 <= value < 1:
        return f"{value:.5f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


# ---------------------------------------------------------------- measuring


class Took(float):
    """CPU seconds, said by a call that another process has made."""


def interleaved(
    calls: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds that each call takes, `repeats` times in turns: what it says it `Took`, else by the clock around it."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begin = clock()
            said = call()
            taken[name].append(said if isinstance(said, Took) else clock() - begin)
    return taken


def ratio(what: str, over: Sequence[float], under: Sequence[float], scale: float = 1, **more: Any) -> Row:
    """The median of scale * over[i] / under[i], of the same round each, as a row."""
    values = [scale * a / b for a, b in zip(over, under, strict=True)]
    return Row(what, median(values), low=min(values), high=max(values), **more)


@dataclass(frozen=True)
class Ran:
    """What a command took."""

    seconds: float  # wall
    cpu: float  # of it and its children together (s)
    megabytes: float | None  # the highest memory of it and its children together; None where the system does not say


def command(*arguments: str, memory: bool = False) -> Ran:
    """Run `python arguments...` to its end. Raises UserError with its last line where it fails."""
    begin, before = time.perf_counter(), _cpu_of_children()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    peak = [0.0]
    watch = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    if memory:
        watch.start()
    error = process.communicate()[1]
    seconds = time.perf_counter() - begin
    if memory:
        watch.join()
    if process.returncode:
        raise UserError(f"{' '.join(arguments)} failed: {(error.strip().splitlines() or ['no message'])[-1]}")
    return Ran(seconds, _cpu_of_children() - before, peak[0] or None)


@contextmanager
def worker() -> Iterator[Callable[..., Any]]:
    """A fresh process that finds what a worker of `extract` finds: one thread, memory that is kept. What is yielded
    makes calls there: ask(call, *what). Ctrl-C ends it."""
    from embedkit.extract import as_workers_want_it

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with as_workers_want_it():  # no longer than it takes to start: Ctrl-C is not heard meanwhile
            process = pool.submit(os.getpid).result()
        try:
            yield lambda call, *what: pool.submit(call, *what).result()
        except KeyboardInterrupt:
            os.kill(process, signal.SIGTERM)
            raise


def alone(call: Callable[..., Any], *what: Any) -> Any:
    """call(*what) in a `worker` of its own."""
    with worker() as ask:
        return ask(call, *what)


def _cpu_of_children() -> float:
    """CPU seconds of the processes that this one has started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _watch(process: subprocess.Popen[str], peak: list[float]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_megabytes, _family(process.pid))))
        time.sleep(0.1)


def _family(pid: int) -> list[int]:
    """A process and those that it started, and theirs (Linux; elsewhere only itself)."""
    try:
        children = [
            int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()
        ]
    except OSError:
        children = []
    return [pid, *(one for child in children for one in _family(child))]


def _megabytes(pid: int) -> float:
    """Memory of a process, what it shares with others divided among them; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("Pss:")), 0.0)


# ---------------------------------------------------------------- what is measured on


def lengths(count: int) -> list[int]:
    """Samples of clips as IEMOCAP has them: a lognormal's quantiles (mean 4.5 s, sd 3.1 s), cut at 8 s.

    >>> [round(n / RATE, 1) for n in lengths(4)]
    [1.8, 3.0, 4.5, 7.5]
    """
    from statistics import NormalDist

    variance = np.log(1 + (SD / MEAN) ** 2)
    drawn = NormalDist(float(np.log(MEAN) - variance / 2), float(np.sqrt(variance)))
    seconds = [float(np.exp(drawn.inv_cdf((i + 0.5) / count))) for i in range(count)]
    return [round(RATE * min(s, LONGEST)) for s in seconds]


def speech(count: int) -> list[Wave]:
    """Synthetic speech, clips of `lengths`, one voice each."""
    from embedkit import synth
    from embedkit.cards import CLASSES

    rng = np.random.default_rng(0)
    voices = [synth.Speaker.draw(("female", "male")[i % 2], rng) for i in range(count)]
    return [
        synth.utterance(CLASSES[i % 4], voice, samples / RATE, rng)
        for i, (voice, samples) in enumerate(zip(voices, lengths(count), strict=True))
    ]


def encoder(folder: Path, size: Size) -> Spec:
    """DistilHuBERT's geometry with random weights: speed does not depend on what was learned."""
    from embedkit import encoders
    from embedkit.encoders import random_weights

    return encoders.resolve(
        str(random_weights.hubert_geometry(folder, 0, {**random_weights.DISTILHUBERT, **size.encoder}))
    )


def features(rows: int, dim: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.str_]]:
    """Pooled features as encoders give them, X [row, dim] and y [row]: an offset, a spread that falls as the real
    Whisper's does (the k-th direction's standard deviation as k^-0.65), classes that overlap."""
    from embedkit.cards import CLASSES

    rng, world = np.random.default_rng([seed, rows]), np.random.default_rng(0)
    turn = np.linalg.qr(world.standard_normal((dim, dim)))[0] * (np.arange(1, dim + 1) ** -0.65)[:, None]
    centres = 0.35 * world.standard_normal((4, dim)) * (np.arange(dim) < 30)
    y = rng.integers(0, 4, rows)
    X = np.empty((rows, dim), np.float32)
    for part in np.array_split(np.arange(rows), -(-rows // 10_000)):
        X[part] = (rng.standard_normal((len(part), dim), np.float32) + centres[y[part]]) @ turn
    return X + world.standard_normal(dim).astype(np.float32), np.array(CLASSES)[y]


def cached(workspace: Workspace, corpus: str, sessions: Sequence[int], dim: int, views: int = 0) -> None:
    """A cache of made-up features in a workspace, as if `extract` had filled it: one layer, so many rows a session."""
    from embedkit import cards
    from embedkit.cache import Cache, Identity, create

    rows = list(_utterances(corpus, sessions, features(sum(sessions), 1)[1]))
    recipe = cards.read(cards.Recipe, workspace.card("cache", "exact")).model_dump(
        mode="json", include={"precision", "sound", "augment"}
    )
    identity = Identity(corpus, recipe, "ntu-spml/distilhubert", "0" * 40, "1" * 64, True, views=views)
    path = workspace.cache_file("exact", "ntu-spml--distilhubert", corpus)
    create(path, identity, rows, 1, dim)
    with Cache.open(path, write=True) as file:
        rng = np.random.default_rng(len(rows))
        X, _ = features(len(rows), dim)
        for part in np.array_split(np.arange(len(rows)), -(-len(rows) // 1_000)):
            block = np.zeros((len(part), 1 + views, 1, 2, dim), np.float16)
            block[..., 0, :] = X[part, None, None] + 0.03 * rng.standard_normal(
                (len(part), 1 + views, 1, dim), np.float32
            )
            file.fill(part.tolist(), block, [MEAN] * len(part), [f"{corpus}{i}" for i in part])


def _utterances(corpus: str, sessions: Sequence[int], classes: Iterable[str]) -> Iterator[Any]:
    """IEMOCAP's two speakers a session; any other corpus has one session less and 91 speakers."""
    from embedkit import corpora
    from embedkit.corpora import Utterance

    labels = {name: of[0] for name, of in corpora.reader(corpus).LABELS.items()}
    session = np.repeat(np.arange(len(sessions)), sessions)
    for i, (s, name) in enumerate(zip(session, classes, strict=True)):
        in_session = corpus == "iemocap"
        speaker = f"{corpus}:{s}{'FM'[i % 2]}" if in_session else f"{corpus}:{i % 91}"
        yield Utterance(
            f"{corpus}-{i}", f"{i}.wav", labels[name], speaker, session=f"Ses{s + 1:02}" if in_session else ""
        )
