"""The heads of a study's folds as predictors, so that no clip is classified by a head that was trained on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embedkit.audio import Wave
from embedkit.classes import CLASSES
from embedkit.errors import StudyError
from embedkit.runtime import Predictor
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    from embedkit.corpora import Utterance
    from embedkit.heads import Estimator


@dataclass(frozen=True)
class FoldPredictors:
    """Which predictor classifies which utterance: the file itself, or the head of the fold that was tested on it."""

    file_predictor: Predictor
    fold_by_utterance: Mapping[str, str] = field(default_factory=dict)  # fold by the utterance's id
    predictor_by_fold: Mapping[str, Predictor] = field(default_factory=dict)  # empty: the file classifies all

    def fold(self, utterance: Utterance) -> str | None:
        """The fold that was tested on an utterance, None where there is none; "" where the file classifies all."""
        return self.fold_by_utterance.get(utterance.id) if self.predictor_by_fold else ""

    def __getitem__(self, fold: str) -> Predictor:
        return self.predictor_by_fold[fold] if self.predictor_by_fold else self.file_predictor


def load_fold_predictors(predictor: Predictor, workspace: Workspace) -> FoldPredictors:
    """The file's encoder with the heads of the folds of its study, each for the clips that its fold was tested on.

    Raises StudyError where the workspace does not have that study, or has it with another encoder.
    """
    from embedkit import study as studies  # only what is held out needs what trains

    meta = {key.removeprefix("embedkit."): value for key, value in predictor.meta.items()}
    if not meta.get("study"):
        raise StudyError(f"{predictor.path}: it does not say of which study it is; leave out --held-out")
    finished = studies.open_study(workspace, meta["study"])
    if finished.plan.identity.weights_digest != meta.get("weights_digest"):
        raise StudyError(f"study {meta['study']} is of another encoder than {predictor.path}; export it again")
    layer = next((r["layer"] for r in finished.results if str(r["layer"]) == meta["layer"]), meta["layer"])
    choice = studies.ResultChoice(meta["arm"], meta["head"], layer)
    rows = finished.read_test_rows(choice)
    if rows.empty:
        raise StudyError(f"study {meta['study']} has no {' / '.join(map(str, choice))}; export it again")
    temperature = float(meta.get("temperature", 1))
    predictor_by_fold = {
        fold: predictor.with_head(_make_head(finished.load_fold_head(choice, fold), temperature))
        for fold in rows["fold"].unique()
    }
    return FoldPredictors(predictor, dict(zip(rows["utterance"], rows["fold"], strict=True)), predictor_by_fold)


def _make_head(estimator: Estimator, temperature: float) -> Callable[[Wave], Wave]:
    """The head as a function of one embedding [dim], its probabilities [4] in the order of CLASSES."""
    from embedkit import calibration
    from embedkit.heads import class_columns

    columns = class_columns(estimator)

    def predict_embedding(embedding: Wave) -> Wave:
        p = np.zeros(len(CLASSES), np.float32)
        p[columns] = calibration.apply_temperature(estimator.predict_proba(embedding[None])[0], temperature)
        return p

    return predict_embedding


def was_trained_on(predictor: Predictor, workspace: Workspace, corpus: str) -> bool:
    """Whether the file's head was trained on this corpus, as its study says; False where the study is not there."""
    name = predictor.meta.get("embedkit.study", "")
    path = workspace.studies / name / "study.json"
    if not name or not path.is_file():
        return False
    card = json.loads(path.read_text(encoding="utf-8"))["card"]
    mixes = [arm["mix"] for arm in card["arms"] if arm["name"] == predictor.meta.get("embedkit.arm")]
    return corpus == card["corpus"] or any(corpus in mix for mix in mixes)
