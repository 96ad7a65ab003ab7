"""A benchmark of your own: questions and scoring; sums, intervals, paired tests and resuming come with it."""

import json
from dataclasses import dataclass
from pathlib import Path

import vlm_anchors as va
from vlm_anchors import scenes
from vlm_anchors.evaluation.benchmarks import BENCHMARKS
from vlm_anchors.evaluation.benchmarks.base import Benchmark, Metric, Question, pooled
from vlm_anchors.evaluation.reporting import tables as report
from vlm_anchors.evaluation.reporting import text as report_text
from vlm_anchors.evaluation.runner import evaluate
from vlm_anchors.scenes.draw import save
from vlm_anchors.scenes.questions import NUMBERS, plural


@dataclass(frozen=True)
class Counting(Benchmark):
    name, version, source, licence = "counting", "1", "examples/your_benchmark.py", "Apache-2.0"
    note = "One word, compared with the right one."
    metrics_of = (Metric("accuracy", "higher"),)

    def questions(self, data, split=None):
        rows = [json.loads(line) for line in Path(data).read_text().splitlines()]
        return [Question(str(n), r["image"], r["question"], "all", {"count": r["count"]}) for n, r in enumerate(rows)]

    def counts(self, records):
        return [{"n": 1, "right": int(r["answer"].strip(".").lower() == r["truth"]["count"])} for r in records]

    def formulas(self, parts):
        sums = pooled(parts)
        return {"accuracy": sums["right"] / sums["n"]}


images, questions = Path("images"), Path("counting.jsonl")
images.mkdir(exist_ok=True)
lines = []
for scene in scenes.sample(12, seed=4):
    save(scene, images / f"{scene.seed}.png")
    name, count = next(iter(scene.counts.items()))
    question = f"How many {plural(name)} are there in the image?"
    lines.append(json.dumps({"image": f"{scene.seed}.png", "question": question, "count": NUMBERS[count]}))
questions.write_text("\n".join(lines))

BENCHMARKS.add(va.Entry("counting", f"{__name__}:Counting", "How many of a kind", "examples"))
evaluate(va.load("scenes"), "counting", "run", data=questions, images=images, methods=["none", "clva"])
print(report_text.terminal(report.tables(["run"])))
