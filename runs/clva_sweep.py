"""Draws docs/figures/clva-sweep.png from results/clva_sweep_{pope,chair}.json: python runs/clva_sweep.py (Fig. 5's shape)."""

import json
from pathlib import Path

from matplotlib.figure import Figure

from vlm_anchors import CLVA
from vlm_anchors.look.plots import COLOURS
from vlm_anchors.registry import parse_spec

ROOT = Path(__file__).parent.parent
SHOWN = (("pope", "f1", "POPE F1, %"), ("chair", "chair_i", "CHAIR-i, % (lower is better)"))


def points(rows, dial, metric):
    """[(the dial's value, cell)] of the rows that move no other dial."""
    found = []
    for row in rows:
        name, dials = parse_spec(row["method"])
        if name == "clva" and set(dials) <= {dial}:
            found.append((float(dials.get(dial, getattr(CLVA(), dial))), row["cells"][metric]))
    return sorted(found, key=lambda point: point[0])


def curves():
    for benchmark, metric, words in SHOWN:
        told = json.loads((ROOT / "results" / f"clva_sweep_{benchmark}.json").read_text("utf-8"))
        rows = next(table for table in told["tables"] if table["group"] == "")["rows"]
        plain = next(row for row in rows if row["method"] == "none")["cells"][metric]["value"]
        for dial in ("alpha", "beta"):
            yield dial, words, points(rows, dial, metric), plain


def draw(panels):
    """One panel a curve: values with their intervals, the plain model's value as a line, the paper's setting marked."""
    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    for axes, (dial, words, found, plain) in zip(figure.subplots(2, 2).ravel(), panels, strict=True):
        values = [cell["value"] for _, cell in found]
        spread = [[abs(cell[end] - cell["value"]) for _, cell in found] for end in ("low", "high")]
        axes.errorbar([x for x, _ in found], values, yerr=spread, color=COLOURS[0], marker="o", markersize=4, capsize=2)
        axes.axhline(plain, color=COLOURS[1], linestyle="--", label="plain")
        axes.axvline(getattr(CLVA(), dial), color="#666666", linestyle=":", label="the paper's setting")
        axes.set(xlabel=dial, ylabel=words)
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    draw(curves()).savefig(ROOT / "docs" / "figures" / "clva-sweep.png", dpi=110)
