"""Memory of `eval` over ten thousand questions: the process's resident set as questions are answered. It goes up and down by
what the allocator keeps; its floor shows whether anything grows.

python runs/eval_memory.py            -> results/eval_memory.json
"""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

import vlm_anchors as va
from vlm_anchors.evaluation.runner import evaluate
from vlm_anchors.evaluation.runner.bundled import export
from vlm_anchors.provenance import provenance

OUT = Path(__file__).parent.parent / "results" / "eval_memory.json"
QUESTIONS, EVERY = 10_000, 500
METHOD, BATCH = "clva", 24


def resident() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    torch.set_num_threads(1)
    seen: list[tuple[int, float]] = []

    def note(done: int, of: int) -> None:
        if done // EVERY > (seen[-1][0] // EVERY if seen else 0):
            seen.append((done, round(resident(), 1)))

    with tempfile.TemporaryDirectory() as folder:
        scenes = export(Path(folder), ("pope",), images=-(-QUESTIONS // 18))
        evaluate(
            va.load("scenes", device="cpu"), "pope", Path(folder) / "run", data=scenes / "pope", images=scenes / "images",
            methods=[METHOD], limit=QUESTIONS, protocol_name="deco", batch_size=BATCH, progress=note,
        )  # fmt: skip
    held = np.array([size for _, size in seen])
    told = {
        **provenance(command="runs/eval_memory.py", model="scenes", method=METHOD, batch_size=BATCH),
        "questions": QUESTIONS,
        "lowest and highest MiB": {
            half: [float(part.min()), float(part.max())]
            for half, part in zip(("first half", "second half"), np.array_split(held, 2), strict=True)
        },
        "MiB": dict(seen),
    }
    OUT.write_text(json.dumps(told, indent=1) + "\n")


main()
