"""What goes into one file, and what the file says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedkit.errors import EncoderError
from embedkit.heads import class_columns
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    from embedkit import encoders
    from embedkit.cards import Recipe
    from embedkit.heads import Estimator
    from embedkit.study import CompletedStudy, ResultChoice


FORMAT = "1"  # of the file's interface; `embedkit.runtime` reads it


@dataclass(frozen=True)
class StitchInputs:
    """What goes into one file."""

    study: CompletedStudy
    choice: ResultChoice
    recipe: Recipe
    spec: encoders.Spec
    estimator: Estimator

    @property
    def columns(self) -> list[int]:
        """The class of each of the head's columns."""
        return class_columns(self.estimator)

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


def collect_inputs(workspace: Workspace, name: str | None, wanted: dict[str, Any]) -> StitchInputs:
    """The study's chosen head, refitted on all of its rows, and the very encoder that its features are of."""
    from embedkit import cards, encoders
    from embedkit import study as studies

    finished = studies.open_study(workspace, name)
    choice = studies.choose_best_result(finished.results, **wanted)
    plan = finished.plan
    spec = encoders.resolve(plan.place)
    if spec.weights_digest != plan.identity.weights_digest:
        raise EncoderError(f"{plan.place}: its weights are not those that the study's features are of; extract --fresh")
    recipe = cards.read(cards.Recipe, workspace.card("cache", plan.study.recipe))
    return StitchInputs(finished, choice, recipe, spec, finished.refit(choice))


def build_metadata(inputs: StitchInputs, profile: str) -> dict[str, str]:
    """What the file says of itself."""
    from embedkit import __version__
    from embedkit.audio import RATE
    from embedkit.classes import CLASSES

    plan, spec = inputs.study.plan, inputs.spec
    entries = {
        "format": FORMAT,
        "labels": json.dumps(CLASSES),
        "rate": str(RATE),
        "recipe": inputs.recipe.model_dump_json(),
        "encoder": spec.id,
        "revision": spec.revision,
        "weights_digest": spec.weights_digest,
        "weights": "random" if spec.random else "pretrained",
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


def identify_file(inputs: StitchInputs, profile: str, data: bytes) -> dict[str, Any]:
    """What a certificate is of; `ua` is of the folds' own heads on their own test folds."""
    from embedkit.runtime.model import compute_file_digest

    arm, head, layer = inputs.choice
    return {
        "study": inputs.study.plan.study.name,
        "arm": arm,
        "head": head,
        "layer": layer,
        "temperature": inputs.temperature,
        "encoder": inputs.spec.id,
        "weights": "random" if inputs.spec.random else "pretrained",
        "profile": profile,
        "bytes": len(data),
        "sha256": compute_file_digest(data),
        "ua": inputs.result["ua"],
    }


def describe_origin(inputs: StitchInputs) -> dict[str, Any]:
    """What a model card says beside the certificate."""
    from embedkit import __version__, corpora

    plan = inputs.study.plan
    mix = next(arm.mix for arm in plan.study.arms if arm.name == inputs.choice.arm)
    return {
        "version": __version__,
        "recipe": plan.study.recipe,
        "sound": inputs.recipe.sound.model_dump(),
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
