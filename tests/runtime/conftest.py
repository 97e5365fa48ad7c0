"""A small exported file: the interface of a real one, with probabilities that can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runtime_fixtures import build, by_hand

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make(**changes): a file with another interface or other metadata."""
    return lambda **changes: build(tmp_path / "model.onnx", **changes)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole and valid file."""
    return build(tmp_path_factory.mktemp("exported") / "model.onnx")


@pytest.fixture(scope="session")
def hand() -> Callable[[np.ndarray], np.ndarray]:
    """The answers of the `exported` file, computed without onnxruntime."""
    return by_hand
