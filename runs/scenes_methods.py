"""The baselines at their presets on the bundled model, a SPEC a line:

    python runs/scenes_methods.py pope|chair|mme [greedy|nucleus]

The rule: LLaVA-1.5-7B's preset for the benchmark (and the decoding, where it has one), else its preset for any task, else
the method's own defaults ("ours"). Layer numbers are the published ones, of 32 layers, scaled to the depth at hand (`scaled`
in methods/parts.py). AttAnchor's tau is the one that anchors a tenth of the words of training scenes
(results/scenes_tau.json), in both directions; the papers train a model with it, here it is put on the model as it is.
"""

import json
import sys
from pathlib import Path

from vlm_anchors.interventions.method import DEFAULTS
from vlm_anchors.methods import METHODS

MODEL = "llava-1.5-7b"
NOT_BASELINES = ("none", "clva")
TAU = Path(__file__).parent.parent / "results" / "scenes_tau.json"


def preset(entry, benchmark, decoding):
    """(the method's SPEC for the benchmark, where its values come from)."""
    cls = entry.load()
    if entry.name.startswith("attanchor"):
        return cls(tau=json.loads(TAU.read_text("utf-8"))["tau"]).spec(), "the papers' rule"
    known = {one.name: one for one in cls.presets}
    wanted = (f"{MODEL}/{benchmark}-{decoding}", f"{MODEL}/{benchmark}", f"{MODEL}/any", "any/any")
    chosen = next((known[name] for name in wanted if name in known), DEFAULTS)
    return cls(**chosen.parameters).spec(), chosen.source


def baselines(benchmark, decoding="greedy"):
    """{name: (SPEC, source)} in the catalogue's order."""
    return {entry.name: preset(entry, benchmark, decoding) for entry in METHODS if entry.name not in NOT_BASELINES}


if __name__ == "__main__":
    print("\n".join(spec for spec, _ in baselines(*sys.argv[1:]).values()))
