"""The pass: corpus -> sound -> views -> encoder -> cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import numpy as np

from embedkit import audio, cache, cards, corpora, encoders
from embedkit.cache import DONE, MISSING, Cache, Identity
from embedkit.cards import Recipe
from embedkit.corpora import SkippedClip, read_sound
from embedkit.errors import ClipError, EmbedkitError, UserError
from embedkit.extract.clip import Clip, ClipLoader, Task
from embedkit.extract.encode import encode_tasks
from embedkit.extract.plan import CacheState, ExtractPlan, Labels, plan_pass
from embedkit.progress import progress_bar
from embedkit.workers import WorkerError
from embedkit.workspace import Workspace


class ExtractReport(TypedDict):
    """The document of `extract`: the state of the file after the pass."""

    cache: str  # the file
    rows: int
    done: int
    todo: int
    skipped: list[SkippedClip]
    audio_seconds_per_second: float  # of the clips as decoded, whatever the views; 0 where nothing was to do
    weights: NotRequired[Literal["random"]]  # where those of the encoder are random


def extract_corpus(
    workspace: Workspace | Path | str,
    corpus: str,
    *,
    recipe: Recipe | str = "exact",
    root: Path | str | None = None,
    encoder: Path | str | None = None,
    views: int | None = None,
    labels: Labels = "mapped",
    limit: int | None = None,
    jobs: int | None = None,
    device: str = "auto",
    fresh: bool = False,
    progress: bool | None = None,
) -> ExtractReport:
    """Encode every row of a corpus that is not yet in its cache file.

    recipe: a card, or the name of one. root: where the corpus lies; None: as the workspace says. encoder: a hub id, a
    folder or an exported file. encoder, views: None takes the recipe's. labels: "mapped": the rows that the label map
    of the corpus covers; "all": every row. limit: encode at most so many rows, spread over speakers and labels.
    jobs: worker processes; None: by cores and clips. device: "auto", "cpu" or "cuda". fresh: begin a new file in place
    of the one that is there. progress: a bar on stderr; None: where stderr is a terminal.

    Raises CardError, CorpusError, EncoderError or CacheError where the pass cannot begin; EmbedkitError where it was
    stopped (the same call goes on from there).
    """
    _check_options(views, limit, jobs, labels)
    workspace = Workspace.at(workspace)
    if isinstance(recipe, str):
        recipe = cards.read(Recipe, workspace.card("cache", recipe))
    place = workspace.resolve_corpus_root(corpus, root)
    spec = encoders.resolve(str(encoder or recipe.encoder))
    wanted = Identity.of(corpus, recipe, spec, views=views, labels=labels)
    path = workspace.cache_file(recipe.name, spec.slug, corpus)
    utterances, label_map = corpora.load(corpus, place), corpora.find_reader(corpus, place).LABELS
    with ExitStack() as stack:
        file = stack.enter_context(Cache.open(path, write=True)) if path.exists() and not fresh else None
        extract_plan = plan_pass(path, wanted, utterances, label_map, limit, CacheState.of(file) if file else None)
        if file is None:
            cache.create_cache(path, extract_plan.identity, extract_plan.rows, spec.layers, spec.dim)
            file = stack.enter_context(Cache.open(path, write=True))
        # The settings in effect are those of the file: a recipe with fewer views may have other augmentation, or none.
        effective_recipe = cards.build(Recipe, extract_plan.identity.recipe, where=str(path))
        loader = ClipLoader(corpora.folder(corpus, place), effective_recipe, extract_plan.identity.views)
        speed = _run_pass(file, extract_plan, loader, spec, jobs, device, progress)
        return _build_report(file, speed)


def _check_options(views: int | None, limit: int | None, jobs: int | None, labels: str) -> None:
    for flag, value, least in (("--views", views, 0), ("--limit", limit, 1), ("--jobs", jobs, 1)):
        if value is not None and value < least:
            raise UserError(f"{flag} {value}: expected at least {least}")
    if labels not in ("mapped", "all"):
        raise UserError(f"--labels {labels}: expected mapped or all")


def _build_report(file: Cache, speed: float) -> ExtractReport:
    done = file.done
    report: ExtractReport = {
        "cache": str(file.path),
        "rows": file.rows,
        "done": int((done == DONE).sum()),
        "todo": int((done == MISSING).sum()),
        "skipped": [{"id": id_, "reason": reason} for id_, reason in file.skipped()],
        "audio_seconds_per_second": round(speed, 3),
    }
    return {**report, "weights": "random"} if file.identity.random else report


def _run_pass(
    file: Cache,
    extract_plan: ExtractPlan,
    loader: ClipLoader,
    spec: encoders.Spec,
    jobs: int | None,
    device: str,
    progress: bool | None,
) -> float:
    """Encode the planned rows. Returns the speed, seconds of sound per second; 0 where nothing was to do."""
    rows = sorted([*extract_plan.todo, *_find_changed_rows(file, extract_plan, loader)])
    if not rows:
        return 0.0
    tasks = [Task(row, extract_plan.rows[row]) for row in rows]
    begin, seconds = time.monotonic(), 0.0
    try:
        with (
            closing(encode_tasks(tasks, loader, spec, jobs, device)) as batches,
            progress_bar(len(tasks), unit="clip", show=progress) as bar,
        ):
            for clips in batches:
                _write_clips(file, clips)
                bar.update(len(clips))
                seconds += sum(clip.seconds for clip in clips if clip.features is not None)
    except KeyboardInterrupt:
        raise EmbedkitError(f"stopped; {_describe_kept_rows(file)}") from None
    except WorkerError as error:
        raise EmbedkitError(f"{error}; {_describe_kept_rows(file)}") from None
    return seconds / (time.monotonic() - begin)


def _find_changed_rows(file: Cache, extract_plan: ExtractPlan, loader: ClipLoader) -> list[int]:
    """The rows that were skipped before and whose sound has changed since; of others the reason is updated."""
    if not extract_plan.retry:
        return []
    digests, reasons = file.audio_digests, dict(file.skipped())
    changed = []
    for row in extract_plan.retry:
        utterance = extract_plan.rows[row]
        try:
            if audio.digest(read_sound(loader.folder, utterance)) != digests[row]:
                changed.append(row)
        except ClipError as error:
            if str(error) != reasons[utterance.id]:
                file.skip(row, str(error))
    return changed


def _describe_kept_rows(file: Cache) -> str:
    done = int((file.done != MISSING).sum())
    return f"{done} of {file.rows} rows are kept, and the same command (without --fresh) goes on from there"


def _write_clips(file: Cache, clips: Sequence[Clip]) -> None:
    encoded = [(clip, clip.features) for clip in clips if clip.features is not None]
    if encoded:
        file.fill_rows(
            [clip.row for clip, _ in encoded],
            np.stack([features for _, features in encoded]),
            [clip.seconds for clip, _ in encoded],
            [clip.digest for clip, _ in encoded],
        )
    for clip in clips:
        if clip.features is None:
            file.skip(clip.row, clip.reason, clip.digest)
