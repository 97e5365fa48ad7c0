"""Augmented views: each step does what it says, and a view is the same bits wherever and whenever it is made."""

from __future__ import annotations

import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from embedkit import audio, augment
from embedkit.cards import Augment, Recipe, Sound

RECIPE = Recipe(name="exact")
OFF = {"gain_db": (0, 0), "noise": (0, 0), "semitones": (0, 0), "polarity": False, "p": 1.0}


def wave() -> np.ndarray:
    generator = np.random.default_rng(0)
    return (np.sin(np.arange(24_000) / 9) * 0.4 + generator.normal(0, 0.05, 24_000)).astype(np.float32)


def digests(names: list[str], count: int = 3) -> dict[str, list[str]]:
    """The views of some utterances, as digests; at module level, so that another process can run it."""
    return {name: [audio.digest(v) for v in augment.make_views(wave(), RECIPE, name, count)] for name in names}


def only(**steps: object) -> np.ndarray:
    """One view with these steps alone, always taken."""
    recipe = Recipe(augment=Augment.model_validate({**OFF, **steps}))
    return augment.make_views(wave(), recipe, "u", 1)[0]


NAMES = [f"Ses01F_impro01_F{i:03}" for i in range(24)]


def test_views_are_float32_of_the_same_length() -> None:
    result = augment.make_views(wave(), RECIPE, "u", 4)
    assert len(result) == 4
    assert {(v.dtype, v.shape) for v in result} == {(np.dtype(np.float32), wave().shape)}
    assert all(np.isfinite(v).all() for v in result)
    assert augment.make_views(wave(), RECIPE, "u", 0) == []


def test_the_order_and_the_number_of_views_change_nothing() -> None:
    there = digests(NAMES[:6])
    back = digests(NAMES[:6][::-1])
    more = digests(NAMES[:6], count=5)
    assert there == back == {name: views[:3] for name, views in more.items()}


def test_threads_change_nothing() -> None:
    """Without the lock most of these views differ: audiomentations draws from the global generators."""
    alone = digests(NAMES)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(digests, [[name] for name in NAMES]))
    assert {k: v for part in together for k, v in part.items()} == alone


def test_a_spawned_process_makes_the_same_views() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(digests, NAMES[:4]).result() == digests(NAMES[:4])


def test_views_differ_by_utterance_number_and_settings() -> None:
    assert len({d for views in digests(NAMES).values() for d in views}) > 0.9 * 3 * len(NAMES)  # some are all-off
    other = Recipe(augment=Augment(p=0.6))
    seeds = {augment.derive_seed(r, u, n) for r in (RECIPE, other) for u in ("a", "b") for n in (1, 2)}
    assert len(seeds) == 8


def test_the_seed_depends_on_what_shapes_a_view_alone() -> None:
    """Not on the recipe's name, its encoder, its precision or how many views it has; and not on the machine."""
    other = Recipe(name="mine", summary="x", encoder="openai/whisper-tiny", precision="bf16", views=1)
    assert augment.derive_seed(other, "u", 1) == augment.derive_seed(RECIPE, "u", 1) == 412_636_592
    assert augment.derive_seed(Recipe(sound=Sound(trim_db=30)), "u", 1) != augment.derive_seed(RECIPE, "u", 1)


def test_the_callers_random_states_stay() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = (random.random(), np.random.rand())  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    augment.make_views(wave(), RECIPE, "u", 4)
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002


def test_the_input_stays() -> None:
    given = wave()
    augment.make_views(given, Recipe(augment=Augment(p=1.0)), "u", 3)
    assert np.array_equal(given, wave())


def test_gain() -> None:
    """One factor for all samples, within the range; and no clipping."""
    ratio = only(gain_db=(-18, 6)) / wave()
    assert np.ptp(ratio) < 1e-5
    assert -18 <= 20 * np.log10(ratio.mean()) <= 6
    assert np.abs(only(gain_db=(20, 20))).max() == pytest.approx(10 * np.abs(wave()).max(), rel=1e-5)


def test_noise() -> None:
    """Gaussian with an sd within the range; 0 as the lower end works too."""
    noise = only(noise=(0.01, 0.01)) - wave()
    assert noise.std() == pytest.approx(0.01, rel=0.05)
    assert abs(noise.mean()) < 1e-3
    assert (only(noise=(0, 0.01)) - wave()).std() <= 0.0105


def test_pitch() -> None:
    """Two semitones up: the tone's peak in the spectrum moves by 2^(2/12), within 1 %."""

    def hz(x: np.ndarray) -> float:
        spectrum = np.abs(np.fft.rfft(x[4_000:20_000] * np.hanning(16_000)))
        return float(spectrum.argmax())

    assert hz(only(semitones=(2, 2))) / hz(wave()) == pytest.approx(2 ** (2 / 12), rel=0.01)


def test_polarity() -> None:
    assert np.array_equal(only(polarity=True), -wave())


def test_everything_off() -> None:
    assert np.array_equal(only(), wave())


def test_probability() -> None:
    """With p = 0.5 about half of 400 views are inverted: within five standard deviations of the binomial."""
    recipe = Recipe(augment=Augment.model_validate({**OFF, "polarity": True, "p": 0.5}))
    inverted = sum(not np.array_equal(v, wave()) for v in augment.make_views(wave(), recipe, "u", 400))
    assert 150 < inverted < 250
