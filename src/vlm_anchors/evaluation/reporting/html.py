"""Tables as one self-contained HTML page: no script, no font, nothing fetched.

Every column is in sight on a screen of 1280 pixels: long names break at their signs, and a table of many columns goes on
below itself. On a phone rows become cards.
"""

import html
import re
from collections.abc import Sequence

from ..published import PublishedRow
from .columns import Column, caption, columns, head
from .table import Row, Table

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; font-size: .8rem; width: 100%; }
th, td { padding: .25rem .3rem; text-align: right; vertical-align: top; border-bottom: 1px solid #8884; overflow-wrap: normal; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; min-width: 6rem; }
td small { font-size: .72rem; }
td small { display: block; opacity: .75; white-space: nowrap; }
tr.theirs td { font-style: italic; opacity: .75; }
tr.ours + tr.theirs td { border-top: 2px solid #8888; }
figure { margin: .4rem 0; } figcaption { font-size: .9em; }
svg { display: block; max-width: 40rem; }
ul { margin: .3rem 0 2rem; padding-left: 1.2rem; font-size: .9em; opacity: .85; }
@media (max-width: 48rem) {
  thead { display: none; }
  table { font-size: .88rem; }
  table, tbody, tr, td, td:first-child { display: block; text-align: right; }
  tr { border-bottom: 2px solid #8888; padding: .4rem 0; }
  td:first-child { text-align: left; font-weight: bold; }
  td:empty { display: none; }
  td[data-head]::before { content: attr(data-head); float: left; opacity: .75; padding-right: 1rem; }
  td small { display: inline; margin-left: .4em; }
}
"""
LINE = 36  # of the picture: a label, and below it the dot
COLUMNS = 17  # of one table; more do not fit beside each other
BREAKS = re.compile(r"(?<=[_:,=+/])(?=\S)")
NAMES = ("method", "decoding")
"""Columns of words: they may break."""
MARKS = {"best": "<strong>{}</strong>", "second": "<u>{}</u>", "": "{}"}
THEIRS = (
    "<p>Rows in italics are <strong>published figures, not ours</strong>: printed in the papers named, on the models named, "
    "under protocols they may not state.</p>\n"
)


def page(made: Sequence[Table], title: str = "Results") -> str:
    """The whole page."""
    body = "\n".join(section(table) for table in made)
    printed = THEIRS if any(table.published for table in made) else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n{printed}{body}\n</body>\n</html>\n"
    )


def section(table: Table) -> str:
    """One table, its picture, and what to beware of."""
    blocks = "".join(_block(table, shown) for shown in _divided(columns(table)))
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in [*caption(table), *table.made_with])
    return f"<h2>{html.escape(table.title)}</h2>\n{picture(table)}\n{blocks}<ul>{notes}</ul>"


def _divided(shown: Sequence[Column]) -> list[list[Column]]:
    """The columns in blocks of about one length that fit the page, each of which begins with the method."""
    first, rest = shown[0], shown[1:]
    blocks = -(-len(rest) // (COLUMNS - 1))
    size = -(-len(rest) // blocks)
    return [[first, *rest[start : start + size]] for start in range(0, len(rest), size)]


def _block(table: Table, shown: Sequence[Column]) -> str:
    heads = "".join(f"<th>{_breakable(column.head)}</th>" for column in shown)
    rows = [_row(shown, place, "ours") for place in range(len(table.rows))]
    rows += [_row(shown, len(table.rows) + place, "theirs") for place in range(len(table.published))]
    return (
        f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{chr(10).join(rows)}\n'
        f"</tbody></table></div>\n"
    )


def _breakable(text: str) -> str:
    """Text that may break behind the signs of a SPEC or a name."""
    return "<wbr>".join(map(html.escape, BREAKS.split(text)))


def _row(shown: Sequence[Column], place: int, kind: str) -> str:
    cells = []
    for number, column in enumerate(shown):
        name = f' data-head="{html.escape(column.head)}"' if number else ""
        cells.append(f"<td{name}>{_cell(column, place)}</td>")
    return f'<tr class="{kind}">{"".join(cells)}</tr>'


def _cell(column: Column, place: int) -> str:
    written_as = _breakable if column.head in NAMES else html.escape
    if place >= len(column.ours):
        return written_as(column.theirs[place - len(column.ours)])
    detail = column.detail[place]
    written = MARKS[column.marks[place]].format(written_as(column.ours[place]))
    return f"{written}<small>{html.escape(detail)}</small>" if detail else written


def picture(table: Table) -> str:
    """The headline as dots with intervals, published figures as open dots; drawn as SVG, empty without numbers."""
    if not table.metrics:
        return ""
    metric = table.metrics[0]
    name = metric.name
    ours = [row for row in table.rows if row.cells[name].value is not None]
    printed = [row for row in table.published if name in row.values]
    marks = [_ours(row, name) for row in ours] + [_theirs(row, name) for row in printed]
    if not marks:
        return ""
    ends = [end for _, low, value, high, _ in marks for end in (low, value, high)]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    lines = [_mark(place, mark, low, span) for place, mark in enumerate(marks)]
    height = LINE * len(marks) + 20
    scale = (
        f'<text x="0" y="{height - 4}" font-size="11">{low:.1f}</text>'
        f'<text x="100%" y="{height - 4}" font-size="11" text-anchor="end">{high:.1f}</text>'
    )
    also = f" and {len(printed)} published rows" if printed else " rows"
    label = f"{table.title}: {name}, {len(ours)} measured{also}"
    return (
        f"<figure><figcaption>{html.escape(head(metric))}</figcaption>"
        f'<svg width="100%" height="{height}" role="img" aria-label="{html.escape(label)}" fill="currentColor">'
        f"{''.join(lines)}{scale}</svg></figure>"
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
    y = LINE * place + 12
    x0, x, x1 = (2 + 96 * (each - low) / span for each in (start, value, end))  # percent: letters keep their size
    fill = "currentColor" if ours else "none"
    short = label if len(label) <= 50 else label[:49] + "…"
    return (
        f'<text x="0" y="{y}" font-size="12">{html.escape(short)}</text>'
        f'<line x1="{x0:.1f}%" x2="{x1:.1f}%" y1="{y + 11}" y2="{y + 11}" stroke="currentColor"/>'
        f'<circle cx="{x:.1f}%" cy="{y + 11}" r="4" fill="{fill}" stroke="currentColor"/>'
    )
