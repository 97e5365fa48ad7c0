"""The certificate: torch, the float graph and the written file compared on real clips, before the file gets its name.

"torch" is the ordinary path that trained the head: audio.prepare, encoder.pool, predict_proba. A graph gets the same
clips as they were decoded. The limits are in the study's card (`embedkit.cards.Certificate`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from embedkit import stats
from embedkit.audio import Wave
from embedkit.cards import Limits
from embedkit.errors import ClipError, EmbedkitError
from embedkit.export.document import AnswerChanges, AnswerComparisons, TestFolds
from embedkit.heads import Estimator
from embedkit.progress import progress_bar
from embedkit.runtime.model import make_session_options

# Clips of test folds that the limit of UA needs: with fewer, a single clip changes UA too much.
MIN_JUDGED_CLIPS = 200

Clip = TypeVar("Clip")
Floats = npt.NDArray[np.floating]
Answer = tuple[Floats, Floats]  # probabilities [class], embedding [dim]


@dataclass(frozen=True)
class Answers:
    """What one way answers for every clip."""

    probabilities: Floats  # [clip, class]
    embeddings: Floats  # [clip, dim]


def wrap_model(model: bytes) -> Callable[[Wave], Answer]:
    """A file's bytes as a function of one clip's raw samples, on one thread and under the runtime's other settings."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, make_session_options(1), providers=["CPUExecutionProvider"])

    def answer_clip(wave: Wave) -> Answer:
        feeds = {"signal": wave[None], "lengths": np.array([len(wave)], np.int64)}
        probabilities, embedding = session.run(["probabilities", "embedding"], feeds)
        return probabilities[0], embedding[0]

    return answer_clip


def collect_answers(
    ways: Mapping[str, Callable[[Wave], Answer]], clips: Sequence[Clip], read: Callable[[Clip], Wave], jobs: int = 1
) -> tuple[list[Clip], dict[str, Answers]]:
    """The clips that can be used, and every way's answers on them.

    Clips that `read` or a way refuses (ClipError) are left out. jobs: threads, each of which takes one clip after the
    other, so the ways must be safe to call from several. Raises EmbedkitError where no clip can be used.
    """

    def answer_clip(clip: Clip) -> dict[str, Answer] | None:
        try:
            wave = read(clip)
            return {name: way(wave) for name, way in ways.items()}
        except ClipError:
            return None

    pool = ThreadPoolExecutor(jobs)
    try:
        results = []
        with progress_bar(len(clips), "certifying") as bar:
            for answers in pool.map(answer_clip, clips):
                results.append(answers)
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
    usable = [(clip, answers) for clip, answers in zip(clips, results, strict=True) if answers]
    if not usable:
        raise EmbedkitError(
            "no clip of the study's corpus could be read, so nothing is certified; see `embedkit corpora`"
        )
    return [clip for clip, _ in usable], {
        name: Answers(*(np.array(part) for part in zip(*(answers[name] for _, answers in usable), strict=True)))
        for name in ways
    }


# ---------------------------------------------------------------- what changes


def compare_answers(ours: Answers, reference: Answers) -> AnswerChanges:
    """How far one way is from another: changes of probabilities, label flips with a 95 % interval, embedding error.

    embedding_z: mean |change| over the standard deviation across clips, averaged over the dimensions that vary.
    """
    change = np.abs(ours.probabilities.astype(np.float64) - reference.probabilities)
    flips = int((ours.probabilities.argmax(1) != reference.probabilities.argmax(1)).sum())
    deviation = reference.embeddings.std(0, dtype=np.float64)
    moved = np.abs(ours.embeddings.astype(np.float64) - reference.embeddings).mean(0)
    varies = deviation > 1e-9
    return {
        "largest_change": float(change.max()),
        "mean_change": float(change.mean()),
        "flips": flips,
        "flips_interval": wilson_interval(flips, len(change)),
        "embedding_z": float((moved[varies] / deviation[varies]).mean()) if varies.any() else 0.0,
    }


def wilson_interval(hits: int, count: int, z: float = 1.959964) -> list[float]:
    """Wilson's 95 % interval of a share (Wilson 1927).

    >>> [round(x, 3) for x in wilson_interval(0, 64)]
    [0.0, 0.057]
    """
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return [max(0.0, middle - half), min(1.0, middle + half)]


# ---------------------------------------------------------------- UA on the study's test folds


