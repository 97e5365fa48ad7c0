"""The dicts that a predictor returns, as types; `predict --json` prints the same."""

from __future__ import annotations

from typing import TypeAlias, TypedDict, final


class Window(TypedDict):
    """A part of a recording that was classified as one clip: at most 8 s of sound, or of speech without its pauses."""

    start: float  # s, in the recording
    end: float
    probabilities: dict[str, float]  # of each class, 0..1


@final
class Prediction(TypedDict):
    """What a recording was classified as; label and probabilities are None where it holds no speech.

    probabilities: the mean of the windows', weighted by their seconds (of speech).
    """

    file: str
    label: str | None
    probabilities: dict[str, float] | None
    windows: list[Window]


@final
class FailedPrediction(TypedDict):
    """A recording that could not be used, and why. `if "error" in result` separates the two, for a type checker too."""

    file: str
    error: str


AnyPrediction: TypeAlias = Prediction | FailedPrediction
