"""Certificates: every figure against one worked out by hand or by scipy, and no way past the limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from embedkit.errors import ClipError, EmbedkitError
from embedkit.export import certify


def answers(probabilities: list[list[float]], embeddings: list[list[float]] | None = None) -> certify.Answers:
    return certify.Answers(np.array(probabilities), np.array(embeddings or [[0.0, 0.0]] * len(probabilities)))


def test_figures_are_those_of_a_small_example_by_hand() -> None:
    """Changes .1 .1 0 0 and .3 .3 0 0: largest .3, mean .1; one of two labels flips; z of the dimension that varies."""
    reference = answers([[0.5, 0.3, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1]], [[1.0, 5.0], [3.0, 5.0]])
    ours = answers([[0.6, 0.2, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1]], [[1.1, 5.0], [2.7, 5.0]])
    found = certify.compared(ours, reference)
    assert found["largest_change"] == pytest.approx(0.3)
    assert found["mean_change"] == pytest.approx(0.8 / 8)
    assert found["flips"] == 1
    assert found["embedding_z"] == pytest.approx(0.2 / 1.0)


@pytest.mark.parametrize(("hits", "count"), [(0, 64), (1, 64), (5, 9), (1000, 1000)])
def test_the_interval_of_flips_is_wilsons(hits: int, count: int) -> None:
    """Against scipy, to 1e-6."""
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    np.testing.assert_allclose(certify.wilson(hits, count), [expected.low, expected.high], atol=1e-6)


def test_a_clip_that_the_ordinary_path_refuses_counts_for_none() -> None:
    """Three clips, one of them silent: two answers of each way, in the order of the clips."""

    def torch(wave: np.ndarray) -> certify.Answer:
        if not wave.any():
            raise ClipError("silent")
        return np.full(4, wave[0]), wave[:2]

    waves = [np.full(3, value, np.float32) for value in (0.25, 0.0, 0.5)]
    found = certify.answered({"torch": torch, "float": lambda wave: (np.full(4, wave[0]), wave[:2])}, waves)
    for way in found.values():
        np.testing.assert_array_equal(way.probabilities[:, 0], [0.25, 0.5])
        assert way.embeddings.shape == (2, 2)


def three(file: list[list[float]], plain: list[list[float]] | None = None) -> dict[str, certify.Answers]:
    torch = [[0.7, 0.1, 0.1, 0.1]] * len(file)
    return {"torch": answers(torch), "float": answers(plain or torch), "file": answers(file)}


def test_within_the_limits_the_certificate_holds_all_three_comparisons() -> None:
    made = certify.certificate(three([[0.68, 0.12, 0.1, 0.1]] * 20), "size")
    assert made["clips"] == 20
    assert made["float_against_torch"]["mean_change"] == 0
    assert made["file_against_torch"]["mean_change"] == pytest.approx(0.01)
    assert made["file_against_float"]["mean_change"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("file", "plain", "what"),
    [
        ([[0.5, 0.3, 0.1, 0.1]] * 20, None, "file against torch"),  # every probability moves too far
        ([[0.7, 0.1, 0.1, 0.1]] * 17 + [[0.39, 0.4, 0.11, 0.1]] * 3, None, "file against torch"),  # 3 of 20 flip
        ([[math.nan] * 4] * 20, None, "file against torch"),
        ([[0.7, 0.1, 0.1, 0.1]] * 20, [[0.69, 0.11, 0.1, 0.1]] * 20, "float against torch"),
    ],
)
def test_past_the_limits_there_is_no_certificate(
    file: list[list[float]], plain: list[list[float]] | None, what: str
) -> None:
    """Exit code 1, in one line that names the comparison and says that no file is written."""
    with pytest.raises(EmbedkitError, match=f"^{what}: .* no file is written") as raised:
        certify.certificate(three(file, plain), "size")
    assert raised.value.exit_code == 1
    assert "\n" not in str(raised.value)


def test_without_clips_there_is_no_certificate() -> None:
    with pytest.raises(EmbedkitError, match="nothing is certified"):
        certify.certificate({}, "size")
