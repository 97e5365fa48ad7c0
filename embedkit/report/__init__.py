"""From predictions to figures: the results that JSON shows, tables in text, a report in Markdown and as one page.

Everything is derived from a study's record (predictions.parquet) and from what the study says of itself (its document):

    scores.py    record -> results: scores, intervals, calibration
    compare.py   results against each other and against the paper's printed figures
    sections.py  document -> sections: headings, paragraphs, tables, pictures
    figures.py   document -> pictures
    render.py    sections -> text, Markdown, HTML
"""

from __future__ import annotations

from embedkit.report.blocks import Block, Bullets, Heading, Table, Text
from embedkit.report.page import compare_results, compare_with_paper, format_summary, write_report

__all__ = [
    "Block",
    "Bullets",
    "Heading",
    "Table",
    "Text",
    "compare_results",
    "compare_with_paper",
    "format_summary",
    "write_report",
]
