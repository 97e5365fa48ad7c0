"""The small exported file of the runtime's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime_fixtures import build


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole and valid file."""
    return build(tmp_path_factory.mktemp("exported") / "model.onnx")
