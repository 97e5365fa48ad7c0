"""Heads, heads/*.toml: a classifier on pooled features and its search space."""

from __future__ import annotations

from typing import Annotated, Literal, Self

# pydantic: checks types and ranges of a card and shows the offending value.
from pydantic import Field, model_validator

from embedkit.cards._reading import Card


class IntRange(Card):
    """A parameter that a search draws from whole numbers: low, low + step, ..., high; log: evenly in the logarithm."""

    type: Literal["int"]
    low: int
    high: int
    step: int = Field(1, ge=1)
    log: bool = False

    @model_validator(mode="after")
    def _check_bounds_order(self) -> Self:
        if self.log and self.step != 1:
            raise ValueError("log = true goes with step = 1 only")
        _check_order(self)
        return self


class FloatRange(Card):
    """A parameter that a search draws from low to high; log: evenly in the logarithm."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _check_bounds_order(self) -> Self:
        _check_order(self)
        return self


def _check_order(bounds: IntRange | FloatRange) -> None:
    if not bounds.low <= bounds.high or (bounds.log and bounds.low <= 0):
        least = "0 < low" if bounds.log else "low"
        raise ValueError(f"{least} <= high must hold, but got {bounds.low:g} and {bounds.high:g}")


class Choice(Card):
    """A parameter that a search draws from a list of values."""

    type: Literal["choice"]
    of: list[bool | int | float | str] = Field(min_length=1)


Space = Annotated[IntRange | FloatRange | Choice, Field(discriminator="type")]


class Head(Card):
    """A classifier on pooled features: its kind, fixed parameters and search space."""

    name: str = ""
    summary: str = ""
    kind: str  # the module of embedkit/heads/ that builds it
    # What it trains on: the clean view; one view drawn for each row and epoch (MLP only); or all views of a row, each
    # with weight 1/(1+K), where K is the number of augmented views.
    views: Literal["clean", "draw", "all"] = "clean"
    fixed: dict[str, object] = {}  # parameters of the estimator, by its own names
    search: dict[str, Space] = {}
