"""From predictions to reports: results as JSON, tables in text, a report in Markdown and as one HTML page.

Everything is derived from a study's predictions (predictions.parquet) and from its document (results.json):

    document.py  the types of results.json and series.json
    scores.py    predictions -> results: scores, intervals, calibration
    compare.py   results against each other and against a paper's printed figures
    sections.py  document -> sections: headings, paragraphs, tables, pictures
    figures.py   document -> pictures
    render.py    sections -> text, Markdown, HTML
    page.py      the report's files
"""

from __future__ import annotations

from embedkit.report.blocks import Block, Bullets, Heading, Table, Text
from embedkit.report.document import Comparison, FoldValues, Metric, Result, SearchEntry, StudyDocument
from embedkit.report.page import compare_results, compare_with_paper, format_summary, write_report

__all__ = [
    "Block",
    "Bullets",
    "Comparison",
    "FoldValues",
    "Heading",
    "Metric",
    "Result",
    "SearchEntry",
    "StudyDocument",
    "Table",
    "Text",
    "compare_results",
    "compare_with_paper",
    "format_summary",
    "write_report",
]
