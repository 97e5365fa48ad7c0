"""What a file is held to: the path that trained the head in torch, and the graph in float32."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from embedkit.audio import Wave
from embedkit.export.clips import Heard
from embedkit.export.parts import Parts
from embedkit.threads import cores, one_thread

if TYPE_CHECKING:
    import onnx

    from embedkit import encoders
    from embedkit.cards import Limits
    from embedkit.corpora import Utterance
    from embedkit.export.certify import Answer, Tested


JOBS = 8  # threads at most that certify; each takes an encoder for itself


def _float_graph(parts: Parts) -> onnx.ModelProto:
    """Encoder and head in float32, as one graph."""
    from embedkit import heads
    from embedkit.classes import CLASSES
    from embedkit.export import assemble

    kind = parts.study.plan.heads[parts.choice.head].kind
    if parts.spec.family == "exported":
        body = assemble.body_of(parts.spec.folder, parts.layers, parts.study.plan.study.stats)
    else:
        body = assemble.exported(_body(parts))
    return assemble.merged(body, heads.to_onnx(kind, parts.estimator, parts.temperature), parts.columns, len(CLASSES))


def _body(parts: Parts) -> Any:
    """The torch module of everything before the head."""
    import torch

    from embedkit import encoders
    from embedkit.export import graph

    spec, stats = parts.spec, parts.study.plan.study.stats
    model, _ = encoders.pretrained(spec)
    if spec.family == "whisper":
        encoder: Any = encoders.load(spec)
        filters = torch.from_numpy(encoder.mel_filters)
        return graph.body(model, parts.recipe.sound, parts.layers, stats, filters=filters)
    preprocessor = json.loads((spec.folder / encoders.PREPROCESSOR).read_text(encoding="utf-8"))
    normalize = preprocessor.get("do_normalize", True)  # transformers' own default
    return graph.body(model, parts.recipe.sound, parts.layers, stats, normalize=normalize)


def _ordinary(parts: Parts, jobs: int) -> Callable[[Wave], Answer]:
    """The path that trained the head, in fp32: prepare, cut, pool, predict_proba, temperature. ClipError as it is.

    For so many threads at a time: an encoder keeps notes while it works, so each thread takes one for itself.
    """
    import numpy as np

    from embedkit import audio, calibration, encoders
    from embedkit.classes import CLASSES
    from embedkit.encoders import STATS

    sound = parts.recipe.sound
    pad_to = audio.padded_length(sound)
    stats = [STATS.index(name) for name in parts.study.plan.study.stats]
    free: queue.SimpleQueue[encoders.Encoder] = queue.SimpleQueue()
    for _ in range(jobs):
        free.put(encoders.load(parts.spec, crop=sound.crop))

    def answer(wave: Wave) -> Answer:
        prepared = audio.cut(audio.prepare(wave, sound), sound)
        encoder = free.get()
        try:
            states = encoder.pool(prepared, pad_to=pad_to)
        finally:
            free.put(encoder)
        embedding = states[parts.layers][:, stats].reshape(-1)
        probabilities = np.zeros(len(CLASSES))
        raw = parts.estimator.predict_proba(embedding[None])[0]
        probabilities[parts.columns] = calibration.apply(raw, parts.temperature)
        return probabilities, embedding

    return answer


def _checked(parts: Parts, heard: Heard, plain: bytes, file: bytes, limits: Mapping[str, Limits]) -> dict[str, Any]:
    """How torch, the float graph and the file compare, and what they cost."""
    from embedkit.export import certify, cost

    jobs = min(JOBS, cores())
    with one_thread():
        torch = _ordinary(parts, jobs)
        ways = {"torch": torch, "float": certify.from_file(plain), "file": certify.from_file(file)}
        clips, answers = certify.answered(ways, heard.certified, heard.read, jobs)
        turns = min(cost.TURNS, max(1, len(clips) // 8))  # a certificate of few clips is a quick look in all
        taken = cost.latency({"float": plain, "file": file}, {"torch": torch}, turns=turns)
    heads = partial(parts.study.fold_head, parts.choice)
    found = certify.certificate(answers, certify.on_test_folds(answers, _tested(parts, clips), heads), limits)
    return {**found, "milliseconds": taken, "peak_memory_mb": cost.peak_memory(file)}


def _tested(parts: Parts, clips: Sequence[Utterance]) -> list[Tested]:
    """The study's test rows (first seed) of these clips."""
    from embedkit.export.certify import Tested

    places = {clip.id: i for i, clip in enumerate(clips)}
    rows = parts.study.test_rows(parts.choice)
    rows = rows[(rows["corpus"] == parts.corpus) & rows["utterance"].isin(places)]
    columns = (rows[name] for name in ("utterance", "fold", "speaker", "label"))
    return [Tested(places[name], fold, speaker, label) for name, fold, speaker, label in zip(*columns, strict=True)]
