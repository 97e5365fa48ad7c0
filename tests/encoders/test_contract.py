"""What every encoder of embedkit/encoders/ promises; a new family joins by itself, and asks for a tiny checkpoint.

Exported files, which are of no `model_type`, are tested in tests/export/test_refit.py. Export is not among the promises
(`Family`): tests/export/test_graph.py holds the families that have it to theirs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from encoders_fixtures import find_maker, noise, own_frames, pooled

from embedkit import encoders
from embedkit.encoders._registry import families
from embedkit.errors import ClipError

torch.set_num_threads(1)

MODEL_TYPES = {model_type: name for name, family in families().items() for model_type in family.MODEL_TYPES}
LENGTHS = (16_000, 5_000, 12_345)  # samples


@pytest.fixture(scope="module", params=MODEL_TYPES)
def model_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(model_type: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights."""
    return find_maker(model_type)(tmp_path_factory.mktemp(model_type))


@pytest.fixture(scope="module")
def spec(folder: Path) -> encoders.Spec:
    return encoders.resolve(str(folder))


@pytest.fixture(scope="module")
def encoder(spec: encoders.Spec) -> encoders.Encoder:
    return encoders.load(spec)


def test_resolve(model_type: str, spec: encoders.Spec, encoder: encoders.Encoder) -> None:
    """The family that reads it, the number of weights, and the geometry that `pool` has."""
    assert spec.family == MODEL_TYPES[model_type]
    assert spec.layers > 0 and spec.dim > 0 and spec.parameters > 0
    assert encoder.pool(noise(8_000)).shape == (spec.layers, 2, spec.dim)


def test_pool(encoder: encoders.Encoder) -> None:
    """Finite, float32, and the same bits again, whatever clip came before."""
    waves = [noise(n, n) for n in LENGTHS]
    first = [encoder.pool(wave) for wave in waves]
    assert all(features.dtype == np.float32 and np.isfinite(features).all() for features in first)
    assert (encoder.pool(waves[-1]) == first[-1]).all()
    for wave, features in zip(waves, first, strict=True):
        assert (encoder.pool(wave) == features).all()


@pytest.mark.parametrize("samples", LENGTHS)
def test_equals_transformers(samples: int, folder: Path, encoder: encoders.Encoder) -> None:
    """Every hidden state of transformers' own model, pooled over the clip's own frames, to 1e-4."""
    wave = noise(samples, samples) + np.float32(0.3)  # an offset, which some extractors take out
    np.testing.assert_allclose(encoder.pool(wave), pooled(own_frames(folder, wave)), atol=1e-4)


def test_a_batch_equals_its_clips(encoder: encoders.Encoder) -> None:
    """`pool_many` is `pool` of each clip, to 1e-5, whatever is beside it."""
    waves = [noise(n, n) for n in LENGTHS]
    for one, many in zip(map(encoder.pool, waves), encoder.pool_many(waves), strict=True):
        np.testing.assert_allclose(many, one, atol=1e-5)


@pytest.mark.parametrize("samples", [0, 1])
def test_a_clip_shorter_than_a_frame(samples: int, encoder: encoders.Encoder) -> None:
    """Refused in one line, even where it would be padded."""
    with pytest.raises(ClipError, match="shorter than one frame") as error:
        encoder.pool(noise(samples), pad_to=16_000)
    assert "\n" not in str(error.value)


def test_pad_to(encoder: encoders.Encoder) -> None:
    """Zeros up to a length that the clip already has change nothing; beyond it they count as the clip's own."""
    wave = noise(12_345)
    assert (encoder.pool(wave, pad_to=8_000) == encoder.pool(wave)).all()
    assert not np.allclose(encoder.pool(wave, pad_to=24_000), encoder.pool(wave))


def test_bf16_is_close(spec: encoders.Spec, encoder: encoders.Encoder) -> None:
    """Cosine of each layer's mean and deviation to those of fp32: at least 0.999."""
    fast = encoders.load(spec, "bf16")
    for wave in (noise(n, n) for n in LENGTHS):
        a, b = encoder.pool(wave), fast.pool(wave)
        assert b.dtype == np.float32
        assert ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).min() >= 0.999
