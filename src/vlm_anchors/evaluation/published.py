"""Figures the two papers print, to show beside ours and labelled as theirs: published.csv.

The file holds every figure by table, model, method, benchmark, split and metric; known misprints are in its notes. The
papers' names of benchmarks and metrics are matched to ours here. A paper that does not name its metric is shown under our
headline, with a note saying so.
"""

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "published.csv"
UNNAMED = "the paper does not name the metric"


@dataclass(frozen=True)
class Figure:
    """One printed number."""

    arxiv: str
    table: str
    model: str
    method: str
    benchmark: str
    split: str
    metric: str
    value: float
    note: str


@dataclass(frozen=True)
class PublishedRow:
    """The figures of one method in one table of one paper, under our names of metrics."""

    arxiv: str
    table: str
    model: str
    method: str
    values: dict[str, float]
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.method}, {self.model} (theirs: arXiv {self.arxiv}, {self.table})"


# Their benchmark and split -> our benchmark and group. "" is a table over all groups.
ALL_POPE = "POPE (COCO, A-OKVQA, GQA averaged)"
PLACES = {
    (ALL_POPE, "average"): ("pope", ""),
    **{(ALL_POPE, kind): ("pope", kind) for kind in ("random", "popular", "adversarial")},
    **{("POPE COCO", kind): ("pope", f"coco/{kind}") for kind in ("random", "popular", "adversarial")},
    ("POPE", ""): ("pope", ""),
    ("CHAIR (500 COCO val2014 images, 128 new tokens)", ""): ("chair", ""),
    ("MME", ""): ("mme", ""),
    ("MME hallucination subset", ""): ("mme", ""),
    ("MME hallucination subset", "total"): ("mme", ""),
    **{("MME hallucination subset", task): ("mme", task) for task in ("existence", "count", "position", "color")},
    **{(name, ""): ("captions", "") for name in ("BLEU", "BERTScore", "METEOR", "CIDEr", "ROUGE-L")},
    ("VQAv2", ""): ("vqav2", ""),
    ("ScienceQA", ""): ("scienceqa", ""),
    ("GQA", ""): ("gqa", ""),
    ("VizWiz", ""): ("vizwiz", ""),
    ("MMBench", ""): ("mmbench", ""),
    ("AMBER", ""): ("amber", ""),
    ("HallusionBench", ""): ("hallusion", ""),
}
METRICS = {
    ("pope", "F1"): ("f1", "mean_f1"),
    ("pope", "accuracy"): ("accuracy", "mean_accuracy"),
    ("pope", ""): ("f1", "mean_f1"),
    ("chair", "CHAIR_s"): ("chair_s",),
    ("chair", "CHAIR_i"): ("chair_i",),
    ("chair", "recall"): ("recall",),
    ("mme", "score"): ("score",),
    ("mme", ""): ("score",),
    ("vqav2", ""): ("accuracy",),
    ("scienceqa", ""): ("accuracy",),
    ("gqa", ""): ("accuracy",),
    ("vizwiz", ""): ("accuracy",),
    ("mmbench", ""): ("accuracy",),
    ("amber", ""): ("f1",),
    ("hallusion", ""): ("a_acc",),
}
CAPTION_METRICS = {"BLEU": "bleu", "BERTScore": "bertscore", "METEOR": "meteor", "CIDEr": "cider", "ROUGE-L": "rouge_l"}
PRINTED_AS_FRACTION = ("bleu", "bertscore", "meteor", "rouge_l")


@functools.cache
def figures() -> tuple[Figure, ...]:
    """The whole file."""
    with FILE.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return tuple(Figure(value=float(row.pop("value")), **row) for row in rows)


def rows(benchmark: str, group: str = "", metrics: Sequence[str] = ()) -> list[PublishedRow]:
    """What the papers print for a benchmark and group, one row a method, table and model, in the file's order."""
    found: dict[tuple[str, str, str, str], PublishedRow] = {}
    for figure in figures():
        if PLACES.get((figure.benchmark, figure.split)) != (benchmark, group):
            continue
        key = (figure.arxiv, figure.table, figure.model, figure.method)
        row = found.get(key) or PublishedRow(*key, {}, ())
        names, value = our_metric(benchmark, group, figure)
        name = next((name for name in names if not metrics or name in metrics), None)
        if name is None:
            continue
        notes = [figure.note, UNNAMED if figure.metric == "" and benchmark != "captions" else ""]
        merged = tuple(dict.fromkeys((*row.notes, *filter(None, notes))))
        found[key] = PublishedRow(*key, {**row.values, name: value}, merged)
    return list(found.values())


def our_metric(benchmark: str, group: str, figure: Figure) -> tuple[Sequence[str], float]:
    """Our names for a printed number, the best first, and the number on the scale our tables show."""
    if benchmark == "captions":
        name = CAPTION_METRICS[figure.benchmark]
        return (name,), 100 * figure.value if name in PRINTED_AS_FRACTION else figure.value
    if figure.benchmark == "MME hallucination subset" and group == "":
        return ("hallucination",), figure.value
    names = METRICS[(benchmark, figure.metric)]
    # An average over several groups belongs beside our average, not beside the pooled number.
    averaged = benchmark == "pope" and figure.benchmark != "POPE COCO"
    return (tuple(reversed(names)) if averaged else names), figure.value


def of_model(found: Sequence[PublishedRow], model: str) -> list[PublishedRow]:
    """Those of the model at hand, found by its name ("llava-hf/llava-1.5-7b-hf" is "LLaVA-1.5-7B")."""
    plain = "".join(c for c in model.lower() if c.isalnum())
    return [row for row in found if "".join(c for c in row.model.lower() if c.isalnum()) in plain]
