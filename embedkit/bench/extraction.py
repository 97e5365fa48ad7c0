"""From sound to features: against the loop that one would write, and against what the processor can do at most."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedkit.audio import RATE, Wave
from embedkit.bench._ceiling import measure_against_ceiling, note_arithmetic
from embedkit.bench._gpu import measure_on_gpu
from embedkit.bench._material import Size, make_encoder, make_features, make_speech, write_manifest
from embedkit.bench._measure import Timing, fresh_worker, make_ratio_row, run_command, run_in_worker, time_in_turns
from embedkit.bench._page import Row
from embedkit.threads import one_thread

if TYPE_CHECKING:
    import torch

    from embedkit.encoders import Encoder, Spec

TITLE = "Extraction"
HOW = (
    "DistilHuBERT's geometry with random weights; synthetic speech of IEMOCAP's lengths (mean 4.5 s, cut at 8 s). The"
    " naive loop is transformers in fp32, 16 clips a batch, padded to 8 s, in a plain process; ours runs as `extract`"
    " has it run, in a worker that keeps its memory. CPU time of one thread each, in turns."
)
BATCH_SECONDS = 8.0  # of each clip in the naive loop's batch


def rows(size: Size) -> Iterator[Row]:
    """Speed against the naive loop and the processor's ceiling, the cost of the whole pass, its memory, and a GPU."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        spec = make_encoder(Path(folder) / "encoder", size)
        clips = make_speech(size.clips)
        yield from _measure_against_loop(spec, clips, Path(folder), size)
        yield from run_in_worker(measure_against_ceiling, spec, clips[len(clips) // 2], size)
        yield from run_in_worker(_measure_whole_pass, spec, clips[:: max(1, len(clips) // 4)], Path(folder), size)
        yield from _measure_memory(spec, Path(folder), size)
        yield from measure_on_gpu(spec, Path(folder), size)


# ---------------------------------------------------------------- against the loop that one would write


def _measure_against_loop(spec: Spec, clips: Sequence[Wave], folder: Path, size: Size) -> Iterator[Row]:
    from embedkit import encoders

    model, _ = encoders.load_pretrained(spec)
    run_naive_loop(model, clips[:1])
    calls: dict[str, Callable[[], object]] = {"naive": lambda: run_naive_loop(model, clips)}
    with fresh_worker() as call_worker:
        pooled = call_worker(
            _load_encoders, spec, encoders.resolve(str(export_speed_file(spec, clips[::4], folder))), clips
        )
        calls |= {name: partial(call_worker, _time_encoder, name, clips) for name in pooled}
        timings = time_in_turns(calls, size.repeats)
    yield make_ratio_row(
        "bf16 against the naive loop", timings["naive"], timings["bf16"],
        floor=5.5, aim=6.5, unit="times", note=note_arithmetic("bf16"),
    )  # fmt: skip
    yield make_ratio_row(
        "fp32 against the naive loop", timings["naive"], timings["fp32"], floor=2.8, aim=3.2, unit="times"
    )
    yield make_ratio_row(
        "an exported 8-bit file against the naive loop", timings["naive"], timings["8 bits"],
        floor=5, aim=8, unit="times", note="profile speed, through onnxruntime",
    )  # fmt: skip
    seconds = sum(map(len, clips)) / RATE
    for name in calls:
        yield make_ratio_row(
            f"{name}: sound", [seconds] * size.repeats, timings[name],
            unit="s a CPU-second", note=note_arithmetic(name),
        )  # fmt: skip
    for name, floor in (("bf16", 0.9999), ("8 bits", None)):
        least = min(map(cosine_similarity, pooled[name], pooled["fp32"]))
        yield Row(f"{name} against fp32, a clip's pooled features: least cosine", least, floor=floor)
    exact = np.stack(pooled["fp32"])
    z = (np.abs(np.stack(pooled["8 bits"]) - exact).mean(0) / exact.std(0)).mean()
    yield Row("8 bits against fp32: mean change by the clips' standard deviation", float(z))


ENCODERS: dict[str, Encoder] = {}  # in a worker: those that it has loaded


def _load_encoders(spec: Spec, file: Spec, clips: Sequence[Wave]) -> dict[str, list[Wave]]:
    """Load the encoder in both precisions, and the exported file. Returns each one's last layer, its means [dim] by
    clip."""
    from embedkit import encoders

    ENCODERS.update({precision: encoders.load(spec, precision) for precision in ("bf16", "fp32")})
    ENCODERS["8 bits"] = encoders.load(file)
    return {name: [clip[-1, 0] for clip in _pool_clips(encoder, clips)] for name, encoder in ENCODERS.items()}


def _time_encoder(name: str, clips: Sequence[Wave]) -> Timing:
    begin = time.process_time()
    _pool_clips(ENCODERS[name], clips)
    return Timing(time.process_time() - begin)


def _pool_clips(encoder: Encoder, clips: Sequence[Wave]) -> list[Wave]:
    return [encoder.pool(clip) for clip in clips]


def run_naive_loop(model: torch.nn.Module, clips: Sequence[Wave]) -> list[Wave]:
    """The loop that a user would write: one batch, zeros up to 8 s, mean over all frames of every layer [clip, dim]."""
    import torch

    batch = np.zeros((len(clips), round(BATCH_SECONDS * RATE)), np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    with torch.no_grad():
        states = model(torch.from_numpy(batch), output_hidden_states=True).hidden_states
    return [state.mean(1).numpy() for state in states]


def cosine_similarity(a: Wave, b: Wave) -> float:
    """The cosine of the angle between two vectors, computed in float64."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def export_speed_file(spec: Spec, clips: Sequence[Wave], folder: Path) -> Path:
    """Write an 8-bit file of the encoder, as `stitch-export --profile speed` does, with an arbitrary head."""
    from embedkit import cards, encoders, heads
    from embedkit.export import assemble as files
    from embedkit.export import graph, quantize

    X, y = make_features(200, spec.dim)
    head = heads.to_onnx("logistic", heads.build(cards.Head(kind="logistic")).fit(X, y))
    model, _ = encoders.load_pretrained(spec)
    recipe, layers = cards.Recipe(name="exact"), [spec.layers - 1]
    body = files.export_body(graph.build_body(model, recipe.sound, layers, ["mean"]))
    final = quantize.PROFILES["speed"](files.merge_graphs(body, head, range(4), 4), clips)
    entries = {"layers": layers, "stats": ["mean"], "dim": spec.dim, "parameters": spec.parameters}
    meta = {f"embedkit.{key}": json.dumps(value) for key, value in entries.items()}
    path = folder / "speed.onnx"
    path.write_bytes(files.serialize_model(final, {**meta, "embedkit.recipe": recipe.model_dump_json()}))
    return path


# ---------------------------------------------------------------- the whole pass


def _measure_whole_pass(spec: Spec, clips: Sequence[Wave], folder: Path, size: Size) -> list[Row]:
    """Decoding, trimming, augmenting, encoding and writing, against encoding the same views alone, in bf16."""
    from embedkit import cache, cards, corpora, encoders, extract

    manifest_path = write_manifest(folder / "pass", clips)
    recipe = cards.Recipe(name="bench", precision="bf16", views=size.views)
    utterances = corpora.load("made", manifest_path)
    identity = cache.Identity.of("made", recipe, spec, views=size.views, labels="mapped")
    cache.create_cache(folder / "pass.h5", identity, utterances, spec.layers, spec.dim)
    loader = extract.ClipLoader(manifest_path.parent, recipe, size.views)
    tasks = [extract.Task(row, utterance) for row, utterance in enumerate(utterances)]
    clip_encoder = extract.ClipEncoder(loader, spec)
    views = [wave for task in tasks for wave in loader(task).waves]
    encoder_alone = encoders.load(spec, "bf16")
    with cache.Cache.open(folder / "pass.h5", write=True) as file:

        def run_pass() -> None:
            """What a worker does with each clip, and what the parent process does with its features."""
            for task in tasks:
                clip = clip_encoder(task)
                file.fill_rows([clip.row], np.asarray(clip.features)[None], [clip.seconds], [clip.digest])

        calls: dict[str, Callable[[], object]] = {
            "whole": run_pass,
            "alone": partial(_pool_clips, encoder_alone, views),
        }
        time_in_turns(calls, 1)  # kernels are compiled here
        timings = time_in_turns(calls, size.repeats)
    share = make_ratio_row(
        f"whole pass with {size.views} views against encoding alone", timings["alone"], timings["whole"], 100,
        floor=88, aim=93, unit="%",
    )  # fmt: skip
    return [share]


def _measure_memory(spec: Spec, folder: Path, size: Size) -> Iterator[Row]:
    """The peak memory of a pass in bf16 with two workers over few and over many clips, all its processes together.

    No two clips are equally long, so that what an encoder keeps for each length is counted.
    """
    from embedkit.workspace import init_workspace

    few, many = size.passes
    clips = make_speech(many)
    peaks = []
    for count in size.passes:
        manifest_path = write_manifest(folder / f"of{count}", clips[:: many // count])
        home = str(init_workspace(folder / f"home{count}").root)
        call = ["-m", "embedkit", "--workspace", home, "extract", "--corpus", "made", "--root", str(manifest_path)]
        call += ["--encoder", str(spec.folder), "--views", "1", "--jobs", "2", "--set", "precision=bf16"]
        usage = run_command(*call, memory=True)
        if usage.megabytes is None:
            return
        peaks.append(usage.megabytes)
    yield Row("memory of a pass, two workers and all", peaks[1], "MB", floor=2_000, most=True)
    yield Row(f"growth of memory, {many} clips against {few}", peaks[1] / peaks[0], "times", floor=1.1, most=True)
