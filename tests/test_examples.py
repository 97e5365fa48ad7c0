"""The examples in docstrings are true: each module's doctests run."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import embedkit

PACKAGE = Path(embedkit.__file__).parent
MODULES = [
    ".".join(("embedkit", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py" and ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name: str) -> None:
    assert not doctest.testmod(importlib.import_module(name)).failed


def test_there_are_examples() -> None:
    assert {"embedkit.errors", "embedkit.study.folds"} <= set(MODULES)
