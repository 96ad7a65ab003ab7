"""Writes docs/results.md from results/: python runs/results_page.py (--check fails where it is stale).

Every word about what a table shows is derived from the table: no number and no verdict enters by hand.
"""

import json
import sys
from pathlib import Path

from scenes_methods import baselines

from vlm_anchors.evaluation import published
from vlm_anchors.evaluation.reporting import tables as report
from vlm_anchors.evaluation.reporting import text as report_text

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results.md"
BENCHMARKS = ("pope", "chair", "mme")
INTRO = """\
<!-- Written by runs/results_page.py from results/; do not edit. -->
# Results on held-out scenes

The bundled model, 8.5 million parameters, on scenes it never saw: POPE, CHAIR and MME by their own rules of construction and
their official scoring. `runs/scenes_tables.sh` makes all of it again. **The model is small and made to exercise the code: this
is no evidence for or against a method on a large model.** Nothing was tuned on these scenes. Layer numbers are scaled to 12
layers, and a method that moved no answer has no row.

A row's difference is paired with the plain model under the same decoding, on the same questions (and the same noise, where
tokens are sampled). With so many rows, expect one p in twenty below 0.05 by chance. Seconds an answer were taken on a busy core,
with the image's prefix shared where a method allows it; what a method costs is under "What a method costs"."""
SECTIONS = (
    ("Every method at its preset", "scenes_methods", "runs/scenes_all_methods.sh", BENCHMARKS),
    ("Plain and CLVA under three decodings", "scenes", "vlm-anchors run runs/scenes_decodings.yaml", BENCHMARKS),
    ("CLVA taken apart", "clva_ablations", "vlm-anchors run runs/clva_ablations.yaml", BENCHMARKS),
    ("CLVA's two parameters", "clva_sweep", "vlm-anchors run runs/clva_sweep.yaml", ("pope", "chair")),
)
WORDS = {
    "scenes_methods": """\
LLaVA-1.5-7B's preset for the benchmark, else for any task, else the method's defaults, which are "ours"; the papers' layers of
32 scaled to 12
(layer × 12 / 32, to the nearest, halves up). AttAnchor's tau anchors a tenth of the words of training scenes
([scenes_tau.json](../results/scenes_tau.json)). Its paper trains the model with it, and so does `train attanchor`; here it is
put on a model that never saw it.

OPERA is a decoding, with five beams of its own: hold its row against the plain model's `beam`, not against greedy search. It
was asked for captions alone.""",
    "scenes": "The shape of the paper's Table 6, whose figures, for LLaVA-1.5-7B and COCO, are:",
    "clva_ablations": """\
Table 4 of the paper: `clva:beta=0` is positive only, `clva:alpha=0` negative only, `clva` both; it gives no sizes for "signs
reversed", so both readings are shown, `alpha=-14,beta=-0.9` and `alpha=-0.9,beta=-14`. `gain=average` is Eq. 15. Controls of
ours: `heads=all` instead of the heads that stand out, as many anchors at `places=random`, and `logit-shift`, which is the plain
model with its logit of "yes" moved until it says yes as often as with CLVA. The paper's figures, for LLaVA-1.5-7B:""",
    "clva_sweep": """\
The shape of the paper's Fig. 5, as differences to the plain model on the same questions; bars are 95 % intervals.

![F1 on POPE and CHAIR-i over alpha and beta](figures/clva-sweep.png)""",
}
COST = """\
Ratios to the plain model, medians of interleaved rounds with 95 % intervals, on `mid`: a LLaVA of 12 layers with random weights
and 576 visual tokens, float32, one thread. Memory counts the weights on both sides. VCD and ICD read the prompt twice; VISTA
reads it twice and once without its image; PAI's and IMCCD's contrastive branch reads the words alone. MemVR multiplies by the
output embedding once a tested layer, which is a large share of a step on so small a model. AttAnchor's prompt
holds its copies, which the plain one lacks. *Theirs*: arXiv 2603.25088, Table 5, on one H20."""
THEIRS = {"scenes": "Table 6", "clva_ablations": "Table 4"}


def load(name):
    file = ROOT / "results" / f"{name}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def line(cells):
    return f"| {' | '.join(cells)} |"


def grid(head, rows):
    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def presets():
    """The parameters behind "every method"."""
    by = [baselines(benchmark) for benchmark in BENCHMARKS]
    rows = [[name, *(f"`{each[name][0]}` ({each[name][1]})" for each in by)] for name in by[0]]
    return grid(["method", *BENCHMARKS], rows)


def verdict(table):
    """Which rows differ from plain in the headline number, in words."""
    metric = table.metrics[0]
    sides: dict[str, list[str]] = {"better": [], "worse": [], "no difference seen": []}
    for row in table.rows:
        gap = row.cells[metric.name].difference
        if gap is None or gap.p is None:
            continue
        good = (gap.value > 0) == (metric.better == "higher")
        side = "no difference seen" if gap.p >= 0.05 else "better" if good else "worse"
        sides[side].append(f"`{row.method}`" + ("" if row.decoding == "greedy" else f" ({row.decoding})"))
    told = [f"{side}: {', '.join(rows) or 'none'}" for side, rows in sides.items()]
    return f"- {metric.name} of {table.title}, against plain at p < 0.05: {'; '.join(told)}."


