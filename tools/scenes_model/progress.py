"""What the trainer tells: lines or a bar on stderr, and metrics.csv."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

from vlm_anchors.training.progress import say

EVERY = 25  # steps a row
COLUMNS = (
    "stage", "step", "seconds", "progress", "rate", "loss", "answer", "caption", "patch", "tint", "middle", "align",
    "place", "patch_acc", "existence", "count", "colour", "position", "yesno",
)  # fmt: skip


class Place(NamedTuple):
    """Where a run is: seconds and progress (0 to 1) are the stage's."""

    stage: str
    step: int
    seconds: int
    progress: float
    rate: float


class Report:
    """Means over some steps: a row of metrics.csv and a line (a bar on a terminal)."""

    def __init__(self, path: Path):
        self.path = path
        self.sums: dict[str, tuple[float, int]] = {}

    def add(self, at: Place, values: dict[str, float]) -> None:
        """Takes the values of one step."""
        for name, value in values.items():
            if not math.isnan(value):
                total, n = self.sums.get(name, (0.0, 0))
                self.sums[name] = (total + value, n + 1)
        if at.step % EVERY and at.progress < 1:
            return
        means = {name: round(total / n, 4) for name, (total, n) in self.sums.items()}
        fresh = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
            if fresh:
                writer.writeheader()
            writer.writerow(at._asdict() | means)
        self.sums = {}
        say(at.stage, at.progress, f"step {at.step} " + " ".join(f"{k} {v}" for k, v in means.items()))
