"""The tables of the bench: rows, floors and aims, and how they are printed."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypedDict, cast

from embedkit._version import __version__
from embedkit.bench._material import Size
from embedkit.errors import UserError, did_you_mean

TABLES = ("machine", "extraction", "heads", "growth", "startup")  # in the page's order


class RowDocument(TypedDict):
    """A `Row` in the output of `bench --json`."""

    what: str
    value: float | str
    unit: str
    floor: float | None
    aim: float | None
    most: bool
    low: float | None
    high: float | None
    note: str
    verdict: str


class TableDocument(TypedDict):
    """A table in the output of `bench --json`."""

    name: str
    title: str
    how: str
    rows: list[RowDocument]


class BenchDocument(TypedDict):
    """The output of `bench --json`."""

    embedkit: str  # version
    seconds: float  # that the whole bench took
    short: list[str]  # `what` of each row that has a verdict
    tables: list[TableDocument]


class RowFields(TypedDict, total=False):
    """What a row may have beside its figure; see `Row`."""

    unit: str
    floor: float
    aim: float
    most: bool
    note: str


@dataclass(frozen=True)
class Row:
    """One figure."""

    what: str
    value: float | str
    unit: str = ""
    floor: float | None = None  # that the value must reach
    aim: float | None = None  # that it should reach
    most: bool = False  # whether floor and aim are upper limits
    low: float | None = None  # lowest and highest of the repeats
    high: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """ "short of 5.5", "short of the aim 6.5", or "" where the value reaches both."""
        if isinstance(self.value, str):
            return ""
        for limit, name in ((self.floor, ""), (self.aim, "the aim ")):
            if limit is not None and (self.value > limit if self.most else self.value < limit):
                return f"short of {name}{limit:g}"
        return ""


class Table(Protocol):
    """What a module of this folder offers. It may also have `draw(rows: list[RowDocument], folder: Path)`."""

    TITLE: str
    HOW: str  # what is measured, and how

    def rows(self, size: Size) -> Iterator[Row]:
        """Measure: each row as soon as it is known."""
        ...


def run(
    only: Sequence[str] = (),
    size: Size | None = None,
    figures: Path | None = None,
    announce: Callable[[str], None] = print,
) -> BenchDocument:
    """Measure. only: names of tables (none: all); figures: a folder for pictures; announce: called with a line for each
    row as soon as it is known.

    Raises UserError for an unknown table or a folder that does not exist.
    """
    for name in only:
        if name not in TABLES:
            raise UserError(f"no table '{name}'{did_you_mean(name, TABLES)}")
    if figures and not figures.is_dir():
        raise UserError(f"{figures}: no such folder; make it, or give another")
    begin = time.perf_counter()
    tables: list[TableDocument] = []
    for name in (n for n in TABLES if not only or n in only):
        table = cast(Table, importlib.import_module(f"embedkit.bench.{name}"))
        rows: list[RowDocument] = []
        for row in table.rows(size or Size()):
            announce(f"{name}: {row.what}: {format_number(row.value)} {row.unit} {row.verdict}".rstrip())
            rows.append(cast(RowDocument, {**asdict(row), "verdict": row.verdict}))
        tables.append({"name": name, "title": table.TITLE, "how": table.HOW, "rows": rows})
        if figures and hasattr(table, "draw"):
            table.draw(rows, figures)
    short = [row["what"] for table in tables for row in table["rows"] if row["verdict"]]
    return {"embedkit": __version__, "seconds": time.perf_counter() - begin, "short": short, "tables": tables}


def format_page(document: BenchDocument) -> str:
    """The document as a page of Markdown tables."""
    lines = [f"# embedkit {document['embedkit']} bench, {document['seconds'] / 60:.1f} minutes"]
    for table in document["tables"]:
        lines += ["", f"## {table['title']}", "", table["how"], ""]
        head = ["", "here", "lowest to highest", "floor", "aim", ""]
        lines += _align_columns([head, *map(_format_cells, table["rows"])])
        notes = [f"- {row['what']}: {row['note']}" for row in table["rows"] if row["note"]]
        lines += ["", *notes] if notes else []
    short = document["short"]
    return "\n".join([*lines, "", f"Short of floor or aim: {', '.join(short) if short else 'nothing'}."])


def _format_cells(row: RowDocument) -> list[str]:
    low, high, sign = row["low"], row["high"], "<=" if row["most"] else ">="
    spread = "" if low is None or high is None else f"{format_number(low)} to {format_number(high)}"
    limits = ["" if limit is None else f"{sign} {format_number(limit)}" for limit in (row["floor"], row["aim"])]
    return [row["what"], f"{format_number(row['value'])} {row['unit']}".strip(), spread, *limits, row["verdict"]]


def _align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, every cell of a column as wide as the widest. rows[0]: the head."""
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in ruled
    ]


def format_number(value: float | str) -> str:
    """A number with three digits, or five where it is slightly below 1 (a cosine, a share); text as it is.

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
