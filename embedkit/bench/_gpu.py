"""A pass on a GPU: workers prepare the sound, the device encodes it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from embedkit.bench._material import MEAN_SECONDS, Size, make_speech, write_manifest
from embedkit.bench._page import Row
from embedkit.workers import map_in_workers

if TYPE_CHECKING:
    from embedkit.encoders import Spec


def measure_on_gpu(spec: Spec, folder: Path, size: Size) -> Iterator[Row]:
    """Rows for a machine with CUDA; none elsewhere."""
    import torch

    if torch.cuda.is_available():
        yield from measure_gpu_pass(spec, folder, size, "cuda", clips=640)


def measure_gpu_pass(spec: Spec, folder: Path, size: Size, device: str, clips: int) -> Iterator[Row]:
    """A pass whose workers prepare the sound while a device encodes, against the slower of the two alone."""
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
    encoder = encoders.load(spec, "fp32", device)
    for _ in extract.encode_in_batches([extract.Clip(c.row, waves=c.waves) for c in loaded_clips[:16]], encoder, 0):
        pass  # kernels are loaded here
    begin = time.perf_counter()
    for _ in extract.encode_in_batches([extract.Clip(c.row, waves=c.waves) for c in loaded_clips], encoder, 0):
        pass
    encoding = time.perf_counter() - begin
    report = extract.extract_corpus(
        init_workspace(folder / "gpu-home"), "made", recipe=recipe, root=manifest_path, encoder=str(spec.folder),
        jobs=jobs, device=device, progress=False,
    )  # fmt: skip
    speed = report["audio_seconds_per_second"]
    whole = sum(clip.seconds for clip in loaded_clips) / speed
    breakdown = f"sound {sound:.1f} s, encoder {encoding:.1f} s, pass {whole:.1f} s"
    yield Row("GPU: pass against the slower of sound and encoder", whole / max(sound, encoding), "times",
              floor=1.25, aim=1.1, most=True, note=breakdown)  # fmt: skip
    iemocap = 5_531 * MEAN_SECONDS / speed
    yield Row("GPU: IEMOCAP-sized pass", iemocap, "s", floor=90, aim=60, most=True, note=f"from {clips} clips")