def effects(told):
    """What every row did, and the rows that are missing because it was nothing."""
    rows = []
    for one in told["effects"]:
        did = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in one["effects"].items())
        shares = [f"{100 * one[name]:.1f} %" for name in ("moved", "changed")]
        rows.append([f"`{one['method']}`", one["decoding"], str(one["n"]), *shares, did])
    silent = [f"`{method}` ({decoding})" for method, decoding in told["silent"]]
    without = f"Without a row, since it moved no answer: {', '.join(silent)}.\n\n" if silent else ""
    head = ["method", "decoding", "answers", "moved", "text changed", "did, on average an answer"]
    return f"{without}{grid(head, rows)}"


def theirs(name):
    """One of the paper's tables for LLaVA-1.5-7B, figures in the order of the file."""
    found = [
        f for f in published.figures() if f.table == name and f.model == "LLaVA-1.5-7B" and f.arxiv == "2603.25088"
    ]
    columns = list(dict.fromkeys((f.benchmark, f.split, f.metric) for f in found))
    rows: dict[str, dict] = {}
    for one in found:
        rows.setdefault(one.method, {})[one.benchmark, one.split, one.metric] = one.value
    head = [f"arXiv 2603.25088, {name}", *(" ".join(filter(None, column)) for column in columns)]
    lines = [[method, *(f"{values[c]:g}" if c in values else "" for c in columns)] for method, values in rows.items()]
    return grid(head, [[f"*{cell}*" if cell else "" for cell in cells] for cells in lines])


def made(told):
    """Where a table comes from: n of every run, commit, date, device, versions."""
    runs = told["runs"]
    versions = runs[0]["versions"]
    commits = ", ".join(dict.fromkeys(run["commit"] or "?" for run in runs))
    known = f"torch {versions['torch']}, transformers {versions['transformers']}, Python {versions['python']}"
    return f"{runs[0]['date']}, commit {commits}, {runs[0]['device']}, {runs[0]['dtype']}, {known}"


def section(title, stem, command, benchmarks):
    found = {f"{stem}_{benchmark}.json": load(f"{stem}_{benchmark}") for benchmark in benchmarks}
    parts = [f"## {title}", f"`{command}`"]
    if not any(found.values()):
        return "\n\n".join([*parts, "Not run yet."])
    parts.append(WORDS[stem])
    if stem in THEIRS:
        parts.append(theirs(THEIRS[stem]))
    if stem == "scenes_methods":
        parts.append(presets())
    for file, told in found.items():
        if told is None:
            continue
        tables = report.from_json(told["tables"])
        parts += [f"[{file}](../results/{file}): {made(told)}", "\n".join(map(verdict, tables))]
        parts += [report_text.markdown(tables).rstrip(), effects(told)]
    return "\n\n".join(parts)


def cost():
    """Time and memory of every method against plain, beside what CLVA's paper prints."""
    parts = ["## What a method costs", "`runs/bench_methods.sh`", COST]
    files = {f"bench_methods_mid_b{batch}_cpu": f"Batch {batch}" for batch in (1, 8)}
    files["bench_vicrop_scenes_cpu"] = "ViCrop, which needs an image, on the bundled model"
    for file, words in files.items():
        told = load(file)
        if told is None:
            parts.append(f"{words}: not run yet.")
            continue
        rows = []
        for row in told["rows"]:
            times = [ratio(row[part]) for part in ("first token", "decoding", "total")]
            rows.append([f"`{row['method']}`", *times, f"{row['memory ratio']:.3f}", paper_cost(row["method"])])
        seconds = (
            f"{told['prompt tokens']} + {told['new tokens']} tokens, {told['rounds']} rounds, {told['seconds of']} time"
        )
        parts += [
            f"{words}, {seconds} ([{file}.json](../results/{file}.json): {told['date']}, commit {told['commit']}).",
            grid(["method", "first token", "decoding", "total", "memory", "theirs: seconds an answer, memory"], rows),
        ]
    return "\n\n".join(parts)


def ratio(part):
    low, high = part["interval"]
    return f"{part['ratio']:.3f} [{low:.3f}, {high:.3f}]"


def paper_cost(method):
    """The paper's Table 5 for LLaVA-1.5-7B, as ratios to its greedy run."""
    found = {
        (f.method.lower(), f.metric): f.value
        for f in published.figures()
        if f.table == "Table 5" and f.model == "LLaVA-1.5-7B" and f.arxiv == "2603.25088"
    }
    ratios = [
        found[method, metric] / found["greedy", metric]
        for metric in ("seconds per example", "GPU memory GB")
        if (method, metric) in found
    ]
    return "" if not ratios else f"*{', '.join(f'{one:.2f}' for one in ratios)}*"


def page():
    return "\n\n".join([INTRO, *(section(*each) for each in SECTIONS), cost()]) + "\n"


def main():
    text = page()
    if "--check" in sys.argv:
        sys.exit("docs/results.md is stale: run python runs/results_page.py" if PAGE.read_text("utf-8") != text else 0)
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
