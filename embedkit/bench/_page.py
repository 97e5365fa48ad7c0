"""The tables of the bench: rows, floors and aims, and how they are printed."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from embedkit import __version__
from embedkit.bench._material import Size
from embedkit.errors import UserError, did_you_mean

TABLES = ("machine", "extraction", "heads", "growth", "startup")  # in the page's order


@dataclass(frozen=True)
class Row:
    """One figure. floor: what it must reach, aim: what it should; at least, or at most where `most`."""

    what: str
    value: float | str
    unit: str = ""
    floor: float | None = None
    aim: float | None = None
    most: bool = False
    low: float | None = None  # of the repeats
    high: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """ "short of 5.5", "short of the aim 6.5", or "" where there is nothing to complain of."""
        if isinstance(self.value, str):
            return ""
        for limit, name in ((self.floor, ""), (self.aim, "the aim ")):
            if limit is not None and (self.value > limit if self.most else self.value < limit):
                return f"short of {name}{limit:g}"
        return ""


class Table(Protocol):
    """What a module of this folder offers."""

    TITLE: str
    HOW: str  # of what, and how it is measured

    def rows(self, size: Size) -> Iterator[Row]: ...


def run(
    only: Sequence[str] = (),
    size: Size | None = None,
    figures: Path | None = None,
    announce: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure. only: names of tables; figures: a folder for pictures; announce is told each row as it is known.

    Returns {embedkit, seconds, short: [what], tables: [{name, title, how, rows: [{what, value, unit, floor, aim, most,
    low, high, note, verdict}]}]}. Raises UserError for an unknown table or a folder that is not there.
    """
    for name in only:
        if name not in TABLES:
            raise UserError(f"no table '{name}'{did_you_mean(name, TABLES)}")
    if figures and not figures.is_dir():
        raise UserError(f"{figures}: no such folder; make it, or give another")
    begin = time.perf_counter()
    tables: list[dict[str, Any]] = []
    for name in (n for n in TABLES if not only or n in only):
        table = cast(Table, importlib.import_module(f"{__name__}.{name}"))
        rows = []
        for row in table.rows(size or Size()):
            announce(f"{name}: {row.what}: {format_number(row.value)} {row.unit} {row.verdict}".rstrip())
            rows.append({**asdict(row), "verdict": row.verdict})
        tables.append({"name": name, "title": table.TITLE, "how": table.HOW, "rows": rows})
        if figures and hasattr(table, "draw"):
            table.draw(rows, figures)
    short = [str(row["what"]) for table in tables for row in table["rows"] if row["verdict"]]
    return {"embedkit": __version__, "seconds": time.perf_counter() - begin, "short": short, "tables": tables}


def format_page(document: Mapping[str, Any]) -> str:
    """The page: a Markdown table for each of the document's."""
    lines = [f"# embedkit {document['embedkit']} bench, {document['seconds'] / 60:.1f} minutes"]
    for table in document["tables"]:
        lines += ["", f"## {table['title']}", "", table["how"], ""]
        head = ["", "here", "lowest to highest", "floor", "aim", ""]
        lines += _align_columns([head, *map(_format_cells, table["rows"])])
        notes = [f"- {row['what']}: {row['note']}" for row in table["rows"] if row["note"]]
        lines += ["", *notes] if notes else []
    short = document["short"]
    return "\n".join([*lines, "", f"Short of floor or aim: {', '.join(short) if short else 'nothing'}."])


def _format_cells(row: Mapping[str, Any]) -> list[str]:
    spread = "" if row["low"] is None else f"{format_number(row['low'])} to {format_number(row['high'])}"
    limits = [
        "" if row[k] is None else f"{'<=' if row['most'] else '>='} {format_number(row[k])}" for k in ("floor", "aim")
    ]
    return [row["what"], f"{format_number(row['value'])} {row['unit']}".strip(), spread, *limits, row["verdict"]]


def _align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a Markdown table, the first one its head, columns of one width."""
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in ruled
    ]


def format_number(value: float | str) -> str:
    """Three digits, five where a number is near 1 from below (a cosine, a share).

    >>> [format_number(x) for x in (5.678, 0.99991, 123.4, 12345.6, "AVX2")]
    ['5.68', '0.99991', '123', '12,346', 'AVX2']
    """
    if isinstance(value, str):
        return value
    if 0.999 <= value < 1:
        return f"{value:.5f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
