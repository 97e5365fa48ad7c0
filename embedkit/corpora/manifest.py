"""A manifest: a CSV file with the columns file, speaker and label, which describes any corpus.

Optional columns: session, text, dialogue, gender (female, male or empty), start and end (s, a part of the file),
valence, activation, dominance. UTF-8, commas, one utterance on each line; `file` is relative to the folder of the
CSV, with forward slashes, and must not lead out of it. A label that is the name of a class is that class.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from embedkit.classes import CLASSES
from embedkit.corpora._base import Utterance
from embedkit.errors import CorpusError, UserError, did_you_mean
from embedkit.workspace import resolve_inside

SOURCE = "yours: --corpus NAME --root FILE.csv, columns file,speaker,label and, if known, session and more"
LICENCE = "as its recordings"
LABELS = {name: [name] for name in CLASSES}

REQUIRED = ("file", "speaker", "label")
NUMBERS = ("start", "end", "valence", "activation", "dominance")
COLUMNS = (*REQUIRED, "session", "text", "dialogue", "gender", *NUMBERS)


def folder(root: Path) -> Path:
    """The folder that the CSV lies in."""
    if not root.is_file():
        raise CorpusError(f"{root}: a folder; expected a CSV file with the columns {', '.join(REQUIRED)}")
    return root.parent


def read(root: Path) -> Iterator[Utterance]:
    """Yield the utterance of every line, in order; its id is the file, with "#start-end" for a part of a file.

    Raises CorpusError with the number of the line for what is missing, unknown or impossible.
    """
    place = folder(root)
    with root.open(encoding="utf-8-sig", newline="") as lines:
        table = csv.DictReader(lines, restkey="", strict=True)
        try:
            _check_header(table.fieldnames or ())
            for row in table:
                yield _parse_utterance(place, row)
        except UserError as error:
            problem = str(error)
        except UnicodeDecodeError:
            problem = "not UTF-8 text; save the table as CSV (UTF-8)"
        except csv.Error as error:
            problem = f"not CSV: {error}; text with commas or quotes belongs in double quotes"
        else:
            return
        raise CorpusError(f"{root}, line {max(1, table.reader.line_num)}: {problem}")


def _check_header(columns: Sequence[str]) -> None:
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
        raise CorpusError(f"the header {columns[0]!r} is one column; separate columns by commas")
    for i, column in enumerate(columns):
        if column not in COLUMNS:
            raise CorpusError(f"unknown column '{column}'{did_you_mean(column, COLUMNS)}")
        if column in columns[:i]:
            raise CorpusError(f"column '{column}' is there twice")
    for column in REQUIRED:
        if column not in columns:
            raise CorpusError(f"no column '{column}'; a manifest has at least the columns {','.join(REQUIRED)}")


def _parse_utterance(place: Path, row: dict[str, str | list[str] | None]) -> Utterance:
    cells = {k: v.strip() for k, v in row.items() if isinstance(v, str)}
    if len(cells) < len(row) or "" in row:
        raise CorpusError("not as many cells as the header has columns; put text with commas in double quotes")
    for column, cell in cells.items():
        if not cell and column in REQUIRED:
            raise CorpusError(f"'{column}' is empty; every utterance has {', '.join(REQUIRED)}")
        if not cell.isprintable():
            raise CorpusError(f"{column} {cell!r} holds a control character")
    numbers = {column: _parse_number(column, cells.pop(column)) for column in NUMBERS if column in cells}
    start, end = numbers.get("start", math.nan), numbers.get("end", math.nan)
    if start < 0 or start >= end or end <= 0:
        raise CorpusError(f"start {start:g} s, end {end:g} s: expected 0 <= start < end")
    file = cells["file"] = _parse_file(place, cells["file"])
    cells["gender"] = _parse_gender(cells.get("gender", ""))
    return Utterance(id=file + _format_part(start, end), **cells, **numbers)  # type: ignore[arg-type]


def _parse_file(place: Path, name: str) -> str:
    if "\\" in name:
        raise CorpusError(f"file {name!r}: expected a path relative to the CSV's folder, with forward slashes")
    resolve_inside(place, name)
    return PurePosixPath(name).as_posix()


def _parse_number(column: str, cell: str) -> float:
    try:
        number = float(cell) if cell else math.nan
    except ValueError:
        number = math.inf
    if math.isinf(number):
        raise CorpusError(f"{column} '{cell}' is not a number; expected one such as 1.25, or nothing")
    return number


def _parse_gender(cell: str) -> str:
    known = {"": "", "f": "female", "m": "male", "female": "female", "male": "male"}
    if cell.lower() not in known:
        raise CorpusError(f"gender '{cell}': expected female, male or nothing")
    return known[cell.lower()]


def _format_part(start: float, end: float) -> str:
    """The end of an id for a part of a file: "#1.5-2" (s), "#1.5-" to the end of the file, "" for the whole file."""
    if math.isnan(start) and math.isnan(end):
        return ""
    return "#" + "-".join("" if math.isnan(t) else f"{t:.6f}".rstrip("0").rstrip(".") for t in (start, end))
