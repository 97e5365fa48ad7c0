"""Clips encoded: in this process, in workers, or in batches on a GPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice
from typing import Any

from embedkit import audio, encoders
from embedkit.errors import ClipError, UserError
from embedkit.extract.clip import Clip, Encode, Listen, Task, keep, pool
from embedkit.threads import cores, one_thread
from embedkit.workers import map_in_workers

BATCH_SECONDS = 480.0  # of sound (s) that a GPU is given at a time
CLIPS_A_WORKER = 8  # at least, unless asked for otherwise: a worker takes seconds to start


def _encoded(
    tasks: Sequence[Task], listen: Listen, spec: encoders.Spec, jobs: int | None, device: str
) -> Generator[list[Clip]]:
    """Every task's clip, in small groups, in the order in which they are ready."""
    jobs = min(jobs, len(tasks)) if jobs else max(1, min(cores(), len(tasks) // CLIPS_A_WORKER))
    if _device(device) == "cuda":
        encoder = encoders.load(spec, listen.recipe.precision, "cuda", listen.recipe.sound.crop)
        yield from on_gpu(_ready_ahead(map_in_workers(listen, tasks, jobs), 2 * jobs), encoder, listen.pad_to)
    elif jobs == 1:
        with one_thread():
            for clip in map_in_workers(Encode(listen, spec), tasks, 1):
                yield [clip]
    else:
        for clip in map_in_workers(Encode(listen, spec), tasks, jobs):
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
