"""Writes the README's table from results/: python runs/readme_table.py (--check fails where it is stale).

A cell whose file is not there stays "…"; no number enters by hand.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- table: runs/readme_table.py -->", "<!-- end of table -->"
ROWS = (("plain", "none", "no"), ("**CLVA**", "clva", "no"))


def load(name):
    file = ROOT / "results" / name
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def figure(told, group, metric, method):
    """A number with its interval, as the report has it; "…" without a file."""
    if told is None:
        return "…"
    tables = told["tables"]  # a run of one split alone has one table, and no group's beside it
    table = next((t for t in tables if t["group"] == group), tables[0])
    cell = next(row for row in table["rows"] if row["method"] == method)["cells"][metric]
    return f"{cell['value']:.1f} [{cell['low']:.1f}, {cell['high']:.1f}]"


def cost(told, method):
    if told is None:
        return "…"
    row = next(r for r in told["rows"] if r["method"] == {"none": "greedy"}.get(method, method))
    return "1.0 ×" if method == "none" else f"{row['total']['ratio']:.3f} ×"


def table():
    pope, chair, bench = load("scenes_pope.json"), load("scenes_chair.json"), load("bench_mid_cpu.json")
    lines = [
        "| | needs training | POPE F1, adversarial | CHAIR-i (lower is better) | recall | time, `mid` on a CPU |",
        "|---|:---:|---:|---:|---:|---:|",
    ]
    for shown, method, trained in ROWS:
        cells = [
            figure(pope, "scenes/adversarial", "f1", method),
            figure(chair, "", "chair_i", method),
            figure(chair, "", "recall", method),
            cost(bench, method),
        ]
        lines.append(f"| {shown} | {trained} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    file = ROOT / "README.md"
    text = file.read_text("utf-8")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    new = f"{text[:start]}\n{table()}\n{text[end:]}"
    if "--check" in sys.argv:
        sys.exit("README's table is stale: run python runs/readme_table.py" if new != text else 0)
    file.write_text(new, "utf-8")


main()
