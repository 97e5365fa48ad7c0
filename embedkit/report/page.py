"""A study's comparisons, its summary for a terminal, and its report in Markdown and as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embedkit import files
from embedkit.report import compare, figures, render, sections
from embedkit.report.document import (
    Comparison,
    PaperComparison,
    PaperDocument,
    Result,
    StudyDocument,
    read_validation_ua,
)
from embedkit.report.scores import build_speaker_tables

if TYPE_CHECKING:
    import pandas as pd


def compare_results(predictions: pd.DataFrame, results: Sequence[Result], metrics: Sequence[str]) -> list[Comparison]:
    """Every two results of a study that differ in one thing only, tested against each other; see `compare_pairs`."""
    validation_ua: dict[compare.Names, float] = {
        (r["arm"], str(r["layer"]), r["head"]): read_validation_ua(r) for r in results
    }
    return compare.compare_pairs(build_speaker_tables(predictions), validation_ua, metrics, ("arm", "layer", "head"))


def compare_with_paper(doc: StudyDocument, paper: PaperDocument | None) -> PaperComparison | None:
    """A paper's printed figures beside a study's, None without a paper; see `compare_paper_figures`."""
    return compare.compare_paper_figures(doc, paper) if paper else None


def format_summary(doc: StudyDocument) -> str:
    """A study as text for a terminal: what it is, its scores by arm, layer and head, F1 by class, and notes."""
    return render.render_text(sections.build_summary(doc))


def write_report(folder: Path, doc: StudyDocument, name: str = "results.json") -> None:
    """Write report.md, report.html, figures/ and, last, the document as JSON (`name`) in the study's folder.

    Each file is written as a whole or not at all.
    """
    drawn = figures.draw_figures(doc, folder / "figures")
    blocks = sections.build_report(doc, list(drawn))
    for file_name, text in (
        ("report.md", render.render_markdown(blocks)),
        ("report.html", render.render_html(blocks, drawn)),
        (name, json.dumps(doc, indent=2, ensure_ascii=False, allow_nan=False) + "\n"),
    ):
        files.write_text(folder / file_name, text)
