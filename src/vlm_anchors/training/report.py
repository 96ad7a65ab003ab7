"""What a run tells while it trains: a line or a bar, the loss curve as CSV and PNG, the method beside each checkpoint."""

import csv
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..models.adapter import write_anchors
from ..models.vlm import Vlm
from .progress import say

COLUMNS = ("step", "epoch", "loss", "validation", "learning_rate")


class Report(TrainerCallback):
    """Follows one run; only the first of several processes writes."""

    def __init__(self, out: Path, vlm: Vlm, method: str):
        self.out, self.model, self.revision, self.method = out, vlm.name, vlm.revision, method
        self.label = method.partition(":")[0]

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        rows = curve(state.log_history)
        with (self.out / "loss.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        if rows:
            numbers = [f"{name} {rows[-1][name]:.4f}" for name in ("loss", "validation") if rows[-1][name] is not None]
            say("training", state.global_step / state.max_steps, f"step {state.global_step} {' '.join(numbers)}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last step counts too, whether or not it falls on a validation."""
        if state.global_step == state.max_steps:
            control.should_evaluate = control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._draw(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._draw(state)

    def _draw(self, state: Any) -> None:
        rows = curve(state.log_history)
        if not state.is_world_process_zero or len(rows) < 2:
            return
        from ..analysis import plots
        from ..document import save_figure

        best = {} if state.best_global_step is None else {self.label: int(state.best_global_step)}
        save_figure(plots.losses({self.label: rows}, best), self.out / "loss.png")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_anchors(folder, self.method, self.model, self.revision)


def curve(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trainer's log as one row a step; what was not measured at a step is None."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in history:
        row = rows.setdefault(int(entry["step"]), dict.fromkeys(COLUMNS))
        row |= {"step": int(entry["step"]), "epoch": entry.get("epoch")}
        for name, key in {"loss": "loss", "validation": "eval_loss", "learning_rate": "learning_rate"}.items():
            if key in entry:
                row[name] = entry[key]
    return [rows[step] for step in sorted(rows)]
