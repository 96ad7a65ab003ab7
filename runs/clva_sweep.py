"""Draws docs/figures/clva-sweep.png from results/clva_sweep_{pope,chair}.json: python runs/clva_sweep.py (Fig. 5's shape)."""

import json
from pathlib import Path

from matplotlib.figure import Figure

from vlm_anchors import CLVA
from vlm_anchors.analysis.plots import COLOURS
from vlm_anchors.registry import parse_spec

ROOT = Path(__file__).parent.parent
SHOWN = (("pope", "f1", "POPE F1"), ("chair", "chair_i", "CHAIR-i, lower is better"))


def points(rows, parameter, metric):
    """[(the parameter's value, cell)] of the rows that move no other parameter."""
    found = []
    for row in rows:
        name, parameters = parse_spec(row["method"])
        if name == "clva" and set(parameters) <= {parameter}:
            found.append((float(parameters.get(parameter, getattr(CLVA(), parameter))), row["cells"][metric]))
    return sorted(found, key=lambda point: point[0])


def panel(axes, parameter, words, found):
    """Differences to the plain model, paired, with their intervals; the paper's setting marked."""
    gaps = [cell["difference"] for _, cell in found]
    spread = [[abs(gap["interval"][end] - gap["value"]) for gap in gaps] for end in ("low", "high")]
    axes.errorbar(
        [x for x, _ in found],
        [g["value"] for g in gaps],
        yerr=spread,
        color=COLOURS[0],
        marker="o",
        markersize=4,
        capsize=2,
    )
    axes.axhline(0, color=COLOURS[1], linestyle="--", label="plain")
    axes.axvline(getattr(CLVA(), parameter), color="#666666", linestyle=":", label="the paper's setting")
    axes.set(xlabel=parameter, ylabel=f"{words}\npoints against plain")
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def draw():
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    for line, (benchmark, metric, words) in zip(figure.subplots(2, 2, sharey="row"), SHOWN, strict=True):
        told = json.loads((ROOT / "results" / f"clva_sweep_{benchmark}.json").read_text("utf-8"))
        rows = next(table for table in told["tables"] if table["group"] == "")["rows"]
        for axes, parameter in zip(line, ("alpha", "beta"), strict=True):
            panel(axes, parameter, words, points(rows, parameter, metric))
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    draw().savefig(ROOT / "docs" / "figures" / "clva-sweep.png", dpi=110)