class TestedClip(NamedTuple):
    """A certified clip that a fold of the study was tested on."""

    clip: int  # its index in the answers
    fold: str
    speaker: str
    label: str


def score_test_folds(
    answers: Mapping[str, Answers], tested: Sequence[TestedClip], head: Callable[[str], Estimator]
) -> TestFolds:
    """WA and UA of every way, where the head of each clip's fold classifies its embedding; it was not trained on it.

    head: gives the head of a fold by the fold's name. Intervals are 95 %, by speaker; every way is compared with torch
    by a paired permutation test over speakers, its p adjusted (Holm).
    """
    clips = len({row.clip for row in tested})
    return {
        "clips": clips,
        "left_out": len(answers["torch"].probabilities) - clips,
        "speakers": len({row.speaker for row in tested}),
        "judged": clips >= MIN_JUDGED_CLIPS,
        **_compare_tested(answers, tested, head),
    }


def _compare_tested(
    answers: Mapping[str, Answers], tested: Sequence[TestedClip], head: Callable[[str], Estimator]
) -> stats.WaysDocument:
    if not tested:
        return {"ways": {}, "comparisons": []}
    labels, speakers = [row.label for row in tested], [row.speaker for row in tested]
    by_way = {
        name: stats.confusion_by_cluster(labels, predicted, speakers)
        for name, predicted in _predict_tested(answers, tested, head).items()
    }
    return stats.compare_ways(by_way, "torch")


def _predict_tested(
    answers: Mapping[str, Answers], tested: Sequence[TestedClip], head: Callable[[str], Estimator]
) -> dict[str, list[str]]:
    """The class that each way gives each tested row."""
    predicted = {name: [""] * len(tested) for name in answers}
    for fold in dict.fromkeys(row.fold for row in tested):
        estimator = head(fold)
        rows = [i for i, row in enumerate(tested) if row.fold == fold]
        for name, outputs in answers.items():
            best = estimator.predict_proba(outputs.embeddings[[tested[i].clip for i in rows]]).argmax(1)
            for i, label in zip(rows, estimator.classes_[best], strict=True):
                predicted[name][i] = str(label)
    return predicted


# ---------------------------------------------------------------- the certificate


def build_certificate(
    answers: Mapping[str, Answers], folds: TestFolds, limits: Mapping[str, Limits]
) -> AnswerComparisons:
    """torch, float and file compared, the limits that they were checked against, and which of them are exceeded.

    answers: of "torch", "float" and "file"; folds: as `score_test_folds` gives it; limits: of "float" and "file".
    """
    torch, plain, file = (answers[name] for name in ("torch", "float", "file"))
    clips = len(torch.probabilities)
    changes = {"float": compare_answers(plain, torch), "file": compare_answers(file, torch)}
    past = []
    for way, change in changes.items():
        past += list_past_limits(change, limits[way], clips, f"{way} against torch")
        past += list_past_ua(folds, way, limits[way])
    return {
        "clips": clips,
        "float_against_torch": changes["float"],
        "file_against_torch": changes["file"],
        "file_against_float": compare_answers(file, plain),
        "test_folds": folds,
        "limits": {
            way: {"mean_change": of.mean_change, "flips": of.flips, "ua_loss": of.ua_loss} for way, of in limits.items()
        },
        "past_limits": past,
    }


def list_past_limits(change: AnswerChanges, limits: Limits, clips: int, what: str) -> list[str]:
    """In words, each limit that a comparison exceeds; NaN exceeds every limit."""
    past = []
    if not change["mean_change"] <= limits.mean_change:
        past.append(
            f"{what}: probabilities change by {change['mean_change']:.4f} in the mean (limit {limits.mean_change:g})"
        )
    if not change["flips"] / clips <= limits.flips:
        past.append(f"{what}: {change['flips']} of {clips} labels flip (limit {limits.flips:.3g} of them)")
    return past


def list_past_ua(folds: TestFolds, way: str, limits: Limits) -> list[str]:
    """In words, the limit of the UA lost on test folds, where enough clips were tested and it is exceeded."""
    if not folds["judged"]:
        return []
    ours, torch = (folds["ways"][name]["ua"]["estimate"] or 0.0 for name in (way, "torch"))
    if torch - ours <= limits.ua_loss:
        return []
    return [f"{way} against torch: UA on test folds {ours:.4f} instead of {torch:.4f} (limit {limits.ua_loss:g} less)"]
