"""Tables as text: for a terminal (rich) and as Markdown. Every number carries its interval, every difference its p."""

import io
from collections.abc import Sequence

from ..benchmarks.base import Metric
from ..published import PublishedRow
from .tables import Cell, Row, Table

ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}


def head(metric: Metric) -> str:
    """A metric's column head: unit and which way is better."""
    unit = "" if metric.unit == "points" else " %"
    return f"{metric.name}{unit} {ARROWS[metric.better]}".strip()


def number(value: float | None) -> str:
    """Two decimals; a dash where undefined."""
    return "–" if value is None else f"{value:.2f}"


def shown(cell: Cell) -> str:
    """`86.99 [85.1, 88.6]`, with ± over seeds where there are several."""
    text = number(cell.value)
    if cell.deviation is not None:
        text += f" ± {cell.deviation:.2f}"
    if cell.low is not None and cell.high is not None:
        text += f" [{cell.low:.1f}, {cell.high:.1f}]"
    return text


def change(cell: Cell) -> str:
    """`+1.20 [0.3, 2.1] p=0.010`, McNemar's p where it applies; empty without a comparison."""
    gap = cell.difference
    if gap is None:
        return ""
    text = f"{gap.value:+.2f}"
    if gap.interval is not None:
        text += f" [{gap.interval.low:+.1f}, {gap.interval.high:+.1f}]"
    if gap.p is not None:
        text += f" {p_value(gap.p)}"
    return text


def p_value(p: float, name: str = "p") -> str:
    return f"{name}<0.001" if p < 0.001 else f"{name}={p:.3f}"


def mcnemar(row: Row) -> str:
    """McNemar's exact p with the questions won and lost."""
    gap = next((cell.difference for cell in row.cells.values() if cell.difference is not None), None)
    if gap is None or gap.mcnemar is None:
        return ""
    return f"{p_value(gap.mcnemar)} (+{gap.won} −{gap.lost} of {gap.n})"


def headings(table: Table) -> list[str]:
    compared = any(cell.difference for row in table.rows for cell in row.cells.values())
    extra = [f"{table.metrics[0].name} against {table.against}", "McNemar"] if compared and table.metrics else []
    return ["method", "decoding", "n", "unread", *map(head, table.metrics), *extra, "s/answer"]


def cells(table: Table, row: Row) -> list[str]:
    """One row of text, in the order of `headings`."""
    seeds = f" ({len(row.seeds)} seeds)" if len(row.seeds) > 1 else ""
    values = [shown(row.cells[metric.name]) for metric in table.metrics]
    compared = len(headings(table)) > 5 + len(table.metrics)
    extra = [change(row.cells[table.metrics[0].name]), mcnemar(row)] if compared else []
    seconds = "" if row.seconds is None else f"{row.seconds:.3f}"
    return [row.method, row.decoding + seeds, str(row.n), f"{100 * row.unread:.1f} %", *values, *extra, seconds]


def theirs(table: Table, row: PublishedRow) -> list[str]:
    """A published row under our columns; no interval, since the papers print none."""
    values = [number(row.values[metric.name]) if metric.name in row.values else "" for metric in table.metrics]
    blanks = [""] * (len(headings(table)) - 4 - len(values))
    return [f"{row.method} — theirs", f"{row.model}, arXiv {row.arxiv}, {row.table}", "", "", *values, *blanks]


def caption(table: Table) -> list[str]:
    """What was measured, how, and what to beware of."""
    lines = [
        f"version {table.version}; {table.remark}" if table.remark else f"version {table.version}",
        f"protocol {table.protocol}",
        "brackets: 95 % of bootstrap draws by image; p: two-sided, same draws; McNemar: exact, by question",
        *table.notes,
    ]
    notes = dict.fromkeys(note for row in table.published for note in row.notes)
    return [*lines, *(f"theirs: {note}" for note in notes)]


def markdown(made: Sequence[Table]) -> str:
    """All tables as Markdown."""
    blocks = []
    for table in made:
        lines = [f"### {table.title}", "", _line(headings(table)), _line(["---"] * len(headings(table)))]
        lines += [_line(cells(table, row)) for row in table.rows]
        lines += [_line([f"*{text}*" if text else "" for text in theirs(table, row)]) for row in table.published]
        blocks.append("\n".join([*lines, "", *(f"- {text}" for text in map(_safe, caption(table)))]))
    return "\n\n".join(blocks) + "\n"


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(map(_safe, values))} |"


def terminal(made: Sequence[Table], width: int | None = None) -> str:
    """All tables for a terminal: a row a method. Columns that do not fit stand in further blocks below, methods again first."""
    from rich.console import Console
    from rich.table import Table as RichTable

    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, markup=False)
    for table in made:
        lines = [headings(table), *(cells(table, row) for row in table.rows)]
        lines += [theirs(table, row) for row in table.published]
        columns = list(zip(*lines, strict=True))
        for number, (first, *others) in enumerate(_blocks(columns, len(table.rows), console.width)):
            drawn = RichTable(title=f"{table.title} (continued)" if number else table.title, title_justify="left")
            drawn.add_column(first[0], overflow="fold")
            for column in others:
                drawn.add_column(column[0], justify="right", overflow="fold")
            for place, line in enumerate(list(zip(first, *others, strict=True))[1:]):
                if place < len(table.rows) or any(line[1:]):  # the papers print few of our columns
                    drawn.add_row(*line)
            console.print(drawn)
        for text in caption(table):
            console.print(f"  {text}", soft_wrap=True)
    return out.getvalue()


def _blocks(columns: Sequence[Sequence[str]], rows: int, width: int) -> list[list[Sequence[str]]]:
    """The columns in blocks that fit a terminal, the first column leading each. Text may fold, to a third of the width."""
    lead, *others = columns
    room = width - 1 - min(_drawn(lead), width // 3)
    wide = [_drawn(others[0][: 1 + rows]), *map(_drawn, others[1:])]  # where papers' figures are from may fold
    blocks: list[list[Sequence[str]]] = [[lead]]
    left = room
    for column, needed in zip(others, wide, strict=True):
        if needed > left and len(blocks[-1]) > 1:
            blocks.append([lead])
            left = room
        blocks[-1].append(column)
        left -= needed
    return blocks


def _drawn(column: Sequence[str]) -> int:
    """How wide a column stands: its longest text, a blank on both sides and a line."""
    return 3 + max(map(len, column))
