"""The one pass: corpus -> sound -> views -> encoder -> cache. What is there already is not done again.

On a CPU worker processes encode one clip at a time with one thread each, so features are the same bit by bit whatever
the jobs, the order or the interruption. On a GPU the workers prepare the sound, and one process encodes batches.
This process alone writes the file; a kill costs the rows in flight.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from embedkit import audio, augment, cache, cards, corpora, encoders
from embedkit.cache import DONE, MISSING, SKIPPED, Cache, Identity
from embedkit.cards import Recipe
from embedkit.corpora import Utterance
from embedkit.errors import CacheError, ClipError, CorpusError, EmbedkitError, UserError
from embedkit.threads import cores, one_thread
from embedkit.workspace import Workspace, inside

AHEAD = 2  # tasks that a worker has at a time: one in its hands, one waiting
BATCH_SECONDS = 480.0  # of sound (s) that a GPU is given at a time
WORKERS = {  # what a worker finds in its environment
    # One thread for every library.
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    # glibc hands large memory back as soon as it is free, and the next clip pays for every page anew: up to 7 % of the
    # time of a clip of 7 s. So a worker keeps what its clips took, but for blocks of 32 MiB and more: what they leave
    # is soon strewn with small ones, and the next one is taken beside it.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}
CLIPS_A_WORKER = 8  # at least, unless asked for otherwise: a worker takes seconds to start

Labels = Literal["mapped", "all"]
Wave = npt.NDArray[np.float32]


def extract(
    workspace: Workspace,
    corpus: str,
    *,
    recipe: Recipe,
    root: Path | None = None,
    encoder: str | None = None,
    views: int | None = None,
    labels: Labels = "mapped",
    limit: int | None = None,
    jobs: int | None = None,
    device: str = "auto",
    fresh: bool = False,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Encode every row of a corpus that its cache file does not hold yet.

    encoder, views: None takes the recipe's. labels: rows that the corpus's label map covers, or "all". limit: do no
    more than the first so many rows of `spread`. jobs: worker processes; None: by cores and clips. fresh: begin a new
    file in place of the one that is there. progress: a bar on stderr; None: where stderr is a terminal.
    Returns {cache, rows, done, todo, skipped: [{id, reason}], audio_seconds_per_second}, and weights: "random" where
    that is so; the speed counts clips as decoded, whatever the views, and is 0 where nothing was to do.

    Raises CorpusError, EncoderError, CacheError where the pass cannot begin; EmbedkitError where it was stopped (the
    same command goes on from there).
    """
    _check(views, limit, jobs, labels)
    place = workspace.corpus_root(corpus, root)
    spec = encoders.resolve(encoder or recipe.encoder)
    wanted = Identity.of(corpus, recipe, spec, views=views, labels=labels)
    path = workspace.cache_file(recipe.name, spec.slug, corpus)
    utterances, label_map = corpora.load(corpus, place), corpora.reader(corpus, place).LABELS
    with ExitStack() as stack:
        file = stack.enter_context(Cache.open(path, write=True)) if path.exists() and not fresh else None
        todo = plan(path, wanted, utterances, label_map, limit, Held.of(file) if file else None)
        if file is None:
            cache.create(path, todo.identity, todo.rows, spec.layers, spec.dim)
            file = stack.enter_context(Cache.open(path, write=True))
        # What is in effect stands in the file: a recipe of fewer views may say other augmentation, or none.
        in_effect = cards.build(Recipe, todo.identity.recipe, where=str(path))
        listen = Listen(corpora.folder(corpus, place), in_effect, todo.identity.views)
        speed = _run(file, todo, listen, spec, jobs, device, progress)
        return _report(file, speed)


def _check(views: int | None, limit: int | None, jobs: int | None, labels: str) -> None:
    for flag, value, least in (("--views", views, 0), ("--limit", limit, 1), ("--jobs", jobs, 1)):
        if value is not None and value < least:
            raise UserError(f"{flag} {value}: expected at least {least}")
    if labels not in ("mapped", "all"):
        raise UserError(f"--labels {labels}: expected mapped or all")


