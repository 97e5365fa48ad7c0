"""Stitch: encoder and head as one ONNX file, raw samples in, probabilities out, certified before it gets its name.

graph.py     the torch modules that become the graph
files.py     torch to ONNX, encoder and head into one, metadata
quantize/    the profiles
certify.py   torch against the graph, on real clips
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import EncoderError, StudyError, UserError, did_you_mean
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

    from embedkit import encoders
    from embedkit.cards import Recipe
    from embedkit.corpora import Utterance
    from embedkit.export.certify import Answer
    from embedkit.heads import Estimator
    from embedkit.study import Choice, Finished

    Wave = npt.NDArray[np.float32]

FORMAT = "1"  # of the file's interface; `embedkit.runtime` reads it
CLIPS = 64  # real clips that a certificate looks at
CALIBRATION = 24  # other clips, that a profile fits its rounding to


@dataclass(frozen=True)
class Parts:
    """What goes into one file."""

    study: Finished
    choice: Choice
    recipe: Recipe
    spec: encoders.Spec
    estimator: Estimator

    @property
    def columns(self) -> list[int]:
        """The class of each of the head's columns."""
        from embedkit.cards import CLASSES

        return [CLASSES.index(name) for name in self.estimator.classes_]

    @property
    def layers(self) -> list[int]:
        """The hidden states that the head's features are of, in their order."""
        return self.study.plan.hidden(self.choice.layer)

    @property
    def result(self) -> dict[str, Any]:
        """What the study found for it."""
        arm, head, layer = self.choice
        return next(r for r in self.study.results if (r["arm"], r["head"], r["layer"]) == (arm, head, layer))

    @property
    def temperature(self) -> float:
        """By which the head's logits are divided: the median of those that the folds' validation rows gave."""
        return float(self.result["calibration"]["temperature"]["median"])


def stitch(
    workspace: Workspace,
    study: str | None = None,
    head: str | None = None,
    arm: str | None = None,
    layer: int | str | None = None,
    profile: str = "size",
    output: Path | None = None,
    *,
    root: Path | None = None,
    clips: int = CLIPS,
) -> dict[str, Any]:
    """Write a study's head with its encoder as one ONNX file; returns {model, bytes, certificate}.

    study: None: the newest finished one; head, arm, layer: None: those with the best mean validation UA. root: where
    the study's corpus lies, for the certificate's clips. The certificate also lies beside the file, as JSON.
    Raises UserError for what cannot be asked, and EmbedkitError, leaving no file, where the file and torch part.
    """
    from embedkit.export import files, quantize

    if profile not in quantize.PROFILES:
        raise UserError(f"profile '{profile}'{did_you_mean(profile, quantize.PROFILES)}")
    parts = _parts(workspace, study, {"head": head, "arm": arm, "layer": layer})
    waves, calibration = _clips(parts, workspace, root, clips)
    path = output or parts.study.plan.folder / f"{parts.choice.head}-{profile}.onnx"
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it, or give another -o")
    plain = _float_graph(parts)
    final = quantize.PROFILES[profile](plain, [] if profile == "float" else list(calibration))
    counts = quantize.check(final, profile)
    data = files.finished(final, _metadata(parts, profile))
    certificate = {
        **_of(parts, profile, data),
        **_checked(parts, waves, files.finished(plain, {}), data, profile),
        "quantized": counts["nodes"],
        "integer_products": counts["integer"],
        "weight_bytes": counts["bytes"],
    }
    _write(path, data, certificate)
    return {"model": str(path), "bytes": len(data), "certificate": certificate}


def _parts(workspace: Workspace, name: str | None, wanted: dict[str, Any]) -> Parts:
    """The study's chosen head, refitted on all of its rows, and the very encoder that its features are of."""
    from embedkit import cards, encoders
    from embedkit import study as studies

    finished = studies.open_study(workspace, name)
    choice = studies.best(finished.results, **wanted)
    plan = finished.plan
    spec = encoders.resolve(plan.place)
    if spec.weights_digest != plan.identity.weights_digest:
        raise EncoderError(f"{plan.place}: its weights are not those that the study's features are of; extract --fresh")
    recipe = cards.read(cards.Recipe, workspace.card("cache", plan.study.recipe))
    return Parts(finished, choice, recipe, spec, finished.refit(choice))


