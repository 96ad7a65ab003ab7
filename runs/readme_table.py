"""Writes the README's tables: python runs/readme_table.py (--check fails where one is stale).

"box" lists what the catalogues hold. "cost" shows one benchmark file, whole: one command, one protocol, equal rounds for every
row. No number enters by hand.
"""

import json
import sys
from pathlib import Path

import vlm_anchors as va
from vlm_anchors.generation.decodings import DECODINGS

ROOT = Path(__file__).parent.parent
COST = "bench_methods_mid_b1_cpu"
END = "<!-- end of table -->"
WELL_KNOWN = ("llava", "llava-next", "qwen2.5-vl", "qwen3-vl", "internvl", "gemma3", "smolvlm", "instructblip")
"""Families that the README names; the others are counted."""


def box():
    """What there is, by kind."""
    methods = [entry.name for entry in va.list_methods() if entry.name != "none"]
    families = [family for family in va.list_families() if family.refused is None]
    benchmarks = va.list_benchmarks()
    shown = ", ".join(next(family.title for family in families if family.name == name) for name in WELL_KNOWN)
    rows = [
        (f"{len(methods)} methods", ", ".join(f"`{name}`" for name in methods), "docs/methods.md"),
        (f"{len(DECODINGS.names())} decodings", ", ".join(f"`{name}`" for name in DECODINGS.names()), "docs/methods.md"),
        (f"{len(families)} families", f"{shown}, and {len(families) - len(WELL_KNOWN)} more", "docs/families.md"),
        (f"{len(benchmarks)} benchmarks", ", ".join(f"`{entry.name}`" for entry in benchmarks), "docs/benchmarks.md"),
        ("analysis", "attention maps, drift, anchors, the papers' theorems; `look`, `diagnose`, `calibrate`", "docs/looking.md"),
        ("tuning", "parameters searched on some images, judged on others; `tune`, `run`", "docs/from-model-to-table.md"),
        ("serving", "OpenAI-compatible server, a method per request; vLLM plug-in; `serve`, `export-vllm`", "docs/serving.md"),
        ("training", "LoRA on anchored sequences, resumable, with the paper's settings", "docs/training.md"),
    ]  # fmt: skip
    return "\n".join(["| | | page |", "|---|---|---|", *(f"| **{a}** | {b} | [{c[5:-3]}]({c}) |" for a, b, c in rows)])


def cost():
    """The ratio of each method to plain generation, as the file has it."""
    bench = json.loads((ROOT / "results" / f"{COST}.json").read_text("utf-8"))
    lines = ["| method | time of an answer | first token | peak memory |", "|---|---:|---:|---:|"]
    for row in bench["rows"]:
        low, high = row["total"]["interval"]
        name = "plain" if row["method"] == "greedy" else f"`{row['method']}`"
        lines.append(
            f"| {name} | {row['total']['ratio']:.2f} × [{low:.2f}, {high:.2f}] | {row['first token']['ratio']:.2f} × | "
            f"{row['memory ratio']:.3f} × |"
        )
    protocol = (
        f"Ratios to plain greedy generation with 95 % intervals: {bench['rounds']} interleaved rounds, {bench['prompt tokens']} "
        f"prompt tokens, {bench['new tokens']} new tokens, batch {bench['batch size']}, {bench['dtype']}, {bench['device']}, on "
        f"`mid`, a LLaVA of 12 layers with random weights ([file](results/{COST}.json), written by `runs/bench_methods.sh`). "
        "Contrastive methods read the prompt twice."
    )
    return "\n".join([*lines, "", protocol])


def main():
    file = ROOT / "README.md"
    old = text = file.read_text("utf-8")
    for name, make in (("box", box), ("cost", cost)):
        begin = f"<!-- table: runs/readme_table.py {name} -->"
        start = text.index(begin) + len(begin)
        text = f"{text[:start]}\n{make()}\n{text[text.index(END, start) :]}"
    if "--check" in sys.argv:
        sys.exit("README's tables are stale: run python runs/readme_table.py" if text != old else 0)
    file.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
