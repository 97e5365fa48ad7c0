"""Encoding the clips of a pass: in this process, in workers, or in batches on a GPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice

from embedkit import audio, encoders
from embedkit.encoders import Encoder
from embedkit.errors import ClipError, UserError
from embedkit.extract.clip import Clip, ClipEncoder, ClipLoader, Task, pool_clip, store_features
from embedkit.threads import count_cores, one_thread
from embedkit.workers import map_in_workers

BATCH_SECONDS = 480.0  # s of sound in a batch for a GPU
MIN_CLIPS_PER_WORKER = 8  # where the number of workers is not given: a worker takes seconds to start


def encode_tasks(
    tasks: Sequence[Task], loader: ClipLoader, spec: encoders.Spec, jobs: int | None, device: str
) -> Generator[list[Clip]]:
    """The clips of all tasks, in small groups, in the order in which they are ready.

    jobs: worker processes; None: by cores and tasks. device: "auto", "cpu" or "cuda". Raises UserError for "cuda" where
    there is none, WorkerError where a worker dies.
    """
    jobs = min(jobs, len(tasks)) if jobs else max(1, min(count_cores(), len(tasks) // MIN_CLIPS_PER_WORKER))
    if _resolve_device(device) == "cuda":
        encoder = encoders.load(spec, loader.recipe.precision, "cuda", loader.recipe.sound.crop)
        yield from encode_in_batches(
            _prefetch_clips(map_in_workers(loader, tasks, jobs), 2 * jobs), encoder, loader.pad_to
        )
    elif jobs == 1:
        with one_thread():
            for clip in map_in_workers(ClipEncoder(loader, spec), tasks, 1):
                yield [clip]
    else:
        for clip in map_in_workers(ClipEncoder(loader, spec), tasks, jobs):
            yield [clip]


def encode_in_batches(clips: Iterable[Clip], encoder: Encoder, pad_to: int) -> Iterator[list[Clip]]:
    """Encode clips in batches of at least BATCH_SECONDS of sound (the last one may have less)."""
    batch: list[Clip] = []
    samples = 0
    for clip in clips:
        batch.append(clip)
        samples += sum(map(len, clip.waves))
        if samples >= BATCH_SECONDS * audio.RATE:
            yield _encode_batch(batch, encoder, pad_to)
            batch, samples = [], 0
    if batch:
        yield _encode_batch(batch, encoder, pad_to)


def _encode_batch(batch: list[Clip], encoder: Encoder, pad_to: int) -> list[Clip]:
    usable = [clip for clip in batch if not clip.reason]
    try:
        pooled = iter(
            encoder.pool_many([wave for clip in usable for wave in clip.waves], pad_to=pad_to) if usable else []
        )
    except (ClipError, AttributeError):  # one of them cannot be encoded, or this encoder has no batches: one by one
        for clip in usable:
            pool_clip(clip, encoder, pad_to)
        return batch
    for clip in usable:
        store_features(clip, list(islice(pooled, len(clip.waves))))
    return batch


def _resolve_device(device: str) -> str:
    if device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise UserError("--device cuda: torch finds no CUDA device here; leave --device out to use the CPU")
    return "cpu"


def _prefetch_clips(clips: Generator[Clip], depth: int) -> Iterator[Clip]:
    """The same clips, fetched in a thread: up to depth of them wait while the caller is busy."""
    ready: queue.Queue[Clip | BaseException | None] = queue.Queue(depth)
    wanted = True

    def put_item(item: Clip | BaseException | None) -> None:
        while wanted:
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                break

    def fetch_clips() -> None:
        try:
            with closing(clips):
                for clip in clips:
                    put_item(clip)
                    if not wanted:
                        break
            put_item(None)
        except BaseException as error:
            put_item(error)

    thread = threading.Thread(target=fetch_clips, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        wanted = False
        thread.join()