def _clips(parts: Parts, workspace: Workspace, root: Path | None, count: int) -> tuple[Iterator[Wave], Iterator[Wave]]:
    """Decoded clips of the study's corpus, spread over speakers and labels: the certificate's, and calibration's.

    They are different clips where the corpus has enough. Those that cannot be read are left out. Where the corpus lies
    is looked up at once, before the long work.
    """
    from embedkit import cache, corpora, extract
    from embedkit.errors import ClipError

    corpus = parts.study.plan.study.corpus
    place = workspace.corpus_root(corpus, root)
    if not place.exists():
        raise StudyError(f"{place}: no such file or folder; the certificate needs clips of {corpus} (--root DIR)")
    source = parts.study.plan.sources[corpus]
    with cache.Cache.open(source.path) as file:
        utterances = file.utterances()
    rows = [utterances[row] for row in source.rows]
    listen = extract.Listen(corpora.folder(corpus, place), parts.recipe, 0)
    calibration, certified = _chosen(rows, count)

    def waves(chosen: list[int]) -> Iterator[Wave]:
        for i in chosen:
            try:
                yield listen.read(rows[i])
            except ClipError:
                continue

    return waves(certified), waves(calibration)


def _chosen(rows: Sequence[Utterance], count: int) -> tuple[list[int], list[int]]:
    """Rows to calibrate on and rows to certify: others, unless fewer than half as many as asked for are left."""
    from embedkit.extract import spread

    calibration = spread(rows, CALIBRATION)
    others = sorted(set(range(len(rows))) - set(calibration))
    if 2 * len(others) < min(count, len(rows)):
        return calibration, spread(rows, count)
    return calibration, [others[i] for i in spread([rows[i] for i in others], count)]


def _float_graph(parts: Parts) -> onnx.ModelProto:
    """Encoder and head in float32, as one graph."""
    from embedkit import heads
    from embedkit.cards import CLASSES
    from embedkit.export import files

    kind = parts.study.plan.heads[parts.choice.head].kind
    body = files.exported(_body(parts))
    return files.merged(body, heads.to_onnx(kind, parts.estimator, parts.temperature), parts.columns, len(CLASSES))


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


def _ordinary(parts: Parts) -> Callable[[Wave], Answer]:
    """The path that trained the head, in fp32: prepare, cut, pool, predict_proba, temperature. ClipError as it is."""
    import numpy as np

    from embedkit import audio, calibration, encoders
    from embedkit.cache import STATS
    from embedkit.cards import CLASSES

    encoder, sound = encoders.load(parts.spec), parts.recipe.sound
    pad_to = round(sound.max_seconds * audio.RATE) if sound.pad else 0
    stats = [STATS.index(name) for name in parts.study.plan.study.stats]

    def answer(wave: Wave) -> Answer:
        states = encoder.pool(audio.cut(audio.prepare(wave, sound), sound), pad_to=pad_to)
        embedding = states[parts.layers][:, stats].reshape(-1)
        probabilities = np.zeros(len(CLASSES))
        raw = parts.estimator.predict_proba(embedding[None])[0]
        probabilities[parts.columns] = calibration.apply(raw, parts.temperature)
        return probabilities, embedding

    return answer


def _checked(parts: Parts, waves: Iterator[Wave], plain: bytes, file: bytes, profile: str) -> dict[str, Any]:
    from embedkit.export import certify

    ways = {"torch": _ordinary(parts), "float": certify.from_file(plain), "file": certify.from_file(file)}
    return certify.certificate(certify.answered(ways, waves), profile)


def _metadata(parts: Parts, profile: str) -> dict[str, str]:
    """What the file says of itself."""
    from embedkit import __version__
    from embedkit.audio import RATE
    from embedkit.cards import CLASSES

    plan, spec = parts.study.plan, parts.spec
    said = {
        "format": FORMAT,
        "labels": json.dumps(CLASSES),
        "rate": str(RATE),
        "recipe": parts.recipe.model_dump_json(),
        "encoder": spec.id,
        "revision": spec.revision,
        "weights_digest": spec.weights_digest,
        "weights": "random" if spec.random else "pretrained",
        "study": plan.study.name,
        "arm": parts.choice.arm,
        "head": parts.choice.head,
        "layer": str(parts.choice.layer),
        "temperature": f"{parts.temperature:.6g}",
        "profile": profile,
        "version": __version__,
    }
    return {f"embedkit.{key}": value for key, value in said.items()}


def _of(parts: Parts, profile: str, data: bytes) -> dict[str, Any]:
    """What a certificate is of; `ua` is of the folds' own heads on their own test folds."""
    from embedkit.runtime.model import file_digest

    arm, head, layer = parts.choice
    return {
        "study": parts.study.plan.study.name,
        "arm": arm,
        "head": head,
        "layer": layer,
        "temperature": parts.temperature,
        "encoder": parts.spec.id,
        "weights": "random" if parts.spec.random else "pretrained",
        "profile": profile,
        "bytes": len(data),
        "sha256": file_digest(data),
        "ua": parts.result["ua"],
    }


def _write(path: Path, data: bytes, certificate: dict[str, Any]) -> None:
    """The certificate, then the file; neither bears its name before it is whole."""
    text = json.dumps(certificate, indent=1) + "\n"
    for target, content in ((path.with_suffix(".certificate.json"), text.encode()), (path, data)):
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
