"""Variance of scores over folds and seeds, and tests of two printed means or standard deviations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class VarianceComponents:
    """Variance of a score that is due to the fold, to the seed, and to the rest (their interaction, and noise)."""

    fold: float
    seed: float
    rest: float

    @property
    def shares(self) -> dict[str, float]:
        """The shares {fold, seed, rest} of the whole variance, 0..1; all 0 where nothing varies."""
        total = self.fold + self.seed + self.rest
        parts = {"fold": self.fold, "seed": self.seed, "rest": self.rest}
        return {name: part / total if total else 0.0 for name, part in parts.items()}


def estimate_components(scores: npt.ArrayLike) -> VarianceComponents:
    """Two-way random effects of scores [fold, seed], from the mean squares; estimates below 0 are 0.

    Raises ValueError for fewer than 2 folds or 2 seeds.
    """
    values = np.asarray(scores, float)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"expected scores [fold, seed], at least 2 x 2; got shape {values.shape}")
    folds, seeds = values.shape
    by_fold, by_seed = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    rest = float(((values - by_fold - by_seed + values.mean()) ** 2).sum() / ((folds - 1) * (seeds - 1)))
    fold = (seeds * float(np.var(by_fold, ddof=1)) - rest) / seeds
    seed = (folds * float(np.var(by_seed, ddof=1)) - rest) / folds
    return VarianceComponents(max(fold, 0.0), max(seed, 0.0), rest)


@dataclass(frozen=True)
class VarianceRatioTest:
    """An F test of two standard deviations; changes are relative to the first (-0.32: 32 % lower)."""

    sd_change: float
    variance_change: float
    f: float  # the larger variance over the smaller
    degrees: tuple[int, int]
    p: float  # two-sided

    def format_sentence(self, alpha: float = 0.05) -> str:
        """The change of the standard deviation and of the variance, and whether it is significant."""
        outcome = "not distinguishable" if self.p > alpha else "distinguishable"
        return (
            f"standard deviation {self.sd_change:+.0%}, variance {self.variance_change:+.0%}; "
            f"F({self.degrees[0]},{self.degrees[1]}) = {self.f:.2f}, p = {self.p:.2g}: {outcome}"
        )


def compare_variance(sd_a: float, n_a: int, sd_b: float, n_b: int) -> VarianceRatioTest:
    """F test of two standard deviations (ddof 1) over n values each, taken as normal and independent.

    >>> compare_variance(0.031, 5, 0.021, 5).format_sentence()
    'standard deviation -32%, variance -54%; F(4,4) = 2.18, p = 0.47: not distinguishable'

    Raises ValueError for a standard deviation of 0 or fewer than 2 values.
    """
    from scipy import special

    if min(sd_a, sd_b) <= 0 or min(n_a, n_b) < 2:
        raise ValueError(
            f"expected standard deviations above 0 of at least 2 values; got {sd_a}, {sd_b} of {n_a}, {n_b}"
        )
    (large, top), (small, bottom) = sorted([(sd_a, n_a - 1), (sd_b, n_b - 1)], reverse=True)
    f = (large / small) ** 2
    p = min(1.0, 2 * float(special.fdtrc(top, bottom, f)))
    return VarianceRatioTest(sd_b / sd_a - 1, (sd_b / sd_a) ** 2 - 1, f, (top, bottom), p)


@dataclass(frozen=True)
class WelchTest:
    """Welch's t test of two means; the difference is b - a."""

    difference: float
    t: float
    p: float  # two-sided


def welch_test(mean_a: float, sd_a: float, n_a: int, mean_b: float, sd_b: float, n_b: int) -> WelchTest:
    """Welch's t test of two means from printed figures (sd with ddof 1), for a paper that shows no more than these.

    It is not paired, and folds share training rows, so it is a rough guide; for our own results see `permutation_test`.
    Raises ValueError where neither side varies or has fewer than 2 values.
    """
    from scipy.stats import ttest_ind_from_stats

    if min(sd_a, sd_b) < 0 or sd_a == sd_b == 0 or min(n_a, n_b) < 2:
        raise ValueError(
            f"expected standard deviations above 0 of at least 2 values; got {sd_a}, {sd_b} of {n_a}, {n_b}"
        )
    test = ttest_ind_from_stats(mean_b, sd_b, n_b, mean_a, sd_a, n_a, equal_var=False)
    return WelchTest(mean_b - mean_a, float(test.statistic), float(test.pvalue))
