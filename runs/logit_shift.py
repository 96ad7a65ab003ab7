"""A control for CLVA: the plain model, its logit of "yes" moved until it says yes as often as CLVA does.

python runs/logit_shift.py RUN OUT      RUN holds plain and CLVA's greedy answers to a yes/no benchmark

What a method gains by saying yes more (or less) often, this gains too, without looking at the image any differently. Nothing is
run: OUT holds the plain answers as the moved logits give them.
"""

import json
import shutil
import sys
from pathlib import Path

from vlm_anchors.evaluation.reporting.runs import read_run


def margins(records):
    """Logit of "yes" minus that of "no", by record; refuses answers that do not follow from it."""
    found = [record["yes_no"][0] - record["yes_no"][1] for record in records]
    for record, margin in zip(records, found, strict=True):
        if record["answer"].lower().startswith("yes") != (margin > 0):
            sys.exit(
                f"{record['id']} was answered {record['answer']!r} at a margin of {margin}: no shift explains that."
            )
    return found


def shift_for(found, yes):
    """What to add so that `yes` of the margins are above 0: halfway between two neighbours."""
    ordered = sorted(found, reverse=True)
    above = ordered[yes - 1] if yes else ordered[0] + 1
    below = ordered[yes] if yes < len(ordered) else ordered[-1] - 1
    return -(above + below) / 2


def main(source, out):
    records = read_run(source).records
    plain = [record for record in records if record["method"] == "none"]
    yes = sum(margin > 0 for margin in margins([record for record in records if record["method"] == "clva"]))
    found = margins(plain)
    shift = shift_for(found, yes)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "run.json", out / "run.json")
    with (out / "records.jsonl").open("w", encoding="utf-8") as lines:
        for record, margin in zip(plain, found, strict=True):
            moved = {
                "method": "logit-shift",
                "answer": "Yes" if margin + shift > 0 else "No",
                "yes_no": [record["yes_no"][0] + shift, record["yes_no"][1]],
                "effects": {"logit-shift": {"shift": round(shift, 4)}},
            }
            lines.write(json.dumps({**record, **moved}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
