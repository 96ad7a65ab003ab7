"""Task files for lmms-eval, written from a benchmark's own question files: its reader, protocol and scorer are ours.

A task is a YAML file and a file of questions beside it. The YAML names the functions of this module; every metric is
computed from all records by the benchmark's scorer, as `vlm-anchors report` does.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...evaluation.benchmarks import BENCHMARKS
from ...evaluation.benchmarks.base import Benchmark, Metric
from ...evaluation.benchmarks.protocols import Protocol, protocol
from ...evaluation.reading.files import find_image
from ...evaluation.runner.batches import asked, batches
from ...inputs.images import read_image
from ...version import __version__

HERE = __name__
YAML = """# Written by vlm-anchors {version}; write it again when the package or the question files change.
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: ""
doc_to_visual: !function {here}.images
process_results: !function {here}.records
generation_kwargs:
  max_new_tokens: {tokens}
  until: []
  do_sample: false
  temperature: 0
metric_list:
{metrics}
metadata:
  version: {version}
  benchmark: {benchmark}
  protocol: {protocol}
"""
METRIC = """  - metric: {name}
    aggregation: !function {here}.{name}
    higher_is_better: {higher}
"""


def write_task(
    benchmark: str,
    out: Path,
    *,
    data: Path,
    images: Path,
    split: str | None = None,
    limit: int | None = None,
    protocol_name: str | None = None,
) -> str:
    """Writes the task's two files into the folder `out`; returns its name, for lmms-eval's `--tasks`."""
    bench = BENCHMARKS.build(benchmark).at(data)
    chosen = protocol(bench.name, protocol_name)
    find = find_image(images)
    lines = []
    for group in batches(asked(bench, data, images, split, limit, chosen), 1):
        for one in group:
            image = None if one.question.image is None else str(find(one.question.image).resolve())
            record = {"benchmark": bench.spec(), **one.question.record("")}
            # One column of text: a table's columns have one type, and truths differ from question to question.
            lines.append({"prompt": one.prompt, "image": image, "record": json.dumps(record, ensure_ascii=False)})
    name = f"vlm_anchors_{bench.name}"
    out.mkdir(parents=True, exist_ok=True)
    questions = (out / f"{name}.jsonl").resolve()
    questions.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    (out / f"{name}.yaml").write_text(_yaml(name, questions, bench, chosen), "utf-8")
    return name


def _yaml(name: str, questions: Path, bench: Benchmark, chosen: Protocol) -> str:
    higher = {"higher": "true", "lower": "false", "neither": "null"}
    metrics = [METRIC.format(name=each.name, here=HERE, higher=higher[each.better]) for each in bench.metrics_of]
    return YAML.format(
        task=name, questions=json.dumps(str(questions)), here=HERE, tokens=chosen.max_new_tokens,
        metrics="".join(metrics).rstrip("\n"), version=__version__, benchmark=json.dumps(bench.spec()),
        protocol=json.dumps(chosen.describe()),
    )  # fmt: skip


@functools.lru_cache(maxsize=64)
def _image(path: str) -> Any:
    return read_image(path)


def images(doc: Mapping[str, Any]) -> list[Any]:
    """A question's image, if it has one; questions of one image get the same object."""
    return [] if doc["image"] is None else [_image(doc["image"])]


def records(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The answered question, for every metric."""
    record = {**json.loads(doc["record"]), "answer": results[0]}
    return {metric.name: record for metric in BENCHMARKS.build(record["benchmark"]).metrics_of}


def __getattr__(name: str) -> Callable[[Sequence[Mapping[str, Any]]], float | None]:
    """A metric by its name, as a function of all records: what the YAML's `aggregation` refers to."""
    if name.startswith("_"):
        raise AttributeError(name)

    def aggregate(answered: Sequence[Mapping[str, Any]]) -> float | None:
        bench: Benchmark = BENCHMARKS.build(answered[0]["benchmark"])
        metric: Metric = next(each for each in bench.metrics_of if each.name == name)
        return metric.shown(bench.score(answered).metrics[name])

    aggregate.__name__ = aggregate.__qualname__ = name
    return aggregate
