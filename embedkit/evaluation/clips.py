"""An exported file on a whole corpus, clip by clip and without voice activity detection: the paper's RAVDESS test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedkit import metrics
from embedkit.corpora import SkippedClip, Utterance, read_sound
from embedkit.errors import ClipError, CorpusError
from embedkit.evaluation.document import ClipEvaluation

if TYPE_CHECKING:
    from embedkit.runtime import Predictor


def evaluate_clips(
    predictor: Predictor, utterances: Iterable[Utterance], folder: Path, label_map: Mapping[str, Sequence[str]]
) -> ClipEvaluation:
    """Predict every utterance that the label map covers, and compare the predicted classes with the labels.

    folder: where the utterances' files lie; label_map: class to the corpus's own labels. In the result, a class that is
    neither present nor predicted has F1 0 and is no part of macro F1. Raises CorpusError where no utterance could be
    predicted.
    """
    class_of = {label: name for name, labels in label_map.items() for label in labels}
    left_out: Counter[str] = Counter()
    skipped: list[SkippedClip] = []
    truth: list[str] = []
    predicted: list[str] = []
    for utterance in utterances:
        if utterance.label not in class_of:
            left_out[utterance.label] += 1
            continue
        try:
            wave = read_sound(folder, utterance)
            best = int(predictor.probabilities(wave).argmax())
        except ClipError as error:
            skipped.append({"id": utterance.id, "reason": str(error)})
            continue
        truth.append(class_of[utterance.label])
        predicted.append(predictor.labels[best])
    if not truth:
        raise CorpusError(
            f"nothing to evaluate {predictor.path} on: {len(skipped)} clips skipped, {left_out.total()} of other labels"
        )
    scores = metrics.compute_scores(truth, predicted)
    return {
        "model": str(predictor.path),
        "rows": len(truth),
        "left_out": dict(sorted(left_out.items())),
        "skipped": skipped,
        "wa": scores["wa"],
        "ua": scores["ua"],
        "macro_f1": scores["macro_f1"],
        "f1": {name: scores["f1"].get(name, 0.0) for name in predictor.labels},
        "confusion": np.asarray(metrics.confusion_matrix(truth, predicted, predictor.labels)).tolist(),
    }
