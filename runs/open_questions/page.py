"""Writes docs/open-questions.md and its figures from results/open_*.json: python runs/open_questions/page.py (--check: stale?).

Every number and every verdict is derived from a result file.
"""

import sys

from page_as_it_is import cost, degraded, pruning, variants
from page_parts import DRAWN, ROOT, load
from page_trained import alignment, evidence, projectors

PAGE = ROOT / "docs" / "open-questions.md"
FIGURES = ROOT / "docs" / "figures"
INTRO = """\
<!-- Written by runs/open_questions/page.py from results/; do not edit. -->
# Open questions of AttAnchor

AttAnchor's paper (arXiv 2509.23109) leaves several questions open. This page tests each on the bundled model, a LLaVA of 8
million parameters trained on drawn scenes, with POPE's questions about scenes of the test split. Answers are read from the first
token; a question that stands in several splits is asked once and counted once a split. Accuracy and differences are in points
with 95 % intervals over scenes (bootstrap, paired); "surely" means that such an interval leaves out zero, without correction for
the number of conditions. This model's patches were aligned with words when it was trained, far better than a LLaVA's: the results
illustrate how a question can be answered and are not evidence about large models. tau = 0.135 anchors a tenth of its words.
"""
NOT_RUN = "Not run yet: `python runs/open_questions/{}.py`."


SECTIONS = (
    ("a: many image tokens", "cost", cost),
    ("b: with pruning", "pruning", pruning),
    ("c: degraded images", "degraded", degraded),
    ("e: without the whole prompt", "variants", variants),
    ("Why does the model treat an anchor as evidence?", "evidence", evidence),
    ("d: alignment", "alignment", alignment),
    ("f: projectors", "projectors", projectors),
)


def made(result):
    lib = result["versions"]
    return (
        f"\n\n*`{result['command']}`: {result['device']}, seed {result['seed']}, commit {result['commit']}, {result['date']}; "
        f"torch {lib['torch']}, transformers {lib['transformers']}.*"
    )


def page():
    parts = []
    for title, name, section in SECTIONS:
        result = load(name)
        said = NOT_RUN.format(name) if result is None else section(result) + made(result)
        parts.append(f"## {title}\n\n{said}")
    return "\n\n".join([INTRO.rstrip(), *parts]) + "\n"


def main():
    text = page()
    if "--check" in sys.argv:
        stale = not PAGE.exists() or PAGE.read_text("utf-8") != text
        lacking = [name for name in DRAWN if not (FIGURES / f"{name}.png").exists()]
        sys.exit(f"stale: {PAGE} {lacking}; run python runs/open_questions/page.py" if stale or lacking else 0)
    PAGE.write_text(text, "utf-8")
    from matplotlib.figure import Figure

    for name, (draw, width, height) in DRAWN.items():
        drawn = Figure(figsize=(width, height), layout="constrained")
        draw(drawn)
        drawn.savefig(FIGURES / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
