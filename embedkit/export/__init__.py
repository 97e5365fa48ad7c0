"""Stitch: encoder and head as one ONNX file, raw samples in, probabilities out, certified before it gets its name.

graph.py     the torch modules that become the graph
files.py     torch to ONNX, encoder and head into one, metadata
quantize/    the profiles
certify.py   torch against the graph, on real clips
cost.py      time and memory of one clip
modelcard.py all of that, for people
"""

from __future__ import annotations

import json
import os
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import EmbedkitError, EncoderError, StudyError, UserError, did_you_mean
from embedkit.threads import cores, one_thread
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

    from embedkit import encoders
    from embedkit.cards import Certificate, Limits, Recipe
    from embedkit.corpora import Utterance
    from embedkit.export.certify import Answer, Tested
    from embedkit.heads import Estimator
    from embedkit.study import Choice, Finished

    Wave = npt.NDArray[np.float32]

FORMAT = "1"  # of the file's interface; `embedkit.runtime` reads it
CLIPS = 1000  # real clips that a certificate looks at, where there are so many
JOBS = 8  # threads at most that certify; each takes an encoder for itself
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
    def corpus(self) -> str:
        """The one that the study was tested on; its clips certify the file."""
        return self.study.plan.study.test or self.study.plan.study.corpus

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
    profile: str | None = None,
    output: Path | None = None,
    *,
    root: Path | None = None,
    clips: int = CLIPS,
    settings: Mapping[str, Any] | None = None,
    refit: bool = False,
) -> dict[str, Any]:
    """Write a study's head with its encoder as one ONNX file; returns {model, bytes, certificate, card}.

    study: None: the newest finished one; head, arm, layer: None: those with the best mean validation UA. root: where
    the corpus lies that the study was tested on, for the certificate's clips: so many, spread over speakers and labels.
    settings: limits that win over those of the study's card ({"certificate.size.flips": 0.2}). refit: then train the
    head anew on the file's own features (`export/refit.py`), and write and return that file, `<file>-refit.onnx`.

    The certificate lies beside the file as JSON, and in the model card for people. Raises UserError for what cannot be
    asked, and EmbedkitError where the file and torch part further than the limits allow: then the file is not written,
    only its certificate, under a name that says so.
    """
    from embedkit.export import refit as refitting

    if clips < 1:
        raise UserError(f"a certificate of {clips} clips; give at least 1")
    parts = _parts(workspace, study, {"head": head, "arm": arm, "layer": layer})
    profile = _profile(parts, profile)
    path = _place(output or parts.study.plan.folder / f"{parts.choice.head}-{profile}.onnx")
    made = _export(parts, workspace, profile, path, root, clips, settings)
    if not refit:
        return made
    roots = {parts.corpus: root} if root else {}
    name = refitting.run(workspace, parts.study, parts.choice, path, roots).study.name
    anew = _parts(workspace, name, {})
    won = refitting.won_back(parts.study, parts.choice, anew.study, anew.choice)
    return _export(
        anew, workspace, profile, path.with_stem(f"{path.stem}-refit"), root, clips, settings, {"refit": won}
    )


def _profile(parts: Parts, asked: str | None) -> str:
    """What was asked for, else `size`; of a study on an exported file's features the file's own."""
    from embedkit.export import files, quantize

    if asked and asked not in quantize.PROFILES:
        raise UserError(f"profile '{asked}'{did_you_mean(asked, quantize.PROFILES)}")
    if parts.spec.family != "exported":
        return asked or "size"
    own = files.metadata(parts.spec.folder)["profile"]
    if asked not in (None, own):
        raise UserError(
            f"{parts.spec.folder}: it is of profile {own}, and so is what is made of it; leave --profile out"
        )
    return own


def _export(
    parts: Parts,
    workspace: Workspace,
    profile: str,
    path: Path,
    root: Path | None,
    clips: int,
    settings: Mapping[str, Any] | None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the file, certify it and write it; more: what else its certificate says."""
    from embedkit.export import files, quantize

    limits = _limits(parts, settings)
    heard = _clips(parts, workspace, root, clips)
    plain = _float_graph(parts)
    if parts.spec.family == "exported":  # all but the new head is as small as it will be
        final = plain if profile == "float" else quantize.in_8_bits(plain)
    else:
        final = quantize.PROFILES[profile](plain, [] if profile == "float" else heard.calibration())
    counts = quantize.check(final, profile)
    data = files.finished(final, _metadata(parts, profile))
    held = {"float": limits.float, "file": getattr(limits, profile)}
    certificate = {
        **_of(parts, profile, data),
        **_checked(parts, heard, files.finished(plain, {}), data, held),
        "quantized": counts["nodes"],
        "four_bit": counts["four_bit"],
        "integer_products": counts["integer"],
        "weight_bytes": counts["bytes"],
        **(more or {}),
    }
    card = _write(path, data, certificate, _about(parts))
    return {"model": str(path), "bytes": len(data), "certificate": certificate, "card": str(card)}


def _place(path: Path) -> Path:
    """Where the file will lie; UserError before the long work where it cannot."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it, or give another -o")
    if path.suffix != ".onnx":
        raise UserError(f"{path}: give it a name that ends in .onnx; its certificate and model card lie beside it")
    return path


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


