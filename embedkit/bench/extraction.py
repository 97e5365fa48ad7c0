"""From sound to features: against the loop that one would write, and against what the processor can do at most."""

from __future__ import annotations

import csv
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.audio import RATE
from embedkit.bench._material import MEAN_SECONDS, Size, Wave, make_encoder, make_features, make_speech
from embedkit.bench._measure import Timing, fresh_worker, make_ratio_row, run_command, run_in_worker, time_in_turns
from embedkit.bench._page import Row
from embedkit.threads import one_thread
from embedkit.workers import map_in_workers

TITLE = "Extraction"
HOW = (
    "DistilHuBERT's geometry with random weights; synthetic speech of IEMOCAP's lengths (mean 4.5 s, cut at 8 s). The"
    " naive loop is transformers in fp32, 16 clips a batch, padded to 8 s, in a plain process; ours runs as `extract`"
    " has it run, in a worker that keeps its memory. CPU time of one thread each, in turns."
)
BATCH_SECONDS = 8.0


def rows(size: Size) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder, one_thread():
        spec = make_encoder(Path(folder) / "encoder", size)
        clips = make_speech(size.clips)
        yield from _measure_against_loop(spec, clips, Path(folder), size)
        yield from run_in_worker(_measure_against_ceiling, spec, clips[len(clips) // 2], size)
        yield from run_in_worker(_measure_whole_pass, spec, clips[:: max(1, len(clips) // 4)], Path(folder), size)
        yield from _measure_memory(spec, Path(folder), size)
        yield from _measure_on_gpu(spec, Path(folder), size)


# ---------------------------------------------------------------- against the loop that one would write


def _measure_against_loop(spec: Any, clips: Sequence[Wave], folder: Path, size: Size) -> Iterator[Row]:
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
        "bf16 against the naive loop", timings["naive"], timings["bf16"], floor=5.5, aim=6.5, unit="times"
    )
    yield make_ratio_row(
        "fp32 against the naive loop", timings["naive"], timings["fp32"], floor=2.8, aim=3.2, unit="times"
    )
    yield make_ratio_row("an exported 8-bit file against the naive loop", timings["naive"], timings["8 bits"],
                floor=5, aim=8, unit="times", note="profile speed, through onnxruntime")  # fmt: skip
    seconds = sum(map(len, clips)) / RATE
    for name in calls:
        yield make_ratio_row(f"{name}: sound", [seconds] * size.repeats, timings[name], unit="s a CPU-second")
    for name, floor in (("bf16", 0.9999), ("8 bits", None)):
        least = min(map(cosine_similarity, pooled[name], pooled["fp32"]))
        yield Row(f"{name} against fp32, a clip's pooled features: least cosine", least, floor=floor)
    exact = np.stack(pooled["fp32"])
    z = (np.abs(np.stack(pooled["8 bits"]) - exact).mean(0) / exact.std(0)).mean()
    yield Row("8 bits against fp32: mean change by the clips' standard deviation", float(z))


ENCODERS: dict[str, Any] = {}  # in a worker: those that it has loaded


def _load_encoders(spec: Any, file: Any, clips: Sequence[Wave]) -> dict[str, list[Wave]]:
    """Load the encoder in both precisions and the exported file; each one's mean features, clip by clip."""
    from embedkit import encoders

    ENCODERS.update({precision: encoders.load(spec, precision) for precision in ("bf16", "fp32")})
    ENCODERS["8 bits"] = encoders.load(file)
    return {name: [clip[-1, 0] for clip in _pool_clips(one, clips)] for name, one in ENCODERS.items()}


def _time_encoder(name: str, clips: Sequence[Wave]) -> Timing:
    begin = time.process_time()
    _pool_clips(ENCODERS[name], clips)
    return Timing(time.process_time() - begin)


def _pool_clips(one: Any, clips: Sequence[Wave]) -> list[Wave]:
    return [one.pool(clip) for clip in clips]


def run_naive_loop(model: Any, clips: Sequence[Wave]) -> list[Wave]:
    """The loop that a user would write: one batch, zeros up to 8 s, mean over all frames of every layer."""
    import torch

    batch = np.zeros((len(clips), round(BATCH_SECONDS * RATE)), np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    with torch.no_grad():
        states = model(torch.from_numpy(batch), output_hidden_states=True).hidden_states
    return [state.mean(1).numpy() for state in states]


def cosine_similarity(a: Wave, b: Wave) -> float:
    """Of the angle between two vectors, in float64."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def export_speed_file(spec: Any, clips: Sequence[Wave], folder: Path) -> Path:
    """An 8-bit file of the encoder, as `stitch-export --profile speed` makes it, with a head of no importance."""
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


# ---------------------------------------------------------------- against the processor's ceiling


def list_matrix_products(config: Mapping[str, Any], samples: int) -> list[tuple[int, int, int]]:
    """The matrix products by weights that a clip costs, (rows, inputs, outputs) each: convolutions and linear layers.

    Attention's own products (1 to 2 %) are left out.
    """
    frames, channels, width = samples, 1, int(config["hidden_size"])
    shapes: list[tuple[int, int, int]] = []
    for outputs, kernel, stride in zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True):
        frames = (frames - kernel) // stride + 1
        shapes.append((frames, channels * kernel, outputs))
        channels = outputs
    shapes.append((frames, channels, width))
    group = width // config["num_conv_pos_embedding_groups"]
    shapes += [(frames, group * config["num_conv_pos_embeddings"], group)] * config["num_conv_pos_embedding_groups"]
    inner = config["intermediate_size"]
    layer = [*[(frames, width, width)] * 4, (frames, width, inner), (frames, inner, width)]
    return shapes + layer * int(config["num_hidden_layers"])


def _measure_against_ceiling(spec: Any, clip: Wave, size: Size) -> list[Row]:
    """The time of the bare products, weights packed by oneDNN, as a share of the encoder's."""
    import torch

    from embedkit import encoders
    from embedkit.encoders import _random_weights as random_weights

    shapes = list_matrix_products({**random_weights.DISTILHUBERT, **size.encoder}, len(clip))
    work = 2 * sum(m * k * n for m, k, n in shapes) / 1e9
    rows = []
    for precision, floor, aim in (("bf16", 75, 85), ("fp32", 70, 75)):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        packed = [(torch.randn(m, k).to(dtype), _pack_weight(torch.randn(n, k).to(dtype), m)) for m, k, n in shapes]
        one = encoders.load(spec, precision)

        def run_products(packed: Any = packed) -> None:
            with torch.inference_mode():
                for left, product in packed:
                    product(left)

        one.pool(clip)
        run_products()
        timings = time_in_turns({"encoder": partial(one.pool, clip), "products": run_products}, 2 * size.repeats)
        ceiling = make_ratio_row(
            f"ceiling, {precision}", [work] * 2 * size.repeats, timings["products"], unit="GFLOP/s a core"
        )
        share = make_ratio_row(
            f"{precision}: share of the ceiling", timings["products"], timings["encoder"], 100,
            floor=floor, aim=aim, unit="%",
        )  # fmt: skip
        rows += [ceiling, share]
    return rows


def _pack_weight(weight: Any, rows: int) -> Any:
    """rows -> rows @ weight.T by oneDNN with the weight packed for it; torch's own where it has no oneDNN."""
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return lambda x: torch.nn.functional.linear(x, weight)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


# ---------------------------------------------------------------- the whole pass


def _measure_whole_pass(spec: Any, clips: Sequence[Wave], folder: Path, size: Size) -> list[Row]:
    """Decode, trim, augment, encode and write, against encoding the same views alone, in bf16."""
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


def write_manifest(folder: Path, clips: Sequence[Wave]) -> Path:
    """The clips as WAV files and a manifest of them."""
    import soundfile

    from embedkit.classes import CLASSES

    folder.mkdir(parents=True)
    with (folder / "made.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "speaker", "label"])
        for i, clip in enumerate(clips):
            soundfile.write(folder / f"{i}.wav", clip, RATE, subtype="PCM_16")
            table.writerow([f"{i}.wav", i % 2, CLASSES[i % 4]])
    return folder / "made.csv"


def _measure_memory(spec: Any, folder: Path, size: Size) -> Iterator[Row]:
    """The peak of a pass in bf16 of two workers over few and over many clips, all its processes together.

    No two are equally long: what an encoder keeps for each length is part of it.
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


# ---------------------------------------------------------------- on a GPU


def _measure_on_gpu(spec: Any, folder: Path, size: Size) -> Iterator[Row]:
    """Rows for a machine with CUDA; none elsewhere."""
    import torch

    if torch.cuda.is_available():
        yield from measure_gpu_pass(spec, folder, size, "cuda", clips=640)


def measure_gpu_pass(spec: Any, folder: Path, size: Size, device: str, clips: int) -> Iterator[Row]:
    """A pass of several workers that prepare the sound and a device that encodes, against the slower of the two."""
    import os

    from embedkit import cards, corpora, encoders, extract
    from embedkit.workspace import init_workspace

    voices = make_speech(min(clips, 64))
    manifest_path = write_manifest(folder / "gpu", [voices[i % len(voices)] for i in range(clips)])
    utterances, recipe = corpora.load("made", manifest_path), cards.Recipe(name="exact", views=size.views)
    loader = extract.ClipLoader(manifest_path.parent, recipe, size.views)
    tasks = [extract.Task(row, utterance) for row, utterance in enumerate(utterances)]
    jobs = max(1, min(os.cpu_count() or 1, clips // extract.MIN_CLIPS_PER_WORKER))
    begin = time.perf_counter()
    loaded_clips = list(map_in_workers(loader, tasks, jobs))
    sound = time.perf_counter() - begin
    one = encoders.load(spec, "fp32", device)
    for _ in extract.encode_in_batches([extract.Clip(c.row, waves=c.waves) for c in loaded_clips[:16]], one, 0):
        pass  # kernels are loaded here
    begin = time.perf_counter()
    for _ in extract.encode_in_batches([extract.Clip(c.row, waves=c.waves) for c in loaded_clips], one, 0):
        pass
    encoding = time.perf_counter() - begin
    home = init_workspace(folder / "gpu-home")
    options = {"root": manifest_path, "recipe": recipe, "encoder": str(spec.folder), "jobs": jobs, "device": device}
    speed = extract.extract_corpus(home, "made", progress=False, **options)["audio_seconds_per_second"]  # type: ignore[arg-type]
    whole = sum(clip.seconds for clip in loaded_clips) / speed
    breakdown = f"sound {sound:.1f} s, encoder {encoding:.1f} s, pass {whole:.1f} s"
    yield Row("GPU: pass against the slower of sound and encoder", whole / max(sound, encoding), "times",
              floor=1.25, aim=1.1, most=True, note=breakdown)  # fmt: skip
    iemocap = 5_531 * MEAN_SECONDS / speed
    yield Row("GPU: IEMOCAP-sized pass", iemocap, "s", floor=90, aim=60, most=True, note=f"from {clips} clips")
