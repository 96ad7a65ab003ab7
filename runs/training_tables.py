"""Fills docs/training.md's tables from the code's presets and results/: python runs/training_tables.py (--check: stale?).

Every word about what a table shows is derived from it: no number and no verdict enters by hand.
"""

import dataclasses
import json
import re
import sys
from pathlib import Path

from vlm_anchors.analysis import plots
from vlm_anchors.training.presets import PRESETS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "training.md"
FIGURE = ROOT / "docs" / "figures" / "attanchor-sweep.png"
OTHERS = ("max_steps", "eval_steps", "seed", "checkpointing")


def load(name):
    file = ROOT / "results" / f"{name}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def table(head, rows):
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def presets():
    names = [field.name for field in dataclasses.fields(next(iter(PRESETS.values()))) if field.name not in OTHERS]
    rows = [[f"`{name}`", *(str(getattr(one, name)) for one in PRESETS.values())] for name in names]
    return table(["", *(f"`{name}`" for name in PRESETS)], rows)


def shown(values, digits):
    return f"{values[0]:.{digits}f} [{values[1]:.{digits}f}, {values[2]:.{digits}f}]"


def sweep():
    told = load("attanchor_scenes")
    if told is None:
        return "Not measured yet: `runs/attanchor_scenes.sh`."
    sizes, used = told["sizes"], told["sizes"]["settings"]
    splits = ("random", "popular", "adversarial")
    rows = []
    for tau in sorted(told["loss"], key=float, reverse=True):
        pope = [shown(told["pope"][f"scenes/{split}"][tau]["f1"]["value"], 1) for split in splits]
        chair = told["chair"]["captions"][tau]
        name = "1 (plain)" if tau == "1" else f"{tau} (calibrated)" if float(tau) == told["calibrated_tau"] else tau
        made = told["trained"][tau]
        learnt = f"{made['loss_before']:.3f} → {made['best_loss']:.3f}"
        cells = [name, str(made["anchors_a_question"]), learnt, shown(told["loss"][tau]["value"], 3), *pope]
        rows.append([*cells, shown(chair["chair_i"]["value"], 1), shown(chair["recall"]["value"], 1)])
    head = [
        "tau",
        "anchors a question",
        "validation",
        "loss",
        *(f"POPE F1, {split}" for split in splits),
        "CHAIR-i",
        "recall",
    ]
    words = (
        f"`{told['command']}` trains a model a tau, all alike but for it: {sizes['training_conversations']} conversations "
        f"about fresh scenes, {used['epochs']:g} epoch, rank {used['rank']}, rate {used['learning_rate']:g}; the checkpoint is "
        f"chosen on {sizes['validation_conversations']} conversations (their loss before → after). Loss (nats a token) is "
        f"taken on {sizes['held_scenes']} scenes that no model saw, POPE and CHAIR on {sizes['asked_scenes']} of the test "
        "split; 95 % intervals over scenes. This is a small model and a small run: it shows that training works, and is no "
        "evidence for or against the method on a large one."
    )
    said = f"{differences(told)} {false_yes(told)}"
    return f"{words}\n\n{table(head, rows)}\n\n{said}\n\n![F1 and CHAIR-i over tau](figures/{FIGURE.name})"


def false_yes(told):
    """Whether wrong "yes" come with the absent object's word beside a patch."""
    anchored, alone = ([sum(made["false_yes"][key][at] for tau, made in told["trained"].items() if tau != "1") for at in (0, 1)]
                       for key in ("anchored", "not"))  # fmt: skip
    return (
        f"Over all tau below 1, {anchored[0]} of {anchored[1]} questions about an absent object were answered yes where its own "
        f"word had become an anchor, beside a patch of something else, and {alone[0]} of {alone[1]} where it had not."
    )


