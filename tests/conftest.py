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


# The files that take longest, in order, so that two processes end together; the others are short.
LONGEST = ("test_path.py", "test_series.py", "test_stitch.py", "test_assemble.py", "test_search.py", "test_cli.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