def _report(file: Cache, speed: float) -> dict[str, Any]:
    done = file.done
    report: dict[str, Any] = {
        "cache": str(file.path),
        "rows": file.rows,
        "done": int((done == DONE).sum()),
        "todo": int((done == MISSING).sum()),
        "skipped": [{"id": id_, "reason": reason} for id_, reason in file.skipped()],
        "audio_seconds_per_second": round(speed, 3),
    }
    return {**report, "weights": "random"} if file.identity.random else report


# ---------------------------------------------------------------- what is to do


@dataclass(frozen=True)
class Held:
    """What a cache file holds before the pass."""

    identity: Identity
    rows: list[Utterance]
    done: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, file: Cache) -> Held:
        return cls(file.identity, file.utterances(), file.done)


@dataclass(frozen=True)
class Plan:
    """What a pass will do, as a value."""

    identity: Identity  # of the file that is filled; it may hold more views or labels than were asked for
    rows: list[Utterance]  # of the file
    todo: list[int]  # rows never tried
    retry: list[int]  # rows skipped before, to be tried again if their sound has changed


def plan(
    path: Path,
    wanted: Identity,
    utterances: Sequence[Utterance],
    label_map: Mapping[str, Sequence[str]],
    limit: int | None = None,
    held: Held | None = None,
) -> Plan:
    """Decide what to do; held: None lays a new file out.

    Raises CacheError where the file at path is of other settings or other rows, CorpusError where there are no rows.
    """
    if held is None:
        rows = select(wanted.corpus, utterances, label_map, wanted.labels)
        return Plan(wanted, rows, spread(rows, limit), [])
    if differences := wanted.differences(held.identity):
        raise CacheError(
            f"{path}: made with other settings: {', '.join(differences)}; --fresh begins anew, a recipe of another name"
            " keeps both"
        )
    rows = select(wanted.corpus, utterances, label_map, held.identity.labels)
    if changed := cache.changes(held.rows, rows):
        raise CacheError(f"{path}: the corpus has changed since, its rows: {changed}; --fresh begins anew")
    chosen = spread(held.rows, limit)
    todo = [row for row in chosen if held.done[row] == MISSING]
    return Plan(held.identity, held.rows, todo, [row for row in chosen if held.done[row] == SKIPPED])


def select(
    corpus: str, utterances: Sequence[Utterance], label_map: Mapping[str, Sequence[str]], labels: str
) -> list[Utterance]:
    """The rows of a file: those whose label the map names, or all. Raises CorpusError where there are none."""
    known = {label for group in label_map.values() for label in group}
    rows = [u for u in utterances if labels == "all" or u.label in known]
    if not rows:
        there = ", ".join(sorted({u.label for u in utterances})[:20])
        raise CorpusError(
            f"{corpus}: no label is one of {', '.join(sorted(known))}; it has {there}; --labels all takes every one"
        )
    return rows


def spread(rows: Sequence[Utterance], limit: int | None) -> list[int]:
    """Numbers of at most `limit` rows, ascending: every pair of speaker and label once, then every pair twice, ...

    Pairs come diagonal by diagonal, so even a few rows are of many speakers and all labels. A smaller limit's rows
    lie in a larger one's.
    """
    if limit is None:
        return list(range(len(rows)))
    speakers = {name: i for i, name in enumerate(dict.fromkeys(u.speaker for u in rows))}
    labels = {name: i for i, name in enumerate(dict.fromkeys(u.label for u in rows))}
    before: Counter[tuple[int, int]] = Counter()
    order = []
    for row, u in enumerate(rows):
        pair = speakers[u.speaker], labels[u.label]
        order.append((before[pair], (pair[1] - pair[0]) % len(labels), pair[0], row))
        before[pair] += 1
    return sorted(row for *_, row in sorted(order)[:limit])


