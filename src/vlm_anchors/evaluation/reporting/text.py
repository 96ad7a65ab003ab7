"""Tables as text: for a terminal (rich) and as Markdown. Every number carries its interval, every difference its p."""

import io
from collections.abc import Sequence
from pathlib import Path

from ...errors import BadSetting
from .columns import caption, columns
from .table import Table
from .tables import tables

MARKS = {"best": "**{}**", "second": "\x00{}\x01", "": "{}"}
"""Underlining is HTML, which is written once the texts around it are escaped."""


def markdown(made: Sequence[Table]) -> str:
    """All tables as Markdown; the best value is bold, the second underlined."""
    blocks = []
    for table in made:
        shown = columns(table)
        heads = [column.head for column in shown]
        cells = [column.cells(lambda text, mark: MARKS[mark].format(text)) for column in shown]
        rows = list(zip(*cells, strict=True))
        lines = [f"### {table.title}", "", _line(heads), _line(["---"] * len(heads))]
        lines += [_line(row) for row in rows[: len(table.rows)]]
        lines += [_line([f"*{text}*" if text else "" for text in row]) for row in rows[len(table.rows) :]]
        blocks.append(
            "\n".join([*lines, "", *(f"- {text}" for text in map(_safe, [*caption(table), *table.made_with]))])
        )
    return "\n\n".join(blocks) + "\n"


def _safe(text: str) -> str:
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")  # Markdown takes HTML as it is
    return plain.replace("|", "\\|").replace("\n", " ").replace("\x00", "<u>").replace("\x01", "</u>")


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(map(_safe, values))} |"


def terminal(made: Sequence[Table], width: int | None = None) -> str:
    """All tables for a terminal: a row a method. Columns that do not fit stand in further blocks below, methods again first.

    On a narrow terminal the metrics after the first go without intervals.
    """
    from rich.console import Console
    from rich.table import Table as RichTable

    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    for table in made:
        texts = _texts(table, narrow=False)
        narrow = sum(map(_drawn, texts)) > console.width - 1
        texts = _texts(table, narrow) if narrow else texts
        for number, (first, *others) in enumerate(_blocks(texts, len(table.rows), console.width)):
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
        if narrow and len(table.metrics) > 1:
            console.print("  intervals of the other metrics: on a wider terminal, or with --format md", soft_wrap=True)
    return out.getvalue()


def _texts(table: Table, narrow: bool) -> list[list[str]]:
    """Each column's head and cells."""
    return [[column.head, *column.cells()] for column in columns(table, narrow)]


def _blocks(columns: Sequence[Sequence[str]], rows: int, width: int) -> list[list[Sequence[str]]]:
    """The columns in blocks that fit a terminal, the first column leading each. Text may fold, to a third of the width."""
    lead, *others = columns
    room = width - 1 - min(_drawn(lead), width // 3)
    blocks: list[list[Sequence[str]]] = [[lead]]
    left = room
    for column in others:
        needed = _drawn(
            column[: 1 + rows] if column[0] == "decoding" else column
        )  # where papers' figures are from may fold
        if needed > left and len(blocks[-1]) > 1:
            blocks.append([lead])
            left = room
        blocks[-1].append(column)
        left -= needed
    return blocks


def _drawn(column: Sequence[str]) -> int:
    """How wide a column stands: its longest text, a blank on both sides and a line."""
    return 3 + max(map(len, column))


def report(runs: str | Path | Sequence[str | Path]) -> str:
    """The tables of one or several RUN folders, for a terminal: what `vlm-anchors report` prints."""
    folders = [runs] if isinstance(runs, (str, Path)) else runs
    if not folders:
        raise BadSetting("Expected one or more RUN folders; found an empty list.")
    return terminal(tables(Path(each) for each in folders))
