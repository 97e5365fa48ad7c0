"""From predictions to figures: the results that JSON shows, tables in text, a report in Markdown and as one page.

Everything is derived from a study's record (predictions.parquet) and from what the study says of itself (its document):

    scores.py    record -> results: scores, intervals, calibration
    compare.py   results against each other and against the paper's printed figures
    sections.py  document -> sections: headings, paragraphs, tables, pictures
    figures.py   document -> pictures
    render.py    sections -> text, Markdown, HTML
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit import files
from embedkit.report import compare
from embedkit.report.scores import build_speaker_tables

if TYPE_CHECKING:
    import pandas as pd


def compare_results(
    predictions: pd.DataFrame, results: Sequence[Mapping[str, Any]], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Every two results of a study that differ in one thing only, tested against each other; see compare.py."""
    validation_ua: dict[tuple[str, ...], float] = {
        (r["arm"], str(r["layer"]), r["head"]): r["validation_ua"]["mean"] for r in results
    }
    return compare.compare_pairs(build_speaker_tables(predictions), validation_ua, metrics, ("arm", "layer", "head"))


def compare_with_paper(doc: Mapping[str, Any], paper: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A paper's printed figures beside a document's; see compare.py."""
    return compare.compare_paper_figures(doc, paper) if paper else None


def format_summary(doc: dict[str, Any]) -> str:
    """A study's document as text: what it is, the scores by arm, layer and head, F1 by class, and what to know."""
    from embedkit.report import render, sections

    return render.render_text(sections.build_summary(doc))


def format_markdown(doc: dict[str, Any], pictures: Sequence[str] = ()) -> str:
    """The whole of it as a page: report.md. pictures: the names of those that were drawn."""
    from embedkit.report import render, sections

    return render.render_markdown(sections.build_report(doc, pictures))


def write_report(folder: Path, doc: dict[str, Any], name: str = "results.json") -> None:
    """report.md, report.html, figures/ and, last, the document as JSON in the study's folder; none is half there."""
    from embedkit.report import figures, render, sections

    drawn = figures.draw_figures(doc, folder / "figures")
    blocks = sections.build_report(doc, list(drawn))
    for file_name, text in (
        ("report.md", render.render_markdown(blocks)),
        ("report.html", render.render_html(blocks, drawn)),
        (name, json.dumps(doc, indent=2, ensure_ascii=False, allow_nan=False) + "\n"),
    ):
        files.write_text(folder / file_name, text)
