"""The parts of runs/attanchor_scenes.sh that no command has: scenes as conversations, and results as one file.

    python runs/attanchor_scenes.py draw DIR --train 150 --held 100
    python runs/attanchor_scenes.py collect DIR --taus 1 0.5 ... -> results/attanchor_scenes.json

Three sets of scenes, none of which the bundled model was trained on: training (the train split's next seed), validation
(a few scenes that choose the checkpoint) and held-out ones, on which the loss is taken. POPE and CHAIR ask about scenes of
the test split. Intervals are bootstraps over scenes; differences are paired with tau = 1.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch

import vlm_anchors as va
from vlm_anchors import report
from vlm_anchors.benchmarks import BENCHMARKS
from vlm_anchors.provenance import provenance
from vlm_anchors.scenes import draw, sample
from vlm_anchors.scenes.questions import training_set
from vlm_anchors.train.collate import Collator
from vlm_anchors.train.data import read_data

ROOT = Path(__file__).parent.parent
VALIDATION = 10
SHOWN = {"pope": ("f1", "accuracy", "yes_ratio"), "chair": ("chair_i", "chair_s", "recall")}


def draw_all(folder, train, held):
    """Each scene as the conversations it teaches: eight questions and a caption."""
    folder.mkdir(parents=True)
    sets = {
        "train": sample(train, 1, split="train"),
        "validation": sample(VALIDATION, 1, split="val"),
        "held": sample(VALIDATION + held, 1, split="val")[VALIDATION:],
    }
    for name, scenes in sets.items():
        rows = []
        for scene in scenes:
            image = f"{name}_{scene.seed}.png"
            draw.save(scene, folder / image)
            for qa in training_set(random.Random(scene.seed), scene):
                said = [{"from": "human", "value": f"<image>\n{qa.question}"}, {"from": "gpt", "value": qa.answer}]
                rows.append({"image": image, "conversations": said})
        (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")


@torch.no_grad()
def losses(vlm, data):
    """(scenes, 2): nats and answer tokens of each scene's conversations, under the model's own method."""
    conversations, _ = read_data(data)
    place = {image: at for at, image in enumerate(dict.fromkeys(one.images[0] for one in conversations))}
    collator, sums = Collator(vlm), np.zeros((len(place), 2))
    with va.attach(vlm, vlm.method):
        for one in conversations:
            batch = collator([one.row()])
            count = int((batch["labels"] != -100).sum())
            sums[place[one.images[0]]] += float(vlm.model(**batch).loss) * count, count
    return sums


def interval(sums, draws=2000):
    """[value, low, high] of a quotient of sums over scenes; of several, one each from the same draws."""
    weights = np.random.default_rng(0).multinomial(len(sums[0]), [1 / len(sums[0])] * len(sums[0]), size=draws)
    drawn = [(weights @ one)[:, 0] / (weights @ one)[:, 1] for one in sums]
    whole = [one[:, 0].sum() / one[:, 1].sum() for one in sums]
    value, spread = (whole[0], drawn[0]) if len(sums) == 1 else (whole[0] - whole[1], drawn[0] - drawn[1])
    return [round(float(x), 5) for x in (value, *np.percentile(spread, [2.5, 97.5]))]


def benchmark_rows(runs, name):
    """Group -> tau -> metric -> [value, low, high] and the paired difference from tau = 1, in the report's own scale."""
    read = {tau: report.read_run(run / name) for tau, run in runs.items()}
    benchmark = BENCHMARKS.build(read["1"].info["benchmark"])
    records = [record for one in read.values() for record in one.records]
    plain = read["1"].records[0]["method"]
    of_method = {one.records[0]["method"]: tau for tau, one in read.items()}
    told = {}
    for group in dict.fromkeys(record["group"] for record in records):
        here = [record for record in records if record["group"] == group]
        told[group] = {
            of_method[row.method]: {metric: cell(row.cells[metric]) for metric in SHOWN[name]}
            for row in report.rows_of(benchmark, here, plain, 1000)
        }
    return told


def cell(one):
    found = {"value": [round(x, 2) for x in (one.value, one.low, one.high)]}
    if one.difference is not None:
        gap = one.difference
        found["difference"] = [round(x, 2) for x in (gap.value, gap.interval.low, gap.interval.high)]
        found["p"] = round(gap.p, 4)
    return found


def collect(out, taus):
    torch.set_num_threads(1)
    runs = {tau: out / f"tau-{tau}" for tau in taus}
    sums, trained = {}, {}
    for tau, run in runs.items():
        vlm = va.load(run, device="cpu")
        sums[tau] = losses(vlm, out / "data" / "held.json")
        made = json.loads((run / "training.json").read_text("utf-8"))
        asked = report.read_run(run / "pope").records
        inserted = [record["acted"].get("attanchor", {}).get("tokens_inserted", 0) for record in asked]
        trained[tau] = made["result"] | {
            "method": made["method"],
            "anchors_a_question": round(float(np.mean(inserted)), 2),
        }
    plain = json.loads((runs["1"] / "training.json").read_text("utf-8"))
    result = {
        "command": "runs/attanchor_scenes.sh",
        "sizes": {
            "training_conversations": plain["conversations"],
            "validation_conversations": plain["validation_conversations"],
            "held_scenes": len(sums["1"]),
            "asked_scenes": len({record["image"] for record in report.read_run(runs["1"] / "pope").records}),
            "settings": plain["settings"],
        },
        "calibrated_tau": json.loads((ROOT / "results" / "scenes_tau.json").read_text("utf-8"))["tau"],
        "trained": trained,
        "loss": {
            tau: {"value": interval([one]), "difference": interval([one, sums["1"]])} for tau, one in sums.items()
        },
        "pope": benchmark_rows(runs, "pope"),
        "chair": benchmark_rows(runs, "chair"),
        **provenance("cpu"),
    }
    (ROOT / "results" / "attanchor_scenes.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    drawing, collecting = commands.add_parser("draw"), commands.add_parser("collect")
    drawing.add_argument("--train", type=int, default=150)
    drawing.add_argument("--held", type=int, default=100)
    collecting.add_argument("--taus", nargs="+", required=True)
    for each in (drawing, collecting):
        each.add_argument("folder", type=Path)
    given = parser.parse_args()
    if given.command == "draw":
        draw_all(given.folder, given.train, given.held)
    else:
        collect(given.folder, given.taus)


main()
