"""Sections as plain text, as Markdown, and as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape

from embedkit.report.blocks import Block, Bullets, Heading, Picture, Table


def render_text(blocks: Sequence[Block]) -> str:
    """Blocks for a terminal: without pictures, tables between empty lines."""
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Table):
            lines += ["", align_grid(block.rows), ""]
        elif isinstance(block, Bullets):
            lines += [f"note: {line}" for line in block.lines]
        elif not isinstance(block, Picture):
            lines.append(block.text)
    return re.sub("\n\n\n+", "\n\n", "\n".join(lines)).strip("\n")


def render_markdown(blocks: Sequence[Block]) -> str:
    """Blocks as Markdown; pictures link to figures/<name>.svg."""
    return "\n\n".join(_render_markdown_block(block) for block in blocks) + "\n"


def _render_markdown_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Table):
        return align_grid([[cell.replace("|", "\\|") for cell in row] for row in block.rows], "|")
    if isinstance(block, Bullets):
        return "\n".join(f"- {line}" for line in block.lines)
    if isinstance(block, Picture):
        return f"![{block.caption}](figures/{block.name}.svg)\n\n*{block.caption}*"
    return block.text


def align_grid(rows: Sequence[Sequence[str]], bar: str = "") -> str:
    """Rows with aligned columns, the header first; with bar = "|" as a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    if not bar:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---------------------------------------------------------------- HTML

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: #fff; color: #1c2530;
         font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }}
  h1 {{ margin: 0 0 .5rem; font-size: 1.9rem; line-height: 1.2; }}
  h2 {{ margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 1px solid #dde3ea; font-size: 1.25rem; }}
  p, li {{ max-width: 48rem; }}
  nav ul {{ display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: 1rem 0 0; padding: 0; list-style: none; }}
  a {{ color: #1f5fa8; }}
  .wide {{ overflow-x: auto; }}
  table {{ border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }}
  th, td {{ padding: .4rem .9rem .4rem 0; border-bottom: 1px solid #e8ecf1; text-align: left; vertical-align: top;
           white-space: nowrap; }}
  td.words {{ white-space: normal; min-width: 12rem; }}
  td small {{ color: #4a5868; font-size: .8125rem; }}
  thead th {{ border-bottom: 2px solid #aab6c3; color: #4a5868; font-weight: 600; }}
  tbody th {{ font-weight: 600; }}
  tbody tr:hover {{ background: #f5f8fb; }}
  figure {{ margin: 1.5rem 0; }}
  figure img {{ max-width: 100%; height: auto; }}
  figcaption {{ max-width: 48rem; color: #4a5868; font-size: .875rem; }}
  @media print {{ nav {{ display: none; }} h2, figure {{ break-inside: avoid; }} }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def render_html(blocks: Sequence[Block], pictures: Mapping[str, bytes]) -> str:
    """Blocks as one HTML page with everything in it; pictures: each one's SVG by its name."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    parts = [_render_html_block(block, pictures) for block in blocks]
    chapters = [block.text for block in blocks if isinstance(block, Heading) and block.level == 2]
    links = "".join(f'<li><a href="#{_make_anchor(chapter)}">{escape(chapter)}</a></li>' for chapter in chapters)
    first = next((i for i, block in enumerate(blocks) if isinstance(block, Heading) and block.level == 2), len(parts))
    parts.insert(first, f'<nav aria-label="Sections"><ul>{links}</ul></nav>')
    return _PAGE.format(title=escape(title), body="\n".join(parts))


def _render_html_block(block: Block, pictures: Mapping[str, bytes]) -> str:
    if isinstance(block, Heading):
        return f'<h{block.level} id="{_make_anchor(block.text)}">{escape(block.text)}</h{block.level}>'
    if isinstance(block, Table):
        return _render_html_table(block.rows)
    if isinstance(block, Bullets):
        return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in block.lines)}</ul>"
    if isinstance(block, Picture):
        data = base64.b64encode(pictures[block.name]).decode()
        caption = escape(block.caption)
        return (
            f'<figure><img alt="{caption}" src="data:image/svg+xml;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f"<p>{escape(block.text)}</p>"


def _render_html_table(rows: Sequence[Sequence[str]]) -> str:
    def render_row(cells: Sequence[str]) -> str:
        return f'<tr><th scope="row">{escape(cells[0])}</th>{"".join(map(_render_html_cell, cells[1:]))}</tr>'

    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = "".join(map(render_row, rows[1:]))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _render_html_cell(text: str) -> str:
    """A table's cell: the interval of a score stands under it, and only long texts wrap."""
    if score := re.fullmatch(r"(0\.\d+|1\.0+)( ± [\d.]+)? (\(.+\))", text):
        return f"<td>{score[1]}{score[2] or ''}<br><small>{escape(score[3])}</small></td>"
    return f'<td class="words">{escape(text)}</td>' if len(text) > 40 else f"<td>{escape(text)}</td>"


def _make_anchor(heading: str) -> str:
    """The id of a heading, for links.

    >>> _make_anchor("Recall and precision")
    'recall-and-precision'
    """
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