# ---------------------------------------------------------------- a clip


@dataclass(frozen=True)
class Task:
    row: int
    utterance: Utterance


@dataclass
class Clip:
    """What has become of a task: waves, then features, or the reason why it cannot be used."""

    row: int
    seconds: float = float("nan")
    digest: str = ""
    waves: list[Wave] = field(default_factory=list)  # by view
    features: npt.NDArray[np.float16] | None = None  # [view, layer, stat, dim]
    reason: str = ""


@dataclass(frozen=True)
class Listen:
    """A clip's views, prepared and cut, ready to be encoded."""

    folder: Path
    recipe: Recipe
    views: int

    def __call__(self, task: Task) -> Clip:
        clip = Clip(task.row)
        try:
            wave = self.read(task.utterance)
            clip.seconds, clip.digest = len(wave) / audio.RATE, audio.digest(wave)
            prepared = audio.prepare(wave, self.recipe.sound)
            views = augment.views(prepared, self.recipe, task.utterance.id, self.views) if self.views else []
            clip.waves = [audio.cut(view, self.recipe.sound) for view in (prepared, *views)]
        except ClipError as error:
            clip.reason = str(error)
        return clip

    def read(self, utterance: Utterance) -> Wave:
        """Its samples as decoded; ClipError where they cannot be had."""
        try:
            path = inside(self.folder, utterance.file)
        except UserError as error:
            raise ClipError(str(error)) from None
        return audio.read(path, utterance.start, utterance.end)

    @property
    def pad_to(self) -> int:
        sound = self.recipe.sound
        return round(sound.max_seconds * audio.RATE) if sound.pad else 0


class Encode:
    """A clip's features, on a CPU. The encoder is loaded for the first clip that has sound."""

    def __init__(self, listen: Listen, spec: encoders.Spec) -> None:
        self.listen, self.spec = listen, spec
        self._encoder: encoders.Encoder | None = None

    def __call__(self, task: Task) -> Clip:
        clip = self.listen(task)
        if not clip.reason:
            if self._encoder is None:
                recipe = self.listen.recipe
                self._encoder = encoders.load(self.spec, recipe.precision, "cpu", recipe.sound.crop)
            pool(clip, self._encoder, self.listen.pad_to)
        return clip


def pool(clip: Clip, encoder: encoders.Encoder, pad_to: int) -> None:
    """Turn a clip's waves into features, one by one."""
    try:
        keep(clip, [encoder.pool(wave, pad_to=pad_to) for wave in clip.waves])
    except ClipError as error:
        clip.waves, clip.reason = [], str(error)


def keep(clip: Clip, pooled: Sequence[npt.NDArray[np.float32]]) -> None:
    """Round a clip's features, [layer, stat, dim] a view, to float16, or say which of them does not fit."""
    exact = np.stack(pooled)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(np.float16)
    clip.waves = []
    if np.isfinite(rounded).all():
        clip.features = rounded
        return
    view, layer, stat, at = np.argwhere(~np.isfinite(rounded))[0]
    value = exact[view, layer, stat, at]
    clip.reason = (
        f"view {view}, layer {layer}: its {cache.STATS[stat]} holds {value:.6g}, outside float16 (at most 65504)"
    )


# ---------------------------------------------------------------- the pass


def _run(
    file: Cache, todo: Plan, listen: Listen, spec: encoders.Spec, jobs: int | None, device: str, progress: bool | None
) -> float:
    """Do what is planned. Returns seconds of sound a second."""
    rows = sorted([*todo.todo, *_changed(file, todo, listen)])
    if not rows:
        return 0.0
    tasks = [Task(row, todo.rows[row]) for row in rows]
    begin, heard = time.monotonic(), 0.0
    try:
        with closing(_encoded(tasks, listen, spec, jobs, device)) as groups, _bar(len(tasks), progress) as bar:
            for clips in groups:
                _write(file, clips)
                bar.update(len(clips))
                heard += sum(clip.seconds for clip in clips if clip.features is not None)
    except KeyboardInterrupt:
        raise EmbedkitError(f"stopped; {_kept(file)}") from None
    except Broken as error:
        raise EmbedkitError(f"{error}; {_kept(file)}") from None
    return heard / (time.monotonic() - begin)


