"""What goes into one file, and what the file says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkit import cards, corpora, encoders, heads
from embedkit import study as studies
from embedkit._version import __version__
from embedkit.audio import RATE
from embedkit.classes import CLASSES
from embedkit.errors import EncoderError
from embedkit.export.document import FileIdentity, FileOrigin
from embedkit.runtime.model import FORMAT, compute_file_digest
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    from embedkit.report.document import Result


FAMILIES = ("hubert", "whisper", "exported")  # of encoders: `graph.py` has the first two, a file has its own graph


@dataclass(frozen=True)
class StitchInputs:
    """What goes into one file: a result of a study, its head for use, and the encoder and recipe of its features."""

    study: studies.CompletedStudy
    choice: studies.ResultChoice
    recipe: cards.Recipe
    spec: encoders.Spec
    estimator: heads.Estimator

    @property
    def columns(self) -> list[int]:
        """The class of each of the head's columns, as its index in CLASSES."""
        return heads.class_columns(self.estimator)

    @property
    def layers(self) -> list[int]:
        """The hidden states that the head's features are made from, in their order."""
        return self.study.plan.hidden(self.choice.layer)

    @property
    def corpus(self) -> str:
        """The corpus that the study was tested on; its clips certify the file."""
        return self.study.tested_corpus

    @property
    def result(self) -> Result:
        """The figures of the chosen result, as in results.json."""
        arm, head, layer = self.choice
        return next(r for r in self.study.results if (r["arm"], r["head"], r["layer"]) == (arm, head, layer))

    @property
    def temperature(self) -> float:
        """The number that the head's logits are divided by: the median over the folds, fitted on validation rows."""
        return float(self.result["calibration"]["temperature"]["median"])

    @property
    def weights(self) -> str:
        """Whether the encoder was trained: "pretrained" or "random"."""
        return "random" if self.spec.random else "pretrained"


def collect_inputs(
    workspace: Workspace,
    name: str | None,
    arm: str | None = None,
    head: str | None = None,
    layer: int | str | None = None,
) -> StitchInputs:
    """The chosen head of a study, refitted on all of its rows, and the encoder that its features were made with.

    name None: the newest finished study; arm, head, layer None: those with the best mean validation UA. Raises
    StudyError where there is no such result, EncoderError where the encoder is no longer the same or is of a family
    that has no graph.
    """
    finished = studies.open_study(workspace, name)
    choice = studies.choose_best_result(finished.results, head=head, arm=arm, layer=layer)
    plan = finished.plan
    spec = encoders.resolve(plan.place)
    if spec.weights_digest != plan.identity.weights_digest:
        raise EncoderError(f"{plan.place}: its weights are not those that the study's features are of; extract --fresh")
    if spec.family not in FAMILIES:
        raise EncoderError(
            f"{plan.place}: no encoder of family {spec.family} can be exported, only of {', '.join(FAMILIES)}; choose a"
            " study of another encoder"
        )
    recipe = cards.read(cards.Recipe, workspace.card("cache", plan.study.recipe))
    return StitchInputs(finished, choice, recipe, spec, finished.refit(choice))


def build_metadata(inputs: StitchInputs, profile: str) -> dict[str, str]:
    """The metadata of the file, by keys that begin with `embedkit.`."""
    plan, spec = inputs.study.plan, inputs.spec
    entries = {
        "format": FORMAT,
        "labels": json.dumps(CLASSES),
        "rate": str(RATE),
        "recipe": inputs.recipe.model_dump_json(),
        "encoder": spec.id,
        "revision": spec.revision,
        "weights_digest": spec.weights_digest,
        "weights": inputs.weights,
        "study": plan.study.name,
        "arm": inputs.choice.arm,
        "head": inputs.choice.head,
        "layer": str(inputs.choice.layer),
        "temperature": f"{inputs.temperature:.6g}",
        "layers": json.dumps(inputs.layers),
        "stats": json.dumps(plan.study.stats),
        "dim": str(spec.dim),
        "parameters": str(spec.parameters),
        "profile": profile,
        "version": __version__,
    }
    return {f"embedkit.{key}": value for key, value in entries.items()}


def identify_file(inputs: StitchInputs, profile: str, data: bytes) -> FileIdentity:
    """Which file a certificate is of."""
    arm, head, layer = inputs.choice
    return {
        "study": inputs.study.plan.study.name,
        "arm": arm,
        "head": head,
        "layer": layer,
        "temperature": inputs.temperature,
        "encoder": inputs.spec.id,
        "weights": inputs.weights,
        "profile": profile,
        "bytes": len(data),
        "sha256": compute_file_digest(data),
        "ua": inputs.result["ua"],
    }


def describe_origin(inputs: StitchInputs) -> FileOrigin:
    """What a model card says beside the certificate."""
    plan, sound = inputs.study.plan, inputs.recipe.sound
    mix = next(arm.mix for arm in plan.study.arms if arm.name == inputs.choice.arm)
    return {
        "version": __version__,
        "recipe": plan.study.recipe,
        "sound": {
            "trim_db": sound.trim_db,
            "pre_emphasis": sound.pre_emphasis,
            "peak": sound.peak,
            "max_seconds": sound.max_seconds,
            "pad": sound.pad,
        },
        "stats": list(plan.study.stats),
        "encoder": {"revision": inputs.spec.revision, "parameters": inputs.spec.parameters},
        "head": plan.heads[inputs.choice.head].kind,
        "folds": {"kind": plan.study.folds.kind, "count": len(plan.folds)},
        "seeds": plan.study.seeds,
        "tested": inputs.corpus,
        "corpora": {
            name: {
                "share": mix.get(name, 1.0),
                "classes": {label: int((source.y == label).sum()) for label in inputs.estimator.classes_},
                "speakers": len(set(source.columns["speaker"])),
                "licence": corpora.find_reader(name if name in corpora.list_corpora() else "manifest").LICENCE,
            }
            for name, source in plan.sources.items()
            if name == plan.study.corpus or mix.get(name)
        },
    }
