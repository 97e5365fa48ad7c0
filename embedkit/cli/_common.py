"""What the verbs share: adding one to the grammar, finding the workspace, printing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

Verb = Callable[[argparse.Namespace], Any]

SHOWN = 16  # entries of a table that are printed; --json has all


def add_verb(
    verbs: Any,
    name: str,
    call: Verb,
    text: str,
    show: Callable[[Any], str],
    failed: Callable[[Any], bool] = lambda _: False,
) -> argparse.ArgumentParser:
    p: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    p.add_argument("--json", action="store_true", help="one JSON document on stdout")
    p.set_defaults(verb=call, show=show, failed=failed)
    return p


def find_workspace(args: argparse.Namespace) -> Any:
    from embedkit.workspace import Workspace

    return Workspace.find(args.workspace)


def print_result(result: Any, args: argparse.Namespace) -> None:
    if args.json:
        if isinstance(result, dict):
            result.pop("table", None)
        print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(args.show(result))


def show_pairs(r: dict[str, Any]) -> str:
    def format_value(value: Any) -> str:
        if isinstance(value, dict):
            shown = ", ".join(f"{k} {v}" for k, v in list(value.items())[:SHOWN])
            return f"{shown}, ... ({len(value)} in all)" if len(value) > SHOWN else shown or "none"
        if isinstance(value, list):
            return "".join(f"\n  {v}" for v in value) if value else "none"
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    return "\n".join(f"{key}: {format_value(value)}" for key, value in r.items())


def show_rows(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "nothing yet; try: embedkit extract --corpus NAME"
    names = list(rows[0])
    table = [names, *([str(r[n]) for n in names] for r in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(names))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in table)


def format_error(error: Exception) -> str:
    return " ".join(str(error).split()) or "no message"
