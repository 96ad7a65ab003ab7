"""A few bundled questions answered by a tiny model, as several test files do it."""

from vlm_anchors.evaluation.reporting.runs import read_run
from vlm_anchors.evaluation.runner import evaluate

SCENES = 6
QUESTIONS = SCENES * 6


def run(vlm, scenes, out, **how):
    how = {"methods": ["none", "clva"], "batch_size": 4, "protocol_name": "deco", "split": "adversarial", **how}
    return evaluate(vlm, "pope", out, data=scenes / "pope", images=scenes / "images", **how)


def comparable(out):
    """Records by key, without seconds and order."""
    found = {}
    for record in read_run(out).records:
        record.pop("seconds")
        key = (record["id"], record["method"], record["decoding"], record["seed"])
        assert key not in found, f"{key} is counted twice"
        found[key] = record
    return found
