"""What the verbs share: adding one to the grammar, finding the workspace, printing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from embedkit.workspace import Workspace

Command: TypeAlias = Callable[[argparse.Namespace], int]  # runs a verb and prints its result; returns the exit code
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Result = TypeVar("Result")

SHOWN = 16  # entries of a table that are printed; --json has all


def add_verb(
    verbs: Verbs,
    name: str,
    call: Callable[[argparse.Namespace], Result],
    text: str,
    show: Callable[[Result], str],
    failed: Callable[[Result], bool] = lambda _: False,
) -> argparse.ArgumentParser:
    """Add a verb to the grammar, with --json as its only argument; returns its parser.

    call: does the work. show: the result as text. failed: whether a result means exit code 1. What the parser sets is
    `args.command`, a Command.
    """

    def run_command(args: argparse.Namespace) -> int:
        result = call(args)
        code = int(failed(result))
        print(format_json(result) if args.json else show(result))
        return code

    p = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    p.add_argument("--json", action="store_true", help="one JSON document on stdout")
    command: Command = run_command
    p.set_defaults(command=command)
    return p


def find_workspace(args: argparse.Namespace) -> Workspace:
    """The workspace of --workspace, or the nearest one upward. Raises UserError where there is none."""
    from embedkit.workspace import Workspace  # a third of the time of --help

    return Workspace.find(args.workspace)


def format_json(result: object) -> str:
    """A result as --json prints it: without the `table` of a study, which is text."""
    if isinstance(result, dict):
        result = {key: value for key, value in result.items() if key != "table"}
    return json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)


def show_pairs(pairs: Mapping[str, object]) -> str:
    """A result as lines of "key: value"."""
    return "\n".join(f"{key}: {_format_value(value)}" for key, value in pairs.items())


def _format_value(value: object) -> str:
    if isinstance(value, dict):
        shown = ", ".join(f"{k} {v}" for k, v in list(value.items())[:SHOWN])
        return f"{shown}, ... ({len(value)} in all)" if len(value) > SHOWN else shown or "none"
    if isinstance(value, list):
        return "".join(f"\n  {v}" for v in value) if value else "none"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def show_rows(rows: Sequence[Mapping[str, object]]) -> str:
    """Results of the same keys as a table with a header."""
    if not rows:
        return "nothing yet; try: embedkit extract --corpus NAME"
    names = list(rows[0])
    table = [names, *([str(r[n]) for n in names] for r in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(names))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in table)


def format_error(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split()) or "no message"
