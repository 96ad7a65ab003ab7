"""A benchmark of your own: questions and scoring; sums, intervals, paired tests and resuming come with it."""

import json
from dataclasses import dataclass
from pathlib import Path

import vlm_anchors as va
from vlm_anchors import scenes


@va.register
@dataclass(frozen=True)
class Counting(va.Benchmark):
    name, version, source, licence = "counting", "1", "examples/your_benchmark.py", "Apache-2.0"
    note = "One word, compared with the right one."
    metrics_of = (va.Metric("accuracy", "higher"),)

    def questions(self, data, split=None):
        rows = [json.loads(line) for line in Path(data).read_text().splitlines()]
        return [
            va.Question(str(n), r["image"], r["question"], "all", {"count": r["count"]}) for n, r in enumerate(rows)
        ]

    def counts(self, records):
        return [{"n": 1, "right": int(r["answer"].strip(".").lower() == r["truth"]["count"])} for r in records]

    def formulas(self, parts):
        return {"accuracy": parts["all"]["right"] / parts["all"]["n"]}


images, questions = Path("images"), Path("counting.jsonl")
images.mkdir(exist_ok=True)
lines = []
for scene in scenes.sample(12, seed=4):
    scenes.save(scene, images / f"{scene.seed}.png")
    name, count = next(iter(scene.counts.items()))
    number = ("zero", "one", "two", "three", "four")[count]
    question = f"How many objects of the kind {name} are there in the image?"
    lines.append(json.dumps({"image": f"{scene.seed}.png", "question": question, "count": number}))
questions.write_text("\n".join(lines))

va.evaluate(va.load("scenes"), "counting", "run-counting", data=questions, images=images, methods=["none", "clva"])
print(va.report("run-counting"))
