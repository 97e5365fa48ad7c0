"""Neutral bias: does a file that hears pauses call more of what it hears neutral?

The paper proposes voice activity detection and windows for long recordings and measures neither. Here they are: long
recordings are composed of a corpus's own clips, several of one speaker and one class with silence or noise before,
between and after them, and each recording is judged in four ways:

- `vad`: what `embedkit predict` does: speech found, joined and cut into windows of 8 s;
- `windows`: what `predict --no-vad` does: everything cut into windows of 8 s, silent ones left out;
- `whole`: the recording as one input, of which the first 8 s count: what a client does that has read no manual;
- `clips`: the clips one by one, averaged by their seconds: what is lost by composing is what the others lack of this.

The bias is the share of recordings that are called neutral minus the share that are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit import corpora, stats
from embedkit.audio import RATE, Wave
from embedkit.classes import CLASSES
from embedkit.errors import ClipError, CorpusError
from embedkit.evaluation.composition import Composition, RecordingPlan, plan_recordings, read_clips
from embedkit.evaluation.fold_heads import FoldPredictors, load_fold_predictors, was_trained_on
from embedkit.progress import progress_bar
from embedkit.runtime import Predictor, speech
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    from embedkit.corpora import Utterance


WAYS = ("vad", "windows", "whole", "clips")
NEUTRAL = CLASSES.index("neutral")
NO_ANSWER = len(CLASSES)  # the column of recordings in which a way heard nothing that it could judge


def evaluate_recordings(
    workspace: Workspace, predictor: Predictor, corpus: str, root: Path, held_out: bool = False, **composition: Any
) -> dict[str, Any]:
    """`measure` of a corpus at root, with the label map of its reader; composition: the fields of `Composition`.

    held_out: by the heads of the study's folds (see `load_fold_predictors`). Returns what `measure_bias` does, and
    {model, corpus, heads, notes}.
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
) -> dict[str, Any]:
    """Compose, judge and count; folder: where the utterances' files lie.

    Returns {recordings, seconds (mean), speakers, composition, truth: {class: count}, skipped: [{id, reason}],
    left_out: {label: count}, ways: {way: scores}, comparisons: [{score, way, against, ...}]}: see `_score_way` and
    `_compare_ways`. Intervals are 95 %, by speaker. Raises CorpusError where nothing can be composed.
    """
    classes = corpora.assign_classes(utterances, label_map)
    skipped: list[dict[str, str]] = []
    recordings: list[RecordingPlan] = []
    seconds: list[float] = []
    predictions: list[dict[str, int]] = []
    planned = list(plan_recordings(utterances, classes, predictors, composition))
    with progress_bar(len(planned), "recordings") as bar:
        for group in planned:
            if waves := list(read_clips(group, folder, skipped)):
                wave = composition.compose(waves, group.name)
                recordings.append(group)
                seconds.append(len(wave) / RATE)
                predictions.append(classify_recording(predictors[group.fold], wave, waves))
            bar.update()
    if not recordings:
        unjudged = sum(bool(name) and predictors.fold(u) is None for u, name in zip(utterances, classes, strict=True))
        raise CorpusError(
            f"{folder}: nothing to compose of {len(utterances)} utterances: {classes.count('')} have no class,"
            f" {len(skipped)} cannot be used, {unjudged} were tested by no fold of the study"
        )
    tables = {way: _count_confusions(recordings, [each[way] for each in predictions]) for way in WAYS}
    return {
        "recordings": len(recordings),
        "seconds": float(np.mean(seconds)),
        "speakers": len({group.speaker for group in recordings}),
        "composition": asdict(composition),
        "truth": {name: sum(group.truth == name for group in recordings) for name in CLASSES},
        "skipped": skipped,
        "left_out": dict(Counter(u.label for u, name in zip(utterances, classes, strict=True) if not name)),
        "ways": {way: _score_way(tables[way]) for way in WAYS},
        "comparisons": _compare_ways(tables),
    }


def classify_recording(predictor: Predictor, recording: Wave, clips: Sequence[Wave]) -> dict[str, int]:
    """The class (its index) that each way gives a recording; 4 where it heard nothing that it could judge."""
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


def _count_confusions(groups: Sequence[RecordingPlan], predicted: Sequence[int]) -> stats.Array:
    """One confusion matrix a speaker, [speaker, truth, said]; the last of the 5 columns is `NO_ANSWER`."""
    names, speaker = np.unique([group.speaker for group in groups], return_inverse=True)
    counts = np.zeros((len(names), len(CLASSES), len(CLASSES) + 1))
    for who, group, answer in zip(speaker, groups, predicted, strict=True):
        counts[who, CLASSES.index(group.truth), answer] += 1
    return counts


def share_called_neutral(t: stats.Array) -> stats.Array:
    """Share of recordings called neutral, of confusion matrices [..., truth, said]; NaN for an empty one."""
    total = t.sum((-1, -2))
    return np.asarray(np.divide(t[..., NEUTRAL].sum(-1), total, out=np.full(np.shape(total), np.nan), where=total > 0))


def _score_way(tables: stats.Array) -> dict[str, Any]:
    """{wa, ua, recall, precision: {class}, neutral: {said, truth, bias}, no_answer, confusion} with intervals.

    A recording without an answer counts as a wrong one. bias: the share called neutral minus its share in the truth,
    which is fixed by the composition; so the interval is that of the share, moved.
    """

    def score_interval(score: stats.Score, of: stats.Array = tables) -> dict[str, Any]:
        return asdict(stats.compute_interval(of, score))

    total, truth = tables.sum(0), float(tables[:, NEUTRAL].sum() / tables.sum())
    called = score_interval(share_called_neutral)
    ends = ("estimate", "low", "high")
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
            "bias": {end: None if called[end] is None else called[end] - truth for end in ends},
        },
        "no_answer": int(total[:, NO_ANSWER].sum()),
        "confusion": total[:, :NO_ANSWER].astype(int).tolist(),
    }


def _compare_ways(tables: Mapping[str, stats.Array]) -> list[dict[str, Any]]:
    """`vad` against each other way, in UA and in the share called neutral: paired over speakers, Holm by score."""
    comparisons: list[dict[str, Any]] = []
    for name, score in (("ua", stats.ua), ("neutral said", share_called_neutral)):
        tests = [stats.permutation_test(tables["vad"], tables[way], score) for way in WAYS[1:]]
        for way, test, p in zip(WAYS[1:], tests, stats.holm([test.p for test in tests]), strict=True):
            verdict = stats.verdict(test, "vad", way, float(p))
            comparisons.append(
                {"score": name, "way": "vad", "against": way, **asdict(test), "p": float(p), "verdict": verdict}
            )
    return comparisons
