"""The command line: parse, call, print. What a verb needs is imported only when it runs."""

from __future__ import annotations

from embedkit.cli.main import run

__all__ = ["run"]