def _changed(file: Cache, todo: Plan, listen: Listen) -> list[int]:
    """Of the rows skipped before, those whose sound is another now; without encoding anything."""
    if not todo.retry:
        return []
    digests, reasons = file.audio_digests, dict(file.skipped())
    changed = []
    for row in todo.retry:
        utterance = todo.rows[row]
        try:
            if audio.digest(listen.read(utterance)) != digests[row]:
                changed.append(row)
        except ClipError as error:
            if str(error) != reasons[utterance.id]:
                file.skip(row, str(error))
    return changed


def _kept(file: Cache) -> str:
    done = int((file.done != MISSING).sum())
    return f"{done} of {file.rows} rows are kept, and the same command (without --fresh) goes on from there"


def _write(file: Cache, clips: Sequence[Clip]) -> None:
    good = [(clip, clip.features) for clip in clips if clip.features is not None]
    if good:
        file.fill(
            [clip.row for clip, _ in good],
            np.stack([features for _, features in good]),
            [clip.seconds for clip, _ in good],
            [clip.digest for clip, _ in good],
        )
    for clip in clips:
        if clip.features is None:
            file.skip(clip.row, clip.reason, clip.digest)


def _bar(total: int, show: bool | None) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="clip", disable=None if show is None else not show)  # None: by the terminal


