"""Tables as one self-contained HTML page: no script, no font, nothing fetched."""

import html
from collections.abc import Sequence

from ..published import PublishedRow
from .tables import Row, Table
from .text import caption, cells, headings, theirs

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; white-space: normal; min-width: 6rem; max-width: 15rem; }
tr.theirs td { font-style: italic; opacity: .75; }
tr.theirs:first-of-type td { border-top: 2px solid #8888; }
svg { display: block; margin: .4rem 0; }
ul { margin: .3rem 0 2rem; padding-left: 1.2rem; font-size: .9em; opacity: .85; }
"""
WIDTH, LINE, LEFT = 640, 22, 230


def page(made: Sequence[Table], title: str = "Results") -> str:
    """The whole page."""
    body = "\n".join(section(table) for table in made)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n"
        f"<p>Rows in italics are <strong>published figures, not ours</strong>: printed in the papers named, on the models "
        f"named, under protocols they may not state.</p>\n{body}\n</body>\n</html>\n"
    )


def section(table: Table) -> str:
    """One table, its picture, and what to beware of."""
    rows = [_row("th", headings(table)), *(_row("td", cells(table, row)) for row in table.rows)]
    rows += [_row("td", theirs(table, row), "theirs") for row in table.published]
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in caption(table))
    return (
        f"<h2>{html.escape(table.title)}</h2>\n{picture(table)}\n"
        f'<div class="wide"><table>\n{chr(10).join(rows)}\n</table></div>\n<ul>{notes}</ul>'
    )


def _row(tag: str, values: Sequence[str], kind: str = "") -> str:
    inner = "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)
    return f'<tr class="{kind}">{inner}</tr>' if kind else f"<tr>{inner}</tr>"


def picture(table: Table) -> str:
    """The headline as dots with intervals, published figures as open dots; drawn as SVG, empty without numbers."""
    if not table.metrics:
        return ""
    name = table.metrics[0].name
    ours = [row for row in table.rows if row.cells[name].value is not None]
    printed = [row for row in table.published if name in row.values]
    marks = [_ours(row, name) for row in ours] + [_theirs(row, name) for row in printed]
    if not marks:
        return ""
    ends = [end for _, low, value, high, _ in marks for end in (low, value, high)]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    lines = [_mark(place, mark, low, span) for place, mark in enumerate(marks)]
    height = LINE * len(marks) + 24
    scale = (
        f'<text x="{LEFT}" y="{height - 4}" font-size="11">{low:.1f}</text>'
        f'<text x="{WIDTH}" y="{height - 4}" font-size="11" text-anchor="end">{high:.1f}</text>'
    )
    label = f"{table.title}: {name}, {len(ours)} measured and {len(printed)} published rows"
    return (
        f'<svg viewBox="0 0 {WIDTH + 10} {height}" width="{WIDTH + 10}" height="{height}" role="img" '
        f'aria-label="{html.escape(label)}" fill="currentColor">{"".join(lines)}{scale}</svg>'
    )


Mark = tuple[str, float, float, float, bool]


def _ours(row: Row, name: str) -> Mark:
    cell = row.cells[name]
    value = cell.value if cell.value is not None else 0.0
    label = row.method if row.decoding == "greedy" else f"{row.method}, {row.decoding}"
    return label, value if cell.low is None else cell.low, value, value if cell.high is None else cell.high, True


def _theirs(row: PublishedRow, name: str) -> Mark:
    value = row.values[name]
    return f"theirs: {row.method}, {row.model}", value, value, value, False


def _mark(place: int, mark: Mark, low: float, span: float) -> str:
    label, start, value, end, ours = mark
    y = LINE * place + 14
    x0, x, x1 = (LEFT + (each - low) / span * (WIDTH - LEFT) for each in (start, value, end))
    fill = "currentColor" if ours else "none"
    short = label if len(label) <= 36 else label[:35] + "…"
    return (
        f'<text x="0" y="{y + 4}" font-size="12">{html.escape(short)}</text>'
        f'<line x1="{x0:.1f}" x2="{x1:.1f}" y1="{y}" y2="{y}" stroke="currentColor"/>'
        f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{fill}" stroke="currentColor"/>'
    )
