"""Writes the README's table from results/: python runs/readme_table.py (--check fails where it is stale).

Methods at their presets on held-out scenes, greedy; differences and p are paired with the plain model. A cell whose file is not
there stays "…", a method that moved no answer "does nothing"; no number enters by hand.
"""

import json
import sys
from pathlib import Path

from vlm_anchors.methods import METHODS

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- table: runs/readme_table.py -->", "<!-- end of table -->"
TRAINED = ("attanchor", "attanchor-i2t")
"""Their paper trains the model with the method; the rows put it on a model that never saw it."""
CELLS = (("pope", "scenes/adversarial", "f1"), ("mme", "", "score"), ("chair", "", "chair_i"), ("chair", "", "recall"))
WORDS = ("POPE", "MME", "CHAIR-i", "recall")


def load(name):
    file = ROOT / "results" / f"{name}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def named(spec, method):
    return spec.partition(":")[0] == method


def table_of(benchmark, group):
    told = load(f"scenes_methods_{benchmark}")
    return told and next(table for table in told["tables"] if table["group"] == group)


def cell_of(table, metric, method):
    """The greedy row's cell; None where the method has no row."""
    rows = [row for row in table["rows"] if row["decoding"] == "greedy" and named(row["method"], method)]
    return rows[0]["cells"][metric] if rows else None


def figure(benchmark, group, metric, method):
    """The plain model's number with its interval; a method's with its difference and p."""
    told, table = load(f"scenes_methods_{benchmark}"), table_of(benchmark, group)
    if table is None:
        return "…"
    cell = cell_of(table, metric, method)
    if cell is None:
        silent = any(decoding == "greedy" and named(spec, method) for spec, decoding in told["silent"])
        return "does nothing" if silent else "…"
    gap = cell["difference"]
    if gap is None:
        return f"{cell['value']:.1f} [{cell['low']:.1f}, {cell['high']:.1f}]"
    p = "p<0.01" if gap["p"] < 0.01 else f"p={gap['p']:.2f}"
    sign = "−" if gap["value"] < 0 else "+"
    return f"{cell['value']:.1f} ({sign}{abs(gap['value']):.1f}, {p})"


def cost(method):
    """Its time over the plain model's: the first bench that has the method with its default parameters."""
    if method == "none":
        return "1.0 ×"
    for bench in ("bench_mid_cpu", "bench_methods_mid_b1_cpu"):
        for row in (load(bench) or {"rows": []})["rows"]:
            if row["method"] == method:
                return f"{row['total']['ratio']:.3f} ×"
    return "…"


def verdict():
    """Which methods a p below 0.05 tells from plain, and in what."""
    sides: dict[str, list[str]] = {"better": [], "worse": []}
    for (benchmark, group, metric), word in zip(CELLS, WORDS, strict=True):
        table = table_of(benchmark, group)
        better = table and next(m["better"] for m in table["metrics"] if m["name"] == metric)
        for entry in METHODS if table else ():
            gap = (cell_of(table, metric, entry.name) or {}).get("difference")
            if gap and gap["p"] < 0.05:
                side = "better" if (gap["value"] > 0) == (better == "higher") else "worse"
                sides[side].append(f"{entry.class_name} ({word})")
    told = [f"{side}: {', '.join(names) or 'none'}" for side, names in sides.items()]
    rows = {row["method"].partition(":")[0] for b, g, _ in CELLS for row in (table_of(b, g) or {"rows": []})["rows"]}
    among = f"{len(rows & set(METHODS.names())) - 1} methods in {len(CELLS)} columns"
    return f"What p < 0.05 tells from plain, among {among} (one in twenty by chance): {'; '.join(told)}."


def counts():
    """How many questions each number rests on."""
    asked = {(b, g): table_of(b, g) for b, g, _ in CELLS}
    n = {key: table["rows"][0]["n"] if table else "…" for key, table in asked.items()}
    adversarial, mme, captions = n["pope", "scenes/adversarial"], n["mme", ""], n["chair", ""]
    return f"n: {adversarial} POPE questions, {mme} MME questions, {captions} captions."


def table():
    lines = [
        "| | needs training | POPE F1, adversarial | MME, of 800 | CHAIR-i (lower is better) | recall | time, `mid` on a CPU |",
        "|---|:---:|---:|---:|---:|---:|---:|",
    ]
    for entry in METHODS:
        shown = {"none": "plain", "clva": "**CLVA**"}.get(entry.name, entry.class_name)
        cells = ["yes; not here" if entry.name in TRAINED else "no"]
        cells += [figure(*cell, entry.name) for cell in CELLS] + [cost(entry.name)]
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    where = "Greedy, each method at its preset for the benchmark."
    more = "All splits, presets, intervals, sampled runs and CLVA's ablations: [docs/results.md](docs/results.md)."
    return "\n".join([*lines, "", verdict(), f"{counts()} {where} {more}"])


def main():
    file = ROOT / "README.md"
    text = file.read_text("utf-8")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    new = f"{text[:start]}\n{table()}\n{text[end:]}"
    if "--check" in sys.argv:
        sys.exit("README's table is stale: run python runs/readme_table.py" if new != text else 0)
    file.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
