"""Fixtures that several rooms share; none needs a network."""

from __future__ import annotations

import os
from pathlib import Path

# Two test processes with a thread each do more than two that fight over both cores. Before numpy and torch load.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings and weights beside the checkout; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real recordings and weights at {SHARED}")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that the other process has the rest to do meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_path.py")