def _limits(parts: Parts, settings: Mapping[str, Any] | None) -> Certificate:
    """The limits of the study's card, and what is set beside them; CardError for what cannot be."""
    from embedkit import cards
    from embedkit.errors import CardError

    for key in settings or {}:
        if not key.startswith("certificate."):
            raise CardError(f"--set {key}: an export knows only certificate.PROFILE.LIMIT, e.g. certificate.size.flips")
    study = parts.study.plan.study
    own = study.model_dump(mode="json", include={"certificate"})
    return cards.build(cards.Study, own, settings, where=study.name).certificate


@dataclass(frozen=True)
class Heard:
    """Clips of the corpus that a study was tested on, spread over speakers and labels."""

    read: Callable[[Utterance], Wave]
    certified: list[Utterance]
    calibrated: list[Utterance]  # others, where the corpus has enough

    def calibration(self) -> list[Wave]:
        """Those that a profile is fitted to, decoded; what cannot be read is left out."""
        return list(self._waves())

    def _waves(self) -> Iterator[Wave]:
        from embedkit.errors import ClipError

        for utterance in self.calibrated:
            try:
                yield self.read(utterance)
            except ClipError:
                continue


def _clips(parts: Parts, workspace: Workspace, root: Path | None, count: int) -> Heard:
    """The certificate's clips. Where the corpus lies is looked up at once, before the long work."""
    from embedkit import cache, corpora, extract

    corpus = parts.corpus
    place = workspace.corpus_root(corpus, root)
    if not place.exists():
        raise StudyError(f"{place}: no such file or folder; the certificate needs clips of {corpus} (--root DIR)")
    source = parts.study.plan.sources[corpus]
    with cache.Cache.open(source.path) as file:
        utterances = file.utterances()
    rows = [utterances[row] for row in source.rows]
    listen = extract.Listen(corpora.folder(corpus, place), parts.recipe, 0)
    calibrated, certified = _chosen(rows, count)
    return Heard(listen.read, [rows[i] for i in certified], [rows[i] for i in calibrated])


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
    if parts.spec.family == "exported":
        body = files.body_of(parts.spec.folder, parts.layers, parts.study.plan.study.stats)
    else:
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


def _ordinary(parts: Parts, jobs: int) -> Callable[[Wave], Answer]:
    """The path that trained the head, in fp32: prepare, cut, pool, predict_proba, temperature. ClipError as it is.

    For so many threads at a time: an encoder keeps notes while it works, so each thread takes one for itself.
    """
    import numpy as np

    from embedkit import audio, calibration, encoders
    from embedkit.cache import STATS
    from embedkit.cards import CLASSES

    sound = parts.recipe.sound
    pad_to = round(sound.max_seconds * audio.RATE) if sound.pad else 0
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
        "layers": json.dumps(parts.layers),
        "stats": json.dumps(plan.study.stats),
        "dim": str(spec.dim),
        "parameters": str(spec.parameters),
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


def _about(parts: Parts) -> dict[str, Any]:
    """What a model card says beside the certificate."""
    from embedkit import __version__, corpora

    plan = parts.study.plan
    mix = next(arm.mix for arm in plan.study.arms if arm.name == parts.choice.arm)
    return {
        "version": __version__,
        "recipe": plan.study.recipe,
        "sound": parts.recipe.sound.model_dump(),
        "stats": list(plan.study.stats),
        "encoder": {"revision": parts.spec.revision, "parameters": parts.spec.parameters},
        "head": plan.heads[parts.choice.head].kind,
        "folds": {"kind": plan.study.folds.kind, "count": len(plan.folds)},
        "seeds": plan.study.seeds,
        "tested": parts.corpus,
        "corpora": {
            name: {
                "share": mix.get(name, 1.0),
                "classes": {label: int((source.y == label).sum()) for label in parts.estimator.classes_},
                "speakers": len(set(source.columns["speaker"])),
                "licence": corpora.reader(name if name in corpora.names() else "manifest").LICENCE,
            }
            for name, source in plan.sources.items()
            if name == plan.study.corpus or mix.get(name)
        },
    }


def _write(path: Path, data: bytes, certificate: dict[str, Any], about: dict[str, Any]) -> Path:
    """The certificate, the model card, then the file; none bears its name before it is whole. Returns the card's place.

    EmbedkitError past the limits: then there is only the certificate, and its name says so.
    """
    from embedkit.export import modelcard

    document = (json.dumps(certificate, indent=1) + "\n").encode()
    rejected, card = path.with_suffix(".rejected.certificate.json"), path.with_suffix(".md")
    if past := certificate["past_limits"]:
        _put(rejected, document)
        raise EmbedkitError(
            f"{'; '.join(past)}: no file is written, see {rejected};"
            " try another profile or head, or other limits (--set certificate.PROFILE.LIMIT=VALUE)"
        )
    rejected.unlink(missing_ok=True)
    _put(path.with_suffix(".certificate.json"), document)
    _put(card, modelcard.page(path.name, certificate, about).encode())
    _put(path, data)
    return card


def _put(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
