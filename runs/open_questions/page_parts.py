"""What the sections of docs/open-questions.md are written with: tables, intervals, figures."""

import json
from pathlib import Path

from vlm_anchors.analysis.plots import COLOURS, MARKERS

ROOT = Path(__file__).parent.parent.parent
DRAWN = {}
"""Of each figure: how it is drawn, and its size in inches."""


def load(name):
    file = ROOT / "results" / f"open_{name}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def shown(span, digits=1, sign=False):
    value, low, high = (f"{each:{'+' if sign else ''}.{digits}f}" for each in span)
    return f"{value} [{low}, {high}]"


def sure(span):
    """Whether an interval leaves out zero, and on which side: -1, 0 or 1."""
    return (span[1] > 0) - (span[2] < 0)


def figure(name, draw, width=7.2, height=3.4):
    """Remembers how a figure is drawn; returns the line that shows it."""
    DRAWN[name] = (draw, width, height)
    return f"![{name.replace('-', ' ')}](figures/{name}.png)"


def points(axes, number, xs, spans, label):
    """A line with intervals."""
    spread = [[abs(span[0] - span[end]) for span in spans] for end in (1, 2)]
    axes.errorbar(
        xs, [span[0] for span in spans], yerr=spread, color=COLOURS[number], marker=MARKERS[number], markersize=4,
        capsize=2, linewidth=1.3, label=label,
    )  # fmt: skip


def dressed(axes, x, y, zero=False):
    axes.set(xlabel=x, ylabel=y)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if zero:
        axes.axhline(0, color="#666666", linewidth=0.8)
