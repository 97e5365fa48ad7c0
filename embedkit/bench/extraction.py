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
from embedkit.bench._material import MEAN, Size, Wave, encoder, features, speech
from embedkit.bench._measure import Took, alone, command, interleaved, ratio, worker
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
        spec = encoder(Path(folder) / "encoder", size)
        clips = speech(size.clips)
        yield from _against_the_loop(spec, clips, Path(folder), size)
        yield from alone(_against_the_ceiling, spec, clips[len(clips) // 2], size)
        yield from alone(_the_whole_pass, spec, clips[:: max(1, len(clips) // 4)], Path(folder), size)
        yield from _memory(spec, Path(folder), size)
        yield from _on_a_gpu(spec, Path(folder), size)


# ---------------------------------------------------------------- against the loop that one would write


def _against_the_loop(spec: Any, clips: Sequence[Wave], folder: Path, size: Size) -> Iterator[Row]:
    from embedkit import encoders

    model, _ = encoders.pretrained(spec)
    naive(model, clips[:1])
    calls: dict[str, Callable[[], object]] = {"naive": lambda: naive(model, clips)}
    with worker() as ask:
        pooled = ask(_loaded, spec, encoders.resolve(str(exported(spec, clips[::4], folder))), clips)
        calls |= {name: partial(ask, _took, name, clips) for name in pooled}
        taken = interleaved(calls, size.repeats)
    yield ratio("bf16 against the naive loop", taken["naive"], taken["bf16"], floor=5.5, aim=6.5, unit="times")
    yield ratio("fp32 against the naive loop", taken["naive"], taken["fp32"], floor=2.8, aim=3.2, unit="times")
    yield ratio("an exported 8-bit file against the naive loop", taken["naive"], taken["8 bits"],
                floor=5, aim=8, unit="times", note="profile speed, through onnxruntime")  # fmt: skip
    seconds = sum(map(len, clips)) / RATE
    for name in calls:
        yield ratio(f"{name}: sound", [seconds] * size.repeats, taken[name], unit="s a CPU-second")
    for name, floor in (("bf16", 0.9999), ("8 bits", None)):
        least = min(map(cosine, pooled[name], pooled["fp32"]))
        yield Row(f"{name} against fp32, a clip's pooled features: least cosine", least, floor=floor)
    exact = np.stack(pooled["fp32"])
    z = (np.abs(np.stack(pooled["8 bits"]) - exact).mean(0) / exact.std(0)).mean()
    yield Row("8 bits against fp32: mean change by the clips' standard deviation", float(z))


ENCODERS: dict[str, Any] = {}  # in a worker: those that it has loaded


def _loaded(spec: Any, file: Any, clips: Sequence[Wave]) -> dict[str, list[Wave]]:
    """Load the encoder in both precisions and the exported file; each one's mean features, clip by clip."""
    from embedkit import encoders

    ENCODERS.update({precision: encoders.load(spec, precision) for precision in ("bf16", "fp32")})
    ENCODERS["8 bits"] = encoders.load(file)
    return {name: [clip[-1, 0] for clip in _each(one, clips)] for name, one in ENCODERS.items()}


def _took(name: str, clips: Sequence[Wave]) -> Took:
    begin = time.process_time()
    _each(ENCODERS[name], clips)
    return Took(time.process_time() - begin)


def _each(one: Any, clips: Sequence[Wave]) -> list[Wave]:
    return [one.pool(clip) for clip in clips]


def naive(model: Any, clips: Sequence[Wave]) -> list[Wave]:
    """The loop that a user would write: one batch, zeros up to 8 s, mean over all frames of every layer."""
    import torch

    batch = np.zeros((len(clips), round(BATCH_SECONDS * RATE)), np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    with torch.no_grad():
        states = model(torch.from_numpy(batch), output_hidden_states=True).hidden_states
    return [state.mean(1).numpy() for state in states]


def cosine(a: Wave, b: Wave) -> float:
    """Of the angle between two vectors, in float64."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def exported(spec: Any, clips: Sequence[Wave], folder: Path) -> Path:
    """An 8-bit file of the encoder, as `stitch-export --profile speed` makes it, with a head of no importance."""
    from embedkit import cards, encoders, heads
    from embedkit.export import assemble as files
    from embedkit.export import graph, quantize

    X, y = features(200, spec.dim)
    head = heads.to_onnx("logistic", heads.build(cards.Head(kind="logistic")).fit(X, y))
    model, _ = encoders.pretrained(spec)
    recipe, layers = cards.Recipe(name="exact"), [spec.layers - 1]
    body = files.exported(graph.body(model, recipe.sound, layers, ["mean"]))
    final = quantize.PROFILES["speed"](files.merged(body, head, range(4), 4), clips)
    said = {"layers": layers, "stats": ["mean"], "dim": spec.dim, "parameters": spec.parameters}
    meta = {f"embedkit.{key}": json.dumps(value) for key, value in said.items()}
    path = folder / "speed.onnx"
    path.write_bytes(files.finished(final, {**meta, "embedkit.recipe": recipe.model_dump_json()}))
    return path


# ---------------------------------------------------------------- against the processor's ceiling


def products(config: Mapping[str, Any], samples: int) -> list[tuple[int, int, int]]:
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


def _against_the_ceiling(spec: Any, clip: Wave, size: Size) -> list[Row]:
    """The time of the bare products, weights packed by oneDNN, as a share of the encoder's."""
    import torch

    from embedkit import encoders
    from embedkit.encoders import _random_weights as random_weights

    shapes = products({**random_weights.DISTILHUBERT, **size.encoder}, len(clip))
    work = 2 * sum(m * k * n for m, k, n in shapes) / 1e9
    rows = []
    for precision, floor, aim in (("bf16", 75, 85), ("fp32", 70, 75)):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        packed = [(torch.randn(m, k).to(dtype), _packed(torch.randn(n, k).to(dtype), m)) for m, k, n in shapes]
        one = encoders.load(spec, precision)

        def bare(packed: Any = packed) -> None:
            with torch.inference_mode():
                for left, product in packed:
                    product(left)

        one.pool(clip)
        bare()
        taken = interleaved({"encoder": partial(one.pool, clip), "products": bare}, 2 * size.repeats)
        ceiling = ratio(f"ceiling, {precision}", [work] * 2 * size.repeats, taken["products"], unit="GFLOP/s a core")
        share = ratio(
            f"{precision}: share of the ceiling", taken["products"], taken["encoder"], 100,
            floor=floor, aim=aim, unit="%",
        )  # fmt: skip
        rows += [ceiling, share]
    return rows


def _packed(weight: Any, rows: int) -> Any:
    """rows -> rows @ weight.T by oneDNN with the weight packed for it; torch's own where it has no oneDNN."""
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return lambda x: torch.nn.functional.linear(x, weight)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


# ---------------------------------------------------------------- the whole pass


def _the_whole_pass(spec: Any, clips: Sequence[Wave], folder: Path, size: Size) -> list[Row]:
    """Decode, trim, augment, encode and write, against encoding the same views alone, in bf16."""
    from embedkit import cache, cards, corpora, encoders, extract

    place = manifest(folder / "pass", clips)
    recipe = cards.Recipe(name="bench", precision="bf16", views=size.views)
    utterances = corpora.load("made", place)
    identity = cache.Identity.of("made", recipe, spec, views=size.views, labels="mapped")
    cache.create(folder / "pass.h5", identity, utterances, spec.layers, spec.dim)
    listen = extract.Listen(place.parent, recipe, size.views)
    tasks = [extract.Task(row, utterance) for row, utterance in enumerate(utterances)]
    encode = extract.Encode(listen, spec)
    views = [wave for task in tasks for wave in listen(task).waves]
    encoder_alone = encoders.load(spec, "bf16")
    with cache.Cache.open(folder / "pass.h5", write=True) as file:

        def whole() -> None:
            for task in tasks:
                clip = encode(task)
                file.fill([clip.row], np.asarray(clip.features)[None], [clip.seconds], [clip.digest])

        calls: dict[str, Callable[[], object]] = {"whole": whole, "alone": partial(_each, encoder_alone, views)}
        interleaved(calls, 1)  # kernels are compiled here
        taken = interleaved(calls, size.repeats)
    share = ratio(
        f"whole pass with {size.views} views against encoding alone", taken["alone"], taken["whole"], 100,
        floor=88, aim=93, unit="%",
    )  # fmt: skip
    return [share]


def manifest(folder: Path, clips: Sequence[Wave]) -> Path:
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


def _memory(spec: Any, folder: Path, size: Size) -> Iterator[Row]:
    """The peak of a pass in bf16 of two workers over few and over many clips, all its processes together.

    No two are equally long: what an encoder keeps for each length is part of it.
    """
    from embedkit.workspace import init

    few, many = size.passes
    clips = speech(many)
    peaks = []
    for count in size.passes:
        place = manifest(folder / f"of{count}", clips[:: many // count])
        home = str(init(folder / f"home{count}").root)
        call = ["-m", "embedkit", "--workspace", home, "extract", "--corpus", "made", "--root", str(place)]
        call += ["--encoder", str(spec.folder), "--views", "1", "--jobs", "2", "--set", "precision=bf16"]
        ran = command(*call, memory=True)
        if ran.megabytes is None:
            return
        peaks.append(ran.megabytes)
    yield Row("memory of a pass, two workers and all", peaks[1], "MB", floor=2_000, most=True)
    yield Row(f"growth of memory, {many} clips against {few}", peaks[1] / peaks[0], "times", floor=1.1, most=True)


# ---------------------------------------------------------------- on a GPU


def _on_a_gpu(spec: Any, folder: Path, size: Size) -> Iterator[Row]:
    """Rows for a machine with CUDA; none elsewhere."""
    import torch

    if torch.cuda.is_available():
        yield from gpu(spec, folder, size, "cuda", clips=640)


def gpu(spec: Any, folder: Path, size: Size, device: str, clips: int) -> Iterator[Row]:
    """A pass of several workers that prepare the sound and a device that encodes, against the slower of the two."""
    import os

    from embedkit import cards, corpora, encoders, extract
    from embedkit.workspace import init

    voices = speech(min(clips, 64))
    place = manifest(folder / "gpu", [voices[i % len(voices)] for i in range(clips)])
    utterances, recipe = corpora.load("made", place), cards.Recipe(name="exact", views=size.views)
    listen = extract.Listen(place.parent, recipe, size.views)
    tasks = [extract.Task(row, utterance) for row, utterance in enumerate(utterances)]
    jobs = max(1, min(os.cpu_count() or 1, clips // extract.CLIPS_A_WORKER))
    begin = time.perf_counter()
    heard = list(map_in_workers(listen, tasks, jobs))
    sound = time.perf_counter() - begin
    one = encoders.load(spec, "fp32", device)
    for _ in extract.on_gpu([extract.Clip(c.row, waves=c.waves) for c in heard[:16]], one, 0):
        pass  # kernels are loaded here
    begin = time.perf_counter()
    for _ in extract.on_gpu([extract.Clip(c.row, waves=c.waves) for c in heard], one, 0):
        pass
    encoding = time.perf_counter() - begin
    home = init(folder / "gpu-home")
    options = {"root": place, "recipe": recipe, "encoder": str(spec.folder), "jobs": jobs, "device": device}
    speed = extract.extract_corpus(home, "made", progress=False, **options)["audio_seconds_per_second"]  # type: ignore[arg-type]
    whole = sum(clip.seconds for clip in heard) / speed
    took = f"sound {sound:.1f} s, encoder {encoding:.1f} s, pass {whole:.1f} s"
    yield Row("GPU: pass against the slower of sound and encoder", whole / max(sound, encoding), "times",
              floor=1.25, aim=1.1, most=True, note=took)  # fmt: skip
    iemocap = 5_531 * MEAN / speed
    yield Row("GPU: IEMOCAP-sized pass", iemocap, "s", floor=90, aim=60, most=True, note=f"from {clips} clips")
