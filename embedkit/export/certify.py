"""The certificate: torch against the float graph against the written file, on real clips, before the file is named.

"torch" is the ordinary path that trained the head: audio.prepare, encoder.pool, predict_proba. A graph gets the same
clips as they were decoded. The limits stand in the study's card (`embedkit.cards.Certificate`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from embedkit import stats
from embedkit.cards import Limits
from embedkit.errors import ClipError, EmbedkitError
from embedkit.heads import Estimator
from embedkit.runtime.model import make_session_options

MIN_JUDGED_CLIPS = (
    200  # clips of test folds: of fewer, one clip is worth so much of UA that its limit would say nothing
)

Clip = TypeVar("Clip")
Wave = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating[Any]]
Answer = tuple[Floats, Floats]  # probabilities [class], embedding [dim]


@dataclass(frozen=True)
class Answers:
    """What one way says of every clip."""

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
    """Every way's answers, and the clips that they are on: those that neither `read` nor a way refuses (ClipError).

    jobs: threads, each of which takes one clip after the other; the ways must bear that.
    """
    from tqdm import tqdm

    def answer_clip(clip: Clip) -> dict[str, Answer] | None:
        try:
            wave = read(clip)
            return {name: way(wave) for name, way in ways.items()}
        except ClipError:
            return None

    pool = ThreadPoolExecutor(jobs)
    try:
        results = list(tqdm(pool.map(answer_clip, clips), total=len(clips), desc="certifying", disable=None))
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


def compare_answers(ours: Answers, reference: Answers) -> dict[str, Any]:
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


# ---------------------------------------------------------------- what it costs in the study's own terms


class TestedClip(NamedTuple):
    """A certified clip that a fold of the study was tested on."""

    clip: int  # its place among the answers
    fold: str
    speaker: str
    label: str


def score_test_folds(
    answers: Mapping[str, Answers], tested: Sequence[TestedClip], head: Callable[[str], Estimator]
) -> dict[str, Any]:
    """WA and UA of every way where the head of each clip's own fold, which has not heard it, judges its embedding.

    head: a fold's head by the fold's name. Returns {clips, left_out (that no fold was tested on), speakers, judged
    (whether they are enough for the limit of UA), ways: {way: {wa, ua}}, comparisons with torch}: 95 % intervals by
    speaker, paired permutation tests over speakers, Holm's p.
    """
    clips = len({row.clip for row in tested})
    left_out = len(answers["torch"].probabilities) - clips
    found: dict[str, Any] = {"clips": clips, "left_out": left_out, "speakers": len({row.speaker for row in tested})}
    found |= {"judged": clips >= MIN_JUDGED_CLIPS, "ways": {}, "comparisons": []}
    if not tested:
        return found
    labels, speakers = [row.label for row in tested], [row.speaker for row in tested]
    tables = {
        name: stats.confusion_by_cluster(labels, said, speakers)
        for name, said in _predict_tested(answers, tested, head).items()
    }
    found |= stats.compare_ways(tables, "torch")
    return found


def _predict_tested(
    answers: Mapping[str, Answers], tested: Sequence[TestedClip], head: Callable[[str], Estimator]
) -> dict[str, list[str]]:
    """Of every way the class that it gives each tested row."""
    predicted = {name: [""] * len(tested) for name in answers}
    for fold in dict.fromkeys(row.fold for row in tested):
        estimator = head(fold)
        rows = [i for i, row in enumerate(tested) if row.fold == fold]
        for name, outputs in answers.items():
            best = estimator.predict_proba(outputs.embeddings[[tested[i].clip for i in rows]]).argmax(1)
            for i, label in zip(rows, estimator.classes_[best], strict=True):
                predicted[name][i] = str(label)
    return predicted


# ---------------------------------------------------------------- the whole


def build_certificate(
    answers: Mapping[str, Answers], folds: Mapping[str, Any], limits: Mapping[str, Limits]
) -> dict[str, Any]:
    """torch, float and file compared, the limits that they were held to, and where they are past them.

    answers: by "torch", "float" and "file"; folds: as `score_test_folds` gives it; limits: of "float" and "file".
    """
    torch, plain, file = (answers[name] for name in ("torch", "float", "file"))
    clips = len(torch.probabilities)
    found = {
        "float_against_torch": compare_answers(plain, torch),
        "file_against_torch": compare_answers(file, torch),
        "file_against_float": compare_answers(file, plain),
    }
    past = []
    for way in ("float", "file"):
        past += list_past_limits(found[f"{way}_against_torch"], limits[way], clips, f"{way} against torch")
        past += list_past_ua(folds, way, limits[way])
    applied_limits = {name: of.model_dump() for name, of in limits.items()}
    return {"clips": clips, **found, "test_folds": dict(folds), "limits": applied_limits, "past_limits": past}


def list_past_limits(found: Mapping[str, Any], limits: Limits, clips: int, what: str) -> list[str]:
    """What of a comparison is past its limits, or is no number, in words."""
    past = []
    if not found["mean_change"] <= limits.mean_change:
        past.append(
            f"{what}: probabilities change by {found['mean_change']:.4f} in the mean (limit {limits.mean_change:g})"
        )
    if not found["flips"] / clips <= limits.flips:
        past.append(f"{what}: {found['flips']} of {clips} labels flip (limit {limits.flips:.3g} of them)")
    return past


def list_past_ua(folds: Mapping[str, Any], way: str, limits: Limits) -> list[str]:
    """The same of the UA that is lost on test folds, where enough clips were judged."""
    if not folds["judged"]:
        return []
    ours, torch = (folds["ways"][name]["ua"]["estimate"] for name in (way, "torch"))
    if torch - ours <= limits.ua_loss:
        return []
    return [f"{way} against torch: UA on test folds {ours:.4f} instead of {torch:.4f} (limit {limits.ua_loss:g} less)"]
