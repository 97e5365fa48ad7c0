"""Faces whose names are imported when they are first asked for, so that looking at a package loads nothing heavy."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

from embedkit.extras import explain_missing_package


def import_lazily(homes: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """A module's `__getattr__` and `__dir__` (PEP 562). homes: each name, and the module that defines it.

    Asking for a name raises MissingExtraError where its packages are not installed.
    """

    def get_attribute(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"no attribute '{name}'; there are {', '.join(sorted(homes))}")
        try:
            return getattr(importlib.import_module(homes[name]), name)
        except ModuleNotFoundError as error:
            raise explain_missing_package(error) from error

    return get_attribute, lambda: sorted(homes)
