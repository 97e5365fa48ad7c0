"""The values that a head's parameters may have, checked before anything is trained, by public interfaces alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, clone


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds; `bounds` says which of the two belong to it, as mathematics does: "[0, 1)"."""

    low: float
    high: float = math.inf
    bounds: str = "[)"
    whole: bool = False  # integers only

    def holds(self, value: object) -> bool:
        """Whether the value is a number in this range. NaN is in none."""
        if not isinstance(value, Integral if self.whole else Real):
            return False
        number = float(value)
        above = number >= self.low if self.bounds[0] == "[" else number > self.low
        below = number <= self.high if self.bounds[1] == "]" else number < self.high
        return above and below

    def __str__(self) -> str:
        kind, low, high = "an int", self.low, self.high
        if not self.whole:
            kind, low, high = "a float", float(low), float(high)
        return f"{kind} in the range {self.bounds[0]}{low}, {high}{self.bounds[1]}"


Rule = Range | str | type | None  # a range, one word, any value of a type, or None itself


def check_parameters(estimator: BaseEstimator, rules: Mapping[str, Sequence[Rule]]) -> None:
    """Hold each parameter that has rules to them: it must meet one. ValueError, worded as scikit-learn's, for the
    first that meets none (a choice of words is listed more briefly)."""
    for name, allowed in rules.items():
        value = getattr(estimator, name)
        if not any(_meets_rule(value, rule) for rule in allowed):
            *others, last = map(_describe_rule, allowed)
            expected = f"{', '.join(others)} or {last}" if others else last
            raise ValueError(
                f"The {name!r} parameter of {type(estimator).__name__} must be {expected}. Got {value!r} instead."
            )


def _meets_rule(value: object, rule: Rule) -> bool:
    if isinstance(rule, Range):
        return rule.holds(value)
    if isinstance(rule, type):
        return isinstance(value, (bool, np.bool_) if rule is bool else rule)
    return value is None if rule is None else isinstance(value, str) and value == rule


def _describe_rule(rule: Rule) -> str:
    if isinstance(rule, type):
        return f"an instance of {rule.__name__!r}"
    return repr(rule) if isinstance(rule, str) else str(rule)


def check_library_parameters(estimator: BaseEstimator) -> None:
    """Raise the ValueError of scikit-learn's own `fit` for a parameter out of range, without fitting anything.

    `fit` looks at the parameters before it looks at the rows. So a copy of the estimator is given no rows: it then
    complains of a parameter, or that there are no rows. This takes about a millisecond.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the real fit gives them again
        try:
            clone(estimator).fit(np.empty((0, 1)), np.empty(0))
        except Exception as error:
            # scikit-learn's error for a parameter is a ValueError and a TypeError; others come of the missing rows.
            if isinstance(error, ValueError) and isinstance(error, TypeError):
                raise
