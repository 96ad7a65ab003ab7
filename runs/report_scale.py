"""Time and memory of `report` and of a resume over a million answers, two methods on POPE's splits.

python runs/report_scale.py            -> results/report_scale.json

On a machine with other work, `seconds` grow with its load; `cpu_seconds` tell what the task itself takes.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vlm_anchors.provenance import provenance

OUT = Path(__file__).parent.parent / "results" / "report_scale.json"
ANSWERS = 1_000_000
TASKS = {
    "report": "from vlm_anchors.evaluation.reporting.tables import tables; tables([Path(sys.argv[1])])",
    "resume": "from vlm_anchors.evaluation.runner.folder import RunFolder; RunFolder(Path(sys.argv[1])).done()",
}


def write(folder: Path) -> None:
    """A RUN folder of that many answers, as `eval` writes them."""
    rows, splits = random.Random(0), ("random", "popular", "adversarial")
    info = {"model": "none", "revision": None, "benchmark": "pope", "data": "none", "protocol": "llava"}
    (folder / "run.json").write_text(json.dumps(info))
    with (folder / "records.jsonl").open("w") as file:
        for method in ("none", "clva"):
            for number in range(ANSWERS // 2):
                group = f"coco/{splits[number % 3]}"
                record = {
                    "id": f"{group}/{number}", "image": f"COCO_val2014_{number // 18:012d}.jpg", "group": group,
                    "question": "Is there a cup in the image?", "answer": rows.choice(("Yes", "No, there is no cup.")),
                    "truth": {"label": rows.choice(("yes", "no"))}, "prompt": "USER: <image> Is there a cup? ASSISTANT:",
                    "method": method, "decoding": "greedy", "seed": None, "effects": {"clva": {"rows_edited": 29}},
                    "tokens": 4, "seconds": 0.01, "yes_no": [1.2345, 2.3456],
                }  # fmt: skip
                file.write(json.dumps(record) + "\n")


def measured(task: str, folder: Path) -> dict[str, float]:
    """In a process of its own: seconds by the clock and of the CPU, its largest resident set, and the machine's load."""
    code = f"import sys; from pathlib import Path; {TASKS[task]}"
    began, load = time.monotonic(), os.getloadavg()[0]
    _, status, used = os.wait4(subprocess.Popen([sys.executable, "-c", code, str(folder)]).pid, 0)
    if status:
        sys.exit(f"{task} ended with the status {status}.")
    return {
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mib": round(used.ru_maxrss / 1024),
        "load_before": round(load, 1),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        found = {task: measured(task, folder) for task in ("resume", "report")}
    OUT.write_text(json.dumps(provenance(command="runs/report_scale.py", answers=ANSWERS, **found), indent=1) + "\n")


main()