def _encoded(
    tasks: Sequence[Task], listen: Listen, spec: encoders.Spec, jobs: int | None, device: str
) -> Generator[list[Clip]]:
    """Every task's clip, in small groups, in the order in which they are ready."""
    jobs = min(jobs, len(tasks)) if jobs else max(1, min(cores(), len(tasks) // CLIPS_A_WORKER))
    if _device(device) == "cuda":
        encoder = encoders.load(spec, listen.recipe.precision, "cuda", listen.recipe.sound.crop)
        yield from on_gpu(_ready_ahead(spread_out(listen, tasks, jobs), 2 * jobs), encoder, listen.pad_to)
    elif jobs == 1:
        with one_thread():
            for clip in spread_out(Encode(listen, spec), tasks, 1):
                yield [clip]
    else:
        for clip in spread_out(Encode(listen, spec), tasks, jobs):
            yield [clip]


def on_gpu(clips: Iterable[Clip], encoder: Any, pad_to: int) -> Iterator[list[Clip]]:
    """Encode clips in batches of some minutes of sound."""
    batch: list[Clip] = []
    samples = 0
    for clip in clips:
        batch.append(clip)
        samples += sum(map(len, clip.waves))
        if samples >= BATCH_SECONDS * audio.RATE:
            yield _encoded_together(batch, encoder, pad_to)
            batch, samples = [], 0
    if batch:
        yield _encoded_together(batch, encoder, pad_to)


def _encoded_together(batch: list[Clip], encoder: Any, pad_to: int) -> list[Clip]:
    sound = [clip for clip in batch if not clip.reason]
    try:
        pooled = iter(
            encoder.pool_many([wave for clip in sound for wave in clip.waves], pad_to=pad_to) if sound else []
        )
    except (ClipError, AttributeError):  # one of them is the culprit, or this encoder has no batches: one by one
        for clip in sound:
            pool(clip, encoder, pad_to)
        return batch
    for clip in sound:
        keep(clip, list(islice(pooled, len(clip.waves))))
    return batch


def _device(device: str) -> str:
    if device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise UserError("--device cuda: torch finds no CUDA device here; leave --device out to use the CPU")
    return "cpu"


# ---------------------------------------------------------------- worker processes


class Broken(EmbedkitError):
    """The pass cannot go on: a worker died, or met a fault that is not the clip's."""


def spread_out(call: Callable[[Task], Clip], tasks: Iterable[Task], jobs: int) -> Generator[Clip]:
    """call(task) of every task, as they are ready: in this process (jobs 1), or in so many fresh ones.

    No more than jobs * AHEAD tasks are in flight. Each worker has a pipe of its own, so each side learns from its end
    that the other is dead: no worker outlives this process, and a worker's death raises Broken.
    """
    if jobs == 1:
        for task in tasks:
            yield _checked(_answer(call, task))
        return
    rest = iter(tasks)
    with _workers(call, jobs) as workers:
        waiting: dict[Connection, list[Task]] = {pipe: [] for pipe in workers}
        for _ in range(AHEAD):
            for pipe in workers:
                _send(pipe, workers, waiting, rest)
        while any(waiting.values()):
            for pipe in cast(list[Connection], wait([pipe for pipe in waiting if waiting[pipe]])):
                try:
                    answer = pipe.recv()
                except (EOFError, OSError):
                    raise _death(workers[pipe], waiting[pipe]) from None
                waiting[pipe].pop(0)
                _send(pipe, workers, waiting, rest)
                yield _checked(answer)


def _send(
    pipe: Connection, workers: Mapping[Connection, Any], waiting: dict[Connection, list[Task]], rest: Iterator[Task]
) -> None:
    for task in islice(rest, 1):
        waiting[pipe].append(task)
        try:
            pipe.send(task)
        except OSError:
            raise _death(workers[pipe], waiting[pipe]) from None


def _death(process: Any, tasks: Sequence[Task]) -> Broken:
    process.join(5)
    return Broken(
        f"a worker process died (exit code {process.exitcode}: killed, out of memory, or crashed) at"
        f" {tasks[0].utterance.id}; with fewer --jobs less memory is needed"
    )


def _checked(answer: Clip | EmbedkitError) -> Clip:
    if isinstance(answer, EmbedkitError):
        raise answer
    return answer


def _answer(call: Callable[[Task], Clip], task: Task) -> Clip | EmbedkitError:
    try:
        return call(task)
    except EmbedkitError as error:
        return error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Broken(f"{task.utterance.id}: {reason}")


@contextmanager
def _workers(call: Callable[[Task], Clip], jobs: int) -> Iterator[dict[Connection, Any]]:
    """Fresh processes, each at the other end of a pipe; they end with the block."""
    context = get_context("spawn")
    workers: dict[Connection, Any] = {}
    try:
        with as_workers_want_it():
            for _ in range(jobs):
                mine, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, call), daemon=True)
                process.start()
                theirs.close()
                workers[mine] = process
        yield workers
    finally:
        for pipe, process in workers.items():
            pipe.close()
            process.terminate()
        for process in workers.values():
            process.join()


def _serve(pipe: Connection, call: Callable[[Task], Clip]) -> None:
    """A worker's life: answer tasks until the other end is closed, or dead."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            pipe.send(_answer(call, pipe.recv()))
    except (EOFError, OSError):
        return


@contextmanager
def as_workers_want_it() -> Iterator[None]:
    """What a new process inherits: `WORKERS` in its environment, and Ctrl-C left to the parent."""
    before = {name: os.environ.get(name) for name in WORKERS}
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
    os.environ.update(WORKERS)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)


def _ready_ahead(clips: Generator[Clip], depth: int) -> Iterator[Clip]:
    """The same clips, up to depth of them fetched in a thread while the caller is busy."""
    ready: queue.Queue[Clip | BaseException | None] = queue.Queue(depth)
    wanted = True

    def put(item: Clip | BaseException | None) -> None:
        while wanted:
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                break

    def fetch() -> None:
        try:
            with closing(clips):
                for clip in clips:
                    put(clip)
                    if not wanted:
                        break
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        wanted = False
        thread.join()
