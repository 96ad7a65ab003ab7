"""Tables for programs and papers: CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence

from .columns import caption, columns
from .table import Table

TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "—": "---",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "<": r"$<$", ">": r"$>$", "…": r"\ldots{}", "·": r"$\cdot$",
}  # fmt: skip
MARKS = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "": "{}"}


def comma_separated(made: Sequence[Table]) -> str:
    """All tables as one CSV file; a column that a table lacks is empty in its rows."""
    rows = [row for table in made for row in table.values()]
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def latex(made: Sequence[Table]) -> str:
    """All tables for a paper: booktabs, best bold, second underlined, protocol and dialect in the caption."""
    blocks = ["% needs \\usepackage{booktabs}"]
    for table in made:
        shown = columns(table)
        cells = [
            [*map(_marked, column.ours, column.detail, column.marks), *map(_escaped, column.theirs)] for column in shown
        ]
        rows = [_line(row) for row in zip(*cells, strict=True)]
        ours, theirs = rows[: len(table.rows)], rows[len(table.rows) :]
        words = " ".join(f"{text.rstrip('.')}." for text in [table.title, *caption(table)])
        blocks.append(
            "\n".join(
                [
                    *(f"% {text}" for text in table.made_with),
                    r"\begin{table}",
                    r"\centering",
                    r"\small",
                    rf"\begin{{tabular}}{{l{'r' * (len(shown) - 1)}}}",
                    r"\toprule",
                    _line([_escaped(column.head) for column in shown]),
                    r"\midrule",
                    *ours,
                    *([r"\midrule", *theirs] if theirs else []),
                    r"\bottomrule",
                    r"\end{tabular}",
                    rf"\caption{{{_escaped(words)}}}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(blocks) + "\n"


def _marked(text: str, detail: str, mark: str) -> str:
    written = MARKS[mark].format(_escaped(text))
    return f"{written} {{\\scriptsize {_escaped(detail)}}}" if detail else written


def _escaped(text: str) -> str:
    return "".join(TEX.get(sign, sign) for sign in " ".join(text.split()))


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
