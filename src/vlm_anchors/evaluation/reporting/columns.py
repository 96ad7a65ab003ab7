"""A table's columns as text: shared by the terminal, Markdown, LaTeX and HTML, so that no format says less than another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..benchmarks.base import Metric
from .table import Cell, Row, Table

ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}


@dataclass(frozen=True)
class Column:
    """A head, and its cells: our rows, then the published ones.

    Args:
        marks: "best", "second" or "" for each of our rows.
        detail: What may stand below each value in smaller type (an interval).
    """

    head: str
    ours: list[str]
    theirs: list[str]
    marks: list[str]
    detail: list[str]

    def cells(self, mark: Callable[[str, str], str] = lambda text, mark: text) -> list[str]:
        """All cells as one text each; `mark` writes a value as best or second."""
        own = zip(self.ours, self.detail, self.marks, strict=True)
        return [f"{mark(text, kind)} {more}".strip() for text, more, kind in own] + self.theirs


def columns(table: Table, narrow: bool = False) -> list[Column]:
    """Method, headline and its difference first. `narrow` leaves the intervals of the other metrics and McNemar's test out."""
    rows, printed = table.rows, table.published
    blank = [""] * len(printed)

    def plain(head: str, ours: list[str], theirs: list[str] = blank) -> Column:
        return Column(head, ours, theirs, [""] * len(rows), [""] * len(rows))

    made = [plain("method", [row.method for row in rows], [f"{row.method} — theirs" for row in printed])]
    made += [_metric(table, metric, short=False) for metric in table.metrics[:1]]
    if is_compared(table):
        gaps = [row.cells[table.metrics[0].name].difference for row in rows]
        made.append(plain(f"against {table.against}", [change(row.cells[table.metrics[0].name]) for row in rows]))
        if any(gap is not None and gap.p is not None for gap in gaps):
            made.append(plain("p by image", ["" if gap is None else p_value(gap.p) for gap in gaps]))
        if any(gap is not None and gap.holm is not None for gap in gaps):
            made.append(plain("p (Holm)", ["" if gap is None else p_value(gap.holm) for gap in gaps]))
    made.append(plain("n", [answered(row) for row in rows]))
    made.append(plain("unread", [share(row.unread) for row in rows]))
    if any(row.wordless is not None for row in rows):
        made.append(plain("no yes/no", [share(row.wordless) for row in rows]))
    made += [_metric(table, metric, short=narrow) for metric in table.metrics[1:]]
    if not narrow and is_compared(table) and any(mcnemar(row, table) for row in rows):
        made.append(plain("McNemar, by question", [mcnemar(row, table) for row in rows]))
    sources = [f"{row.model}, arXiv {row.arxiv}, {row.table}" for row in printed]
    made.append(plain("decoding", [decoding(row) for row in rows], sources))
    if any(row.seconds is not None for row in rows):
        made.append(plain("s/answer", ["" if row.seconds is None else f"{row.seconds:.3f}" for row in rows]))
    return made


def _metric(table: Table, metric: Metric, short: bool) -> Column:
    cells = [row.cells[metric.name] for row in table.rows]
    theirs = [number(row.values[metric.name]) if metric.name in row.values else "" for row in table.published]
    detail = ["" if short else interval(cell) for cell in cells]
    return Column(head(metric), [value(cell) for cell in cells], theirs, ranks(metric, cells), detail)


def is_compared(table: Table) -> bool:
    """Whether a row has a difference in the headline."""
    return bool(table.metrics) and any(row.cells[table.metrics[0].name].difference for row in table.rows)


def ranks(metric: Metric, cells: Sequence[Cell]) -> list[str]:
    """ "best" and "second" as shown; of one row alone, or without a better side, nothing is marked."""
    shown = [None if cell.value is None else round(cell.value, 2) for cell in cells]
    known = sorted({each for each in shown if each is not None}, reverse=metric.better == "higher")
    if metric.better == "neither" or len(known) < 2:
        return [""] * len(cells)
    names = dict(zip(known, ("best", "second") if len(known) > 2 else ("best",), strict=False))
    return ["" if each is None else names.get(each, "") for each in shown]


def head(metric: Metric) -> str:
    """A metric's column head: unit and which way is better."""
    unit = "" if metric.unit == "points" else " %"
    return f"{metric.name}{unit} {ARROWS[metric.better]}".strip()


def number(value: float | None) -> str:
    """Two decimals; a dash where undefined."""
    return "–" if value is None else f"{value:.2f}"


def share(value: float | None) -> str:
    """A share of answers."""
    return "" if value is None else f"{100 * value:.1f} %"


def value(cell: Cell) -> str:
    """`86.99`, with ± over seeds where there are several."""
    return number(cell.value) + (f" ± {cell.deviation:.2f}" if cell.deviation is not None else "")


def interval(cell: Cell) -> str:
    """`[85.1, 88.6]`, empty where there is none."""
    return "" if cell.low is None or cell.high is None else f"[{cell.low:.1f}, {cell.high:.1f}]"


def change(cell: Cell) -> str:
    """`+1.20 [+0.3, +2.1]`; empty without a comparison."""
    gap = cell.difference
    if gap is None:
        return ""
    text = f"{gap.value:+.2f}"
    return text if gap.interval is None else f"{text} [{gap.interval.low:+.1f}, {gap.interval.high:+.1f}]"


def p_value(p: float | None) -> str:
    """Three places; empty where there is none."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def mcnemar(row: Row, table: Table) -> str:
    """McNemar's exact p with the questions won and lost; never without the p by image, which it is read beside."""
    gap = row.cells[table.metrics[0].name].difference
    if gap is None or gap.mcnemar is None or gap.p is None:
        return ""
    return f"{p_value(gap.mcnemar)} (+{gap.won} −{gap.lost} of {gap.n})"


def answered(row: Row) -> str:
    """How many questions were answered, of how many where some are missing."""
    return f"{row.n} of {row.asked}" if row.asked is not None and row.n < row.asked else str(row.n)


def decoding(row: Row) -> str:
    """The decoding's SPEC, with the number of seeds where there are several."""
    return row.decoding + (f" ({len(row.seeds)} seeds)" if len(row.seeds) > 1 else "")


def caption(table: Table) -> list[str]:
    """What was measured, how, and what to beware of."""
    signs = ["brackets: 95 % of bootstrap draws by image"]
    if is_compared(table):
        signs.append("p: two-sided, of the same draws")
        if any(
            cell.difference and cell.difference.holm is not None for row in table.rows for cell in row.cells.values()
        ):
            signs.append("Holm: p corrected for the comparisons of the table")
        if any(mcnemar(row, table) for row in table.rows):
            signs.append("McNemar: exact, takes the questions of an image as independent")
    lines = [
        table.version + (f"; {table.remark}" if table.remark else ""),
        f"protocol {table.protocol}",
        "; ".join(signs),
    ]
    notes = dict.fromkeys(note for row in table.published for note in row.notes)
    return [*lines, *table.notes, *(f"theirs: {note}" for note in notes)]