def draw(told):
    """F1 and CHAIR-i over tau; plain is the model trained with tau = 1."""
    lines = {f"F1, {name.rpartition('/')[2]}": [rows, "f1"] for name, rows in told["pope"].items()}
    lines["CHAIR-i"] = [told["chair"]["captions"], "chair_i"]
    rows = []
    for tau in sorted(told["loss"], key=float):
        row = {"tau": float(tau)}
        for name, (values, metric) in lines.items():
            row[name], row[f"{name}_low"], row[f"{name}_high"] = values[tau][metric]["value"]
        rows.append(row)
    moved = [row for row in rows if row["tau"] < 1]
    plain = {name: rows[-1][name] for name in lines}
    scores = [name for name in lines if name.startswith("F1")]
    panels = {"POPE F1 (%)": scores, "CHAIR-i (%)": ["CHAIR-i"]}
    plots.sweep(moved, "tau", panels, baseline=plain).savefig(FIGURE, dpi=150)


def differences(told):
    """What differs from tau = 1 beyond its paired interval, and in which direction."""
    found = {"loss": told["loss"]}
    for split, rows in told["pope"].items():
        found[f"POPE F1 {split.rpartition('/')[2]}"] = {tau: row["f1"] for tau, row in rows.items()}
    for name in ("chair_i", "recall"):
        rows = told["chair"]["captions"]
        found[{"chair_i": "CHAIR-i", "recall": "recall"}[name]] = {tau: row[name] for tau, row in rows.items()}
    better, worse, total = {}, {}, 0
    for name, rows in found.items():
        sign = -1 if name in ("loss", "CHAIR-i") else 1
        for tau, row in rows.items():
            if tau == "1":
                continue
            total += 1
            value, low, high = row["difference"]
            if low > 0 or high < 0:
                (better if sign * value > 0 else worse).setdefault(name, []).append((tau, value))
    return (
        f"Of {total} paired differences from tau = 1, {sum(map(len, better.values()))} are better beyond their interval"
        f"{listed(better)} and {sum(map(len, worse.values()))} worse{listed(worse)}; expect one in twenty by chance."
    )


def listed(found):
    parts = []
    for name, rows in found.items():
        values = sorted(value for _, value in rows)
        parts.append(f"{name} at {', '.join(tau for tau, _ in rows)} ({values[0]:+.3g} to {values[-1]:+.3g})")
    return f" ({'; '.join(parts)})" if parts else ""


def cost():
    rows, notes = [], []
    for name in ("mid", "scenes"):
        told = load(f"attanchor_cost_{name}_cpu")
        if told is None:
            continue
        plain, ours = told["rows"]
        ratios = [f"{ours[part]['ratio']:.3f} [{ours[part]['interval'][0]:.3f}, {ours[part]['interval'][1]:.3f}]"
                  for part in ("first token", "decoding", "total")]  # fmt: skip
        rows.append([f"{told['subject']}", f"{told['prompt tokens']} + {told['plain prompt tokens'] - told['prompt tokens']}",
                     f"{plain['total']['seconds']:.3f} s", *ratios, f"{ours['memory ratio']:.4f}"])  # fmt: skip
        notes.append(f"{told['rounds']} interleaved rounds on {told['device']}")
    if not rows:
        return "Not measured yet: `runs/attanchor_cost.sh`."
    head = ["", "prompt + anchors", "plain", "first token", "decoding", "total", "memory"]
    return (
        "`runs/attanchor_cost.sh`: seconds and peak memory as ratios to the plain model on a prompt as long, medians with 95 % "
        f"intervals; {notes[0]}.\n\n{table(head, rows)}"
    )


def filled(text, name, made):
    return re.sub(
        rf"(<!-- table: {name} -->\n).*?(<!-- end of table -->)",
        lambda found: f"{found[1]}{made}\n{found[2]}",
        text,
        flags=re.DOTALL,
    )


def main():
    text = PAGE.read_text("utf-8")
    new = text
    for name, make in {"presets": presets, "sweep": sweep, "cost": cost}.items():
        new = filled(new, name, make())
    if "--check" in sys.argv:
        sys.exit("docs/training.md is stale: run python runs/training_tables.py" if new != text else 0)
    PAGE.write_text(new, "utf-8")
    if (told := load("attanchor_scenes")) is not None:
        draw(told)


main()
