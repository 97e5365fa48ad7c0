"""What a file is compared with: the path that trained the head in torch, and the graph in float32."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from embedkit import audio, calibration, encoders, heads
from embedkit.audio import Wave
from embedkit.classes import CLASSES
from embedkit.encoders import STATS, whisper
from embedkit.export import certify, cost
from embedkit.export.certify import Answer, TestedClip
from embedkit.export.clips import CertificateClips
from embedkit.export.document import Measurements
from embedkit.export.parts import StitchInputs
from embedkit.threads import count_cores, one_thread

if TYPE_CHECKING:
    import onnx

    from embedkit.cards import Limits
    from embedkit.corpora import Utterance
    from embedkit.export.graph import EncoderBody

JOBS = 8  # threads that certify, at most; each takes an encoder for itself


def build_float_graph(inputs: StitchInputs) -> onnx.ModelProto:
    """Encoder and head in float32, as one graph."""
    from embedkit.export import assemble

    kind = inputs.study.plan.heads[inputs.choice.head].kind
    if inputs.spec.family == "exported":
        body = assemble.extract_body(inputs.spec.folder, inputs.layers, inputs.study.plan.study.stats)
    else:
        body = assemble.export_body(_build_encoder_body(inputs))
    return assemble.merge_graphs(
        body, heads.to_onnx(kind, inputs.estimator, inputs.temperature), inputs.columns, len(CLASSES)
    )


def _build_encoder_body(inputs: StitchInputs) -> EncoderBody:
    """The torch module of everything before the head."""
    import torch

    from embedkit.export import graph

    spec, stats = inputs.spec, inputs.study.plan.study.stats
    model, _ = encoders.load_pretrained(spec)
    if spec.family == "whisper":
        filters = torch.from_numpy(whisper.load(spec, "fp32", "cpu", False).mel_filters)
        return graph.build_body(model, inputs.recipe.sound, inputs.layers, stats, filters=filters)
    preprocessor = json.loads((spec.folder / encoders.PREPROCESSOR).read_text(encoding="utf-8"))
    normalize = preprocessor.get("do_normalize", True)  # transformers' own default
    return graph.build_body(model, inputs.recipe.sound, inputs.layers, stats, normalize=normalize)


def _build_reference(inputs: StitchInputs, jobs: int) -> Callable[[Wave], Answer]:
    """The path that trained the head, in fp32: prepare, cut, pool, predict_proba, temperature. It raises ClipError.

    It can be called from `jobs` threads at a time: an encoder has state while it works, so each takes one for itself.
    """
    sound = inputs.recipe.sound
    pad_to = audio.padded_length(sound)
    stats = [STATS.index(name) for name in inputs.study.plan.study.stats]
    free: queue.SimpleQueue[encoders.Encoder] = queue.SimpleQueue()
    for _ in range(jobs):
        free.put(encoders.load(inputs.spec, crop=sound.crop))

    def answer_clip(wave: Wave) -> Answer:
        prepared = audio.cut_to_length(audio.prepare(wave, sound), sound)
        encoder = free.get()
        try:
            states = encoder.pool(prepared, pad_to=pad_to)
        finally:
            free.put(encoder)
        embedding = states[inputs.layers][:, stats].reshape(-1)
        probabilities = np.zeros(len(CLASSES))
        raw = inputs.estimator.predict_proba(embedding[None])[0]
        probabilities[inputs.columns] = calibration.apply_temperature(raw, inputs.temperature)
        return probabilities, embedding

    return answer_clip


def certify_file(
    inputs: StitchInputs, certificate_clips: CertificateClips, plain: bytes, file: bytes, limits: Mapping[str, Limits]
) -> Measurements:
    """How torch, the float graph (plain) and the file compare, and what they cost. limits: of "float" and "file"."""
    jobs = min(JOBS, count_cores())
    with one_thread():
        torch = _build_reference(inputs, jobs)
        ways = {"torch": torch, "float": certify.wrap_model(plain), "file": certify.wrap_model(file)}
        clips, answers = certify.collect_answers(ways, certificate_clips.to_certify, certificate_clips.read, jobs)
        turns = min(cost.TURNS, max(1, len(clips) // 8))  # a certificate of few clips is a quick look
        latencies = cost.measure_latency({"float": plain, "file": file}, {"torch": torch}, turns=turns)
    load_head = partial(inputs.study.load_fold_head, inputs.choice)
    folds = certify.score_test_folds(answers, _find_tested_clips(inputs, clips), load_head)
    compared = certify.build_certificate(answers, folds, limits)
    return {**compared, "milliseconds": latencies, "peak_memory_mb": cost.measure_peak_memory(file)}


def _find_tested_clips(inputs: StitchInputs, clips: Sequence[Utterance]) -> list[TestedClip]:
    """The study's test rows (first seed) of these clips."""
    places = {clip.id: i for i, clip in enumerate(clips)}
    rows = inputs.study.read_test_rows(inputs.choice)
    rows = rows[(rows["corpus"] == inputs.corpus) & rows["utterance"].isin(places)]
    columns = (rows[name] for name in ("utterance", "fold", "speaker", "label"))
    return [TestedClip(places[name], fold, speaker, label) for name, fold, speaker, label in zip(*columns, strict=True)]
