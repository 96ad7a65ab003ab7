"""The report of some RUN folders, and proof that their methods act: python runs/scenes_report.py NAME RUN...

Writes results/NAME.json: what `vlm-anchors report --format json` says, and under "effects", for every method but the plain one,

    moved     share of answers whose text, or logits of yes and no (by 0.001 or more), differ from the plain model's under
              the same decoding
    changed   share of answers whose text differs
    told      means of the numbers in the answers' `effects` (rows edited, triggers, branch passes, ...)

A method that moved no answer at all gets no row, which would be the plain model's under another name: it is named on stderr
and under "silent".
"""

import json
import math
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from vlm_anchors.evaluation.reporting.runs import read_run
from vlm_anchors.evaluation.reporting.tables import key_of

ROOT = Path(__file__).parent.parent
NOISE = 0.001
"""Logits are around 10; batches and shared prefixes move them by less than this."""


def effects(runs):
    """[{method, decoding, n, moved, changed, told}], compared with the plain answers of the same question and seed."""
    records = [record for run in runs for record in read_run(run).records]
    plain = {(r["id"], r["decoding"], r["seed"]): r for r in records if r["method"] == "none"}
    pairs = defaultdict(list)
    for record in records:
        base = plain.get((record["id"], record["decoding"], record["seed"]))
        if record["method"] != "none" and base is not None:
            pairs[key_of(record)].append((record, base))
    return [{"method": method, "decoding": decoding, **told(both)} for (method, decoding), both in pairs.items()]


def told(pairs):
    sums = defaultdict(float)
    for record, _ in pairs:
        for name, value in ((n, v) for part in record["effects"].values() for n, v in part.items()):
            sums[name] += value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0
    changed = [one["answer"] != base["answer"] for one, base in pairs]
    moved = [other or apart(one, base) >= NOISE for other, (one, base) in zip(changed, pairs, strict=True)]
    means = {name: round(value / len(pairs), 3) for name, value in sums.items() if value}
    return {"n": len(pairs), "moved": sum(moved) / len(pairs), "changed": sum(changed) / len(pairs), "effects": means}


def apart(one, base):
    """The larger difference between the logits of yes and no; infinite where one of a pair was left out, 0 without logits."""
    pairs = zip(one.get("yes_no", ()), base.get("yes_no", ()), strict=True)
    return max((math.inf if None in (a, b) else abs(a - b) for a, b in pairs if a != b), default=0.0)


def from_here(data):
    """A folder of questions as the scripts name it, wherever RUN put it: no path of one machine goes into results/."""
    out = Path(os.environ.get("RUN", ROOT / "runs" / "out")).resolve()
    whole = (ROOT / data).resolve()
    return str(Path("runs/out") / whole.relative_to(out)) if whole.is_relative_to(out) else data


def main(name, *folders):
    shares = effects([Path(folder) for folder in folders])
    silent = [[one["method"], one["decoding"]] for one in shares if not one["moved"]]
    for method, decoding in silent:
        print(f"{method} ({decoding}) moved no answer in {', '.join(folders)}: it gets no row.", file=sys.stderr)
    file = ROOT / "results" / f"{name}.json"
    report = [sys.executable, "-m", "vlm_anchors", "report", *folders, "--format", "json", "--out", str(file)]
    subprocess.run(report, check=True)
    whole = json.loads(file.read_text("utf-8"))
    for table in whole["tables"]:
        table["rows"] = [row for row in table["rows"] if [row["method"], row["decoding"]] not in silent]
    for run in whole["runs"]:
        if "data" in run:
            run["data"] = from_here(run["data"])
    file.write_text(json.dumps({**whole, "effects": shares, "silent": silent}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
