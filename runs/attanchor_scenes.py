"""AttAnchor trained as its paper does, a model a tau: LoRA on the bundled model and freshly drawn scenes, all else alike.

    python runs/attanchor_scenes.py [--train 150] [--scenes 100] [--taus 1 0.5 ...] -> results/attanchor_scenes.json

tau = 1 is the plain model, trained alike. Three sets of scenes, none of which the bundled model was trained on: training
(the train split's next seed), validation (a few scenes that choose the checkpoint) and held-out ones, on which the loss
is taken. POPE and CHAIR ask about scenes of the test split. Intervals are bootstraps over scenes; differences are
paired with tau = 1. Run again after a kill, it goes on; the file holds the taus that are done.
"""

import argparse
import csv
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

import vlm_anchors as va
from vlm_anchors.evaluation.reporting import tables as report
from vlm_anchors.evaluation.runner import evaluate
from vlm_anchors.evaluation.runner.bundled import export
from vlm_anchors.provenance import provenance
from vlm_anchors.scenes import draw, sample
from vlm_anchors.scenes.questions import training_set
from vlm_anchors.training.collate import Collator
from vlm_anchors.training.data import read_data
from vlm_anchors.training.presets import settings
from vlm_anchors.training.run import train

ROOT = Path(__file__).parent.parent
VALIDATION = 10
TAU = json.loads((ROOT / "results" / "scenes_tau.json").read_text("utf-8"))["tau"]  # anchors a tenth of the words
TAUS = (1.0, TAU, 0.08, 0.12, 0.16, 0.1, 0.14, 0.2, 0.3, 0.5)
SETTINGS = {"precision": "fp32", "epochs": 1, "eval_steps": 20, "learning_rate": 5e-4}
ASKED = {"pope": ("pope", "bare"), "chair": ("chair:lemma=fixed", "clva")}
SHOWN = {"pope": ("f1", "accuracy", "yes_ratio"), "chair": ("chair_i", "chair_s", "recall")}


def draw_all(folder, train, held):
    """Each scene as the conversations it teaches: eight questions and a caption."""
    folder.mkdir(parents=True, exist_ok=True)
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


def run_one(out, tau):
    """Trains, asks and measures one model; what is there already stays."""
    run = out / f"tau-{tau:g}"
    if not (run / "anchors.json").exists():
        train(
            "scenes", out / "data" / "train.json", run, validation=out / "data" / "validation.json", device="cpu",
            settings=settings(tau=tau, **SETTINGS),
        )  # fmt: skip
    vlm = va.load(run, device="cpu")
    for name, (benchmark, protocol) in ASKED.items():
        evaluate(
            vlm, benchmark, run / name, data=out / "asked" / name, images=out / "asked" / "images", methods=[vlm.method],
            protocol_name=protocol, decoding="greedy", batch_size=36,
        )  # fmt: skip
    if not (run / "held.json").exists():
        (run / "held.json").write_text(json.dumps(losses(vlm, out / "data" / "held.json").tolist()), "utf-8")


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
    benchmark = report.benchmark_of(read["1"])
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


def false_yes(asked):
    """Of questions about absent objects, by whether the object's own word became an anchor: (answered yes, asked)."""
    told = {"anchored": [0, 0], "not": [0, 0]}
    for record in asked:
        if record["truth"]["label"] == "no":
            named = set(record["question"].removeprefix("Is there ").removesuffix(" in the image?").split())
            words = {anchor["word"] for anchor in record["effects"]["attanchor"]["anchors"]}
            counts = told["anchored" if (named - {"a", "an"}) & words else "not"]
            counts[0] += record["answer"].lower().startswith("yes")
            counts[1] += 1
    return told


def before(run):
    """Loss of the untrained model on the validation scenes, with this run's anchors."""
    with (run / "loss.csv").open() as file:
        return float(next(csv.DictReader(file))["validation"])


def collect(out, taus):
    """The results of the models that are done."""
    runs = {f"{tau:g}": out / f"tau-{tau:g}" for tau in taus}
    sums = {tau: np.array(json.loads((run / "held.json").read_text("utf-8"))) for tau, run in runs.items()}
    trained, sizes = {}, {}
    for tau, run in runs.items():
        made = json.loads((run / "training.json").read_text("utf-8"))
        asked = report.read_run(run / "pope").records
        inserted = [record["effects"]["attanchor"]["tokens_inserted"] for record in asked]
        trained[tau] = made["result"] | {
            "loss_before": before(run),
            "anchors_a_question": round(float(np.mean(inserted)), 2),
            "false_yes": false_yes(asked),
        }
        sizes = {
            "training_conversations": made["conversations"],
            "validation_conversations": made["validation_conversations"],
            "held_scenes": len(sums[tau]),
            "asked_scenes": len({record["image"] for record in asked}),
            "settings": {name: value for name, value in made["settings"].items() if name != "tau"},
        }
    result = {
        "command": "runs/attanchor_scenes.sh",
        "sizes": sizes,
        "calibrated_tau": TAU,
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "out" / "attanchor_scenes")
    parser.add_argument("--train", type=int, default=150, help="scenes, nine conversations each")
    parser.add_argument("--scenes", type=int, default=100, help="held-out scenes, and scenes that are asked about")
    parser.add_argument("--taus", type=float, nargs="+", default=TAUS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not (given.out / "data" / "held.json").exists():
        draw_all(given.out / "data", given.train, given.scenes)
    export(given.out / "asked", ("pope", "chair"), given.scenes)
    for done, tau in enumerate(given.taus, 1):
        print(f"tau {tau:g}", file=sys.stderr, flush=True)
        run_one(given.out, tau)
        collect(given.out, sorted(given.taus[:done], reverse=True))


main()
