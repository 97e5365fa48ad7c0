"""Neutral bias: are recordings with pauses called neutral more often than they are?

The paper proposes voice activity detection and windows for long recordings but measures neither. This measures both:
long recordings are composed of a corpus's own clips, several of one speaker and one class with silence or noise before,
between and after them, and each recording is classified in four ways:

- `vad`: what `embedkit predict` does: speech is found, joined and cut into windows of 8 s;
- `windows`: what `predict --no-vad` does: everything is cut into windows of 8 s, silent ones are left out;
- `whole`: the recording as one input, of which the first 8 s count: what a client may do that knows of no windows;
- `clips`: the clips one by one, averaged by their seconds: how far the other ways are below this is what pauses cost.

The bias is the share of recordings that are called neutral minus the share that are neutral.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit import corpora, stats
from embedkit.audio import RATE, Wave
from embedkit.classes import CLASSES
from embedkit.corpora import SkippedClip
from embedkit.errors import ClipError, CorpusError
from embedkit.evaluation.composition import Composition, RecordingPlan, plan_recordings, read_clips
from embedkit.evaluation.document import BiasMeasurement, LongEvaluation, WayScores
from embedkit.evaluation.fold_heads import FoldPredictors, load_fold_predictors, was_trained_on
from embedkit.progress import progress_bar
from embedkit.runtime import Predictor, speech
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    from embedkit.corpora import Utterance


WAYS = ("vad", "windows", "whole", "clips")
NEUTRAL = CLASSES.index("neutral")
NO_ANSWER = len(CLASSES)  # the column of recordings in which a way found nothing to classify


def evaluate_recordings(
    workspace: Workspace, predictor: Predictor, corpus: str, root: Path, held_out: bool = False, **composition: Any
) -> LongEvaluation:
    """`measure_bias` on a corpus at root, with the label map of its reader.

    held_out: with the heads of the study's folds (see `load_fold_predictors`). composition: the fields of
    `Composition`. Raises what `measure_bias` and `load_fold_predictors` raise, and UserError for a wrong composition.
    """
    predictors = load_fold_predictors(predictor, workspace) if held_out else FoldPredictors(predictor)
    rows, labels = corpora.load(corpus, root), corpora.find_reader(corpus, root).LABELS
    notes = []
    if not held_out and was_trained_on(predictor, workspace, corpus):
        notes.append(f"the file's head was trained on clips of {corpus}: too good to be true; see --held-out")
    return {
        "model": str(predictor.path),
        "corpus": corpus,
        "heads": "of the study's folds, each on what it was tested on" if held_out else "the file's own",
        "notes": notes,
        **measure_bias(predictors, rows, corpora.folder(corpus, root), labels, Composition(**composition)),
    }


def measure_bias(
    predictors: FoldPredictors,
    utterances: Sequence[Utterance],
    folder: Path,
    label_map: Mapping[str, Sequence[str]],
    composition: Composition,
) -> BiasMeasurement:
    """Compose recordings, classify each in four ways, and score the ways.

    folder: where the utterances' files lie; label_map: class to the corpus's own labels. Raises CorpusError where no
    recording can be composed.
    """
    classes = corpora.assign_classes(utterances, label_map)
    skipped: list[SkippedClip] = []
    recordings: list[RecordingPlan] = []
    seconds: list[float] = []
    predictions: list[dict[str, int]] = []
    planned = list(plan_recordings(utterances, classes, predictors, composition))
    with progress_bar(len(planned), "recordings") as bar:
        for recording in planned:
            if waves := list(read_clips(recording, folder, skipped)):
                wave = composition.compose(waves, recording.name)
                recordings.append(recording)
                seconds.append(len(wave) / RATE)
                predictions.append(classify_recording(predictors[recording.fold], wave, waves))
            bar.update()
    if not recordings:
        untested = sum(bool(name) and predictors.fold(u) is None for u, name in zip(utterances, classes, strict=True))
        raise CorpusError(
            f"{folder}: nothing to compose of {len(utterances)} utterances: {classes.count('')} have no class,"
            f" {len(skipped)} cannot be used, {untested} were tested by no fold of the study"
        )
    tables = {way: _count_confusions(recordings, [each[way] for each in predictions]) for way in WAYS}
    return {
        "recordings": len(recordings),
        "seconds": float(np.mean(seconds)),
        "speakers": len({recording.speaker for recording in recordings}),
        "composition": composition.to_document(),
        "truth": {name: sum(recording.truth == name for recording in recordings) for name in CLASSES},
        "skipped": skipped,
        "left_out": dict(Counter(u.label for u, name in zip(utterances, classes, strict=True) if not name)),
        "ways": {way: _score_way(tables[way]) for way in WAYS},
        "comparisons": _compare_ways(tables),
    }


def classify_recording(predictor: Predictor, recording: Wave, clips: Sequence[Wave]) -> dict[str, int]:
    """The class (its index in CLASSES) that each way gives a recording; 4 where it found nothing to classify.

    recording: float32 [samples], 16 kHz mono; clips: those that it is composed of.
    """
    return {
        "vad": _classify_stream(predictor, recording, vad=True),
        "windows": _classify_stream(predictor, recording, vad=False),
        "whole": _classify_clips(predictor, [recording[: speech.WINDOW]]),
        "clips": _classify_clips(predictor, clips),
    }


def _classify_stream(predictor: Predictor, recording: Wave, vad: bool) -> int:
    stream = predictor.stream(vad)
    try:
        stream.feed(recording)
        stream.end()
    except ClipError:
        return NO_ANSWER
    return CLASSES.index(stream.label) if stream.label else NO_ANSWER


def _classify_clips(predictor: Predictor, waves: Sequence[Wave]) -> int:
    total = np.zeros(len(CLASSES))
    for wave in waves:
        try:
            total += predictor.probabilities(wave) * len(wave)
        except ClipError:
            continue
    return int(total.argmax()) if total.any() else NO_ANSWER


def _count_confusions(recordings: Sequence[RecordingPlan], predicted: Sequence[int]) -> stats.Array:
    """One confusion matrix a speaker, [speaker, truth, predicted]; the last of the 5 columns is `NO_ANSWER`."""
    names, speaker = np.unique([recording.speaker for recording in recordings], return_inverse=True)
    counts = np.zeros((len(names), len(CLASSES), len(CLASSES) + 1))
    for who, recording, answer in zip(speaker, recordings, predicted, strict=True):
        counts[who, CLASSES.index(recording.truth), answer] += 1
    return counts


def share_called_neutral(t: stats.Array) -> stats.Array:
    """The share of recordings called neutral, from confusion matrices [..., truth, predicted]; NaN for an empty one."""
    total = t.sum((-1, -2))
    return np.asarray(np.divide(t[..., NEUTRAL].sum(-1), total, out=np.full(np.shape(total), np.nan), where=total > 0))


def _score_way(tables: stats.Array) -> WayScores:
    """The scores of a way from its confusion matrices by speaker, with their intervals.

    The share that is neutral in truth is fixed by the composition, so the interval of the bias is that of the share
    called neutral, shifted.
    """

    def score_interval(score: stats.Score, of: stats.Array = tables) -> stats.IntervalDocument:
        return stats.compute_interval(of, score).to_document()

    def shift(share: float | None) -> float | None:
        return None if share is None else share - truth

    total, truth = tables.sum(0), float(tables[:, NEUTRAL].sum() / tables.sum())
    called = score_interval(share_called_neutral)
    return {
        "wa": score_interval(stats.wa),
        "ua": score_interval(stats.ua),
        "recall": {c: score_interval(stats.select_class(stats.recalls, c)) for c in CLASSES},
        "precision": {
            c: score_interval(stats.select_class(stats.precisions, c), tables[..., :NO_ANSWER]) for c in CLASSES
        },
        "neutral": {
            "said": called,
            "truth": truth,
            "bias": {
                "estimate": shift(called["estimate"]),
                "low": shift(called["low"]),
                "high": shift(called["high"]),
            },
        },
        "no_answer": int(total[:, NO_ANSWER].sum()),
        "confusion": total[:, :NO_ANSWER].astype(int).tolist(),
    }


def _compare_ways(tables: Mapping[str, stats.Array]) -> list[stats.WayComparison]:
    """`vad` against each other way, by UA and by the share called neutral.

    tables: confusion matrices [speaker, truth, predicted] of each way. Tests are paired over speakers, their p adjusted
    for each score (Holm).
    """
    pairs = [("vad", way) for way in WAYS[1:]]
    scores = (("ua", stats.ua), ("neutral said", share_called_neutral))
    return [found for name, score in scores for found in stats.compare_pairs(tables, pairs, name, score)]
