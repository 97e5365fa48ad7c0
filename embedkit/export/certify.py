"""The certificate: torch against the float graph against the written file, on real clips, before the file is named.

"torch" is the ordinary path that trained the head: audio.prepare, encoder.pool, predict_proba. A graph gets the same
clips as they were decoded. Past the limits no file is left behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.errors import ClipError, EmbedkitError
from embedkit.runtime.model import options

# The most that may change against torch: the mean change of a probability, and the share of clips whose label flips.
# A label flips where two classes are close to equal, so a handful of clips may, whatever the error.
LIMITS = {
    "float": {"mean_change": 0.002, "flips": 0.02},
    "size": {"mean_change": 0.05, "flips": 0.10},
    "speed": {"mean_change": 0.05, "flips": 0.10},
    "small": {"mean_change": 0.08, "flips": 0.15},
}

Wave = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating[Any]]
Answer = tuple[Floats, Floats]  # probabilities [class], embedding [dim]


@dataclass(frozen=True)
class Answers:
    """What one way says of every clip."""

    probabilities: Floats  # [clip, class]
    embeddings: Floats  # [clip, dim]


def from_file(model: bytes) -> Callable[[Wave], Answer]:
    """A file's bytes as a function of one clip's raw samples, under the runtime's own settings."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, options(), providers=["CPUExecutionProvider"])

    def answer(wave: Wave) -> Answer:
        feeds = {"signal": wave[None], "lengths": np.array([len(wave)], np.int64)}
        probabilities, embedding = session.run(["probabilities", "embedding"], feeds)
        return probabilities[0], embedding[0]

    return answer


def answered(ways: dict[str, Callable[[Wave], Answer]], waves: Iterable[Wave]) -> dict[str, Answers]:
    """Every way's answers on every clip; a clip that the ordinary path refuses (ClipError) is left out for all."""
    rows: dict[str, list[Answer]] = {name: [] for name in ways}
    for wave in waves:
        try:
            answers = {name: way(wave) for name, way in ways.items()}
        except ClipError:
            continue
        for name, answer in answers.items():
            rows[name].append(answer)
    return {name: Answers(*(np.array(part) for part in zip(*each, strict=True))) for name, each in rows.items() if each}


def compared(ours: Answers, reference: Answers) -> dict[str, Any]:
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
        "flips_interval": wilson(flips, len(change)),
        "embedding_z": float((moved[varies] / deviation[varies]).mean()) if varies.any() else 0.0,
    }


def wilson(hits: int, count: int, z: float = 1.959964) -> list[float]:
    """Wilson's 95 % interval of a share (Wilson 1927).

    >>> [round(x, 3) for x in wilson(0, 64)]
    [0.0, 0.057]
    """
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def certificate(answers: dict[str, Answers], profile: str) -> dict[str, Any]:
    """torch, float and file compared, with the limits that they were held to.

    answers: by "torch", "float" and "file". Raises EmbedkitError past the limits, or where no clip was answered.
    """
    if not answers:
        raise EmbedkitError(
            "no clip of the study's corpus could be read, so nothing is certified; see `embedkit corpora`"
        )
    torch, plain, file = (answers[name] for name in ("torch", "float", "file"))
    found = {
        "float_against_torch": compared(plain, torch),
        "file_against_torch": compared(file, torch),
        "file_against_float": compared(file, plain),
    }
    clips = len(torch.probabilities)
    for name, limits in (("float_against_torch", LIMITS["float"]), ("file_against_torch", LIMITS[profile])):
        check(found[name], limits, clips, name.replace("_", " "))
    return {"clips": clips, **found, "limits": {"float": LIMITS["float"], profile: LIMITS[profile]}}


def check(found: dict[str, Any], limits: dict[str, float], clips: int, what: str) -> None:
    """EmbedkitError with the figures where a comparison is past its limits, or holds no number."""
    flips = found["flips"] / clips
    if not (found["mean_change"] <= limits["mean_change"] and flips <= limits["flips"]):
        raise EmbedkitError(
            f"{what}: probabilities change by {found['mean_change']:.4f} in the mean (at most"
            f" {limits['mean_change']} is allowed) and {found['flips']} of {clips} labels flip (at most"
            f" {limits['flips']:.0%}); no file is written: try another profile or head"
        )
