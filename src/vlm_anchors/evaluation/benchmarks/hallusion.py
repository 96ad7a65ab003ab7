"""HallusionBench: does the model see the figure, or what it expects?                             arXiv 2310.14566

    aAcc: questions right    fAcc: figures with every question right    qAcc: questions right on every figure of their set
    easy and hard: question sets counted over unedited (visual_input 0, 1) and edited figures (2)

Script: tianyi-lab/HallusionBench evaluation.py and utils.py; percents rounded to four places. Its correctness (0 wrong,
1 right, 2 unclear) comes from a GPT-4 judge; here an answer is read offline (dialect "vlmevalkit" as VLMEvalKit's exact
matching does), unread means 2, and a record that holds "correctness" is taken as judged. 2 is right for a question
without its figure (VS, figure 0) and wrong elsewhere. Differs: VLMEvalKit and lmms-eval leave out the 178 questions
without an image; `images_only` does so too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..reading.files import of_split, question_files, rows, unique
from ..reading.official import json_array
from ..reading.parsing import WITHOUT_LABEL, parse_yes_no, wordless
from ..reading.schema import KEY, LABELLED, TEXT, WORDS, Schema, nullable, optional, words_of
from .base import BadData, Benchmark, Counts, Metric, Metrics, Question, Record, one_of, pooled, switch

FIELDS = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
ROW = Schema(
    category=WORDS,
    subcategory=WORDS,
    visual_input=words_of("0", "1", "2", 0, 1, 2),
    set_id=KEY,
    figure_id=KEY,
    question_id=KEY,
    question=WORDS,
    gt_answer=words_of("0", "1"),
    filename=nullable(WORDS),
    sample_note=optional(TEXT),
    gt_answer_details=optional(TEXT),
)
FOR_THE_JUDGE = ("sample_note", "gt_answer_details")  # not scored here; the official script's judge reads them


@dataclass(frozen=True)
class Hallusion(Benchmark):
    """HallusionBench; `dialect` reads the answer, `images_only` drops the questions without an image."""

    dialect: str = "vlmevalkit"
    images_only: bool = False

    name = "hallusion"
    version = "2023-10 (1129 questions, 951 with an image)"
    source = "arXiv 2310.14566; github.com/tianyi-lab/HallusionBench"
    licence = "BSD-3-Clause"
    note = "The official numbers use a GPT-4 judge; these read yes and no offline. Compare like with like."
    metrics_of = (
        Metric("a_acc", "higher", "percent"),
        Metric("q_acc", "higher", "percent"),
        Metric("f_acc", "higher", "percent"),
        Metric("easy_acc", "higher", "percent"),
        Metric("hard_acc", "higher", "percent"),
        Metric("inconsistent", "lower", "percent"),
        Metric("yes_difference", "neither", bounded=False),
        Metric("false_positive_ratio", "neither"),
    )
    truth = Schema(LABELLED.fields, **dict.fromkeys(FIELDS, WORDS))
    protocols = ("hallusion-official", "vlmevalkit", "llava")
    yes_no = True

    def __post_init__(self):
        one_of(self, "dialect", WITHOUT_LABEL)
        switch(self, "images_only")

    def remark(self) -> str:
        return f"offline reading, dialect {self.dialect}"

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """HallusionBench.json: a JSON array; gt_answer "1" is yes, "0" no; filename null where there is no image."""
        path = next((p for p in question_files(data) if "result" not in p.stem), data)
        found = []
        for place, row in rows(path):
            label = {"0": "no", "1": "yes"}[ROW.check(row, place)["gt_answer"]]
            if self.images_only and row["filename"] is None:
                continue
            truth = {"label": label, **{field: str(row[field]) for field in FIELDS}}
            truth |= {field: row[field] for field in FOR_THE_JUDGE if field in row}
            image = row["filename"] and row["filename"].removeprefix("./").removeprefix("hallusion_bench/")
            found.append(
                Question(name_of(truth), image, row["question"], f"{row['category']}/{row['subcategory']}", truth)
            )
        return of_split(unique(found, path), split, path)

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """For evaluation.py: HallusionBench_result.json, the questions' fields with `model_prediction`."""
        return {"HallusionBench_result.json": json_array(map(result_of, records))}

    def counts(self, records: Sequence[Record]) -> list[Counts]:
        judged = [correctness(record, self.dialect) for record in records]
        right = [int(is_right(record, value)) for record, value in zip(records, judged, strict=True)]
        counts: list[Counts] = [
            {
                "n": 1,
                "right": ok,
                "unread": int(value == 2),
                "label_yes": int(record["truth"]["label"] == "yes"),
                "said_yes": int(ok == (record["truth"]["label"] == "yes")),
                "wrong_no": int(not ok and record["truth"]["label"] == "no"),
                **wordless(record["answer"], self.dialect),
            }
            for record, value, ok in zip(records, judged, right, strict=True)
        ]
        for name, (keep, key) in GROUPINGS.items():
            _group(counts, records, right, name, keep, key)
        return counts

    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        c = pooled(parts)
        wrong = c["n"] - c["right"]
        return {
            "a_acc": percent(c["right"], c["n"]),
            "q_acc": percent(c.get("pair_right", 0), c.get("pair", 0)),
            "f_acc": percent(c.get("figure_right", 0), c.get("figure", 0)),
            "easy_acc": percent(c.get("easy_right", 0), c.get("easy", 0)),
            "hard_acc": percent(c.get("hard_right", 0), c.get("hard", 0)),
            "inconsistent": percent(c.get("figure_mixed", 0), c.get("figure", 0)),
            "yes_difference": c["said_yes"] / c["n"] - c["label_yes"] / c["n"],
            "false_positive_ratio": c["wrong_no"] / wrong if wrong else None,
        }

    def cluster(self, record: Record) -> str:
        """A set: its figures share questions, so they are resampled together."""
        return "_".join(record["truth"][field] for field in ("category", "subcategory", "set_id"))


def name_of(truth: Mapping[str, str]) -> str:
    """The key of utils.py's get_eval_all."""
    return "_".join(truth[field] for field in ("category", "subcategory", "set_id", "figure_id", "question_id"))


def result_of(record: Record) -> dict[str, str]:
    """One entry of the official result file."""
    truth = dict(record["truth"])
    label = {"yes": "1", "no": "0"}[truth.pop("label")]
    return {**truth, "question": record["question"], "gt_answer": label, "model_prediction": record["answer"]}


def correctness(record: Record, dialect: str) -> int:
    """0 wrong, 1 right, 2 unclear: as judged where the record says so, else as read."""
    if "correctness" in record:
        if str(record["correctness"]) not in ("0", "1", "2"):
            raise BadData(
                f"The correctness of {record['id']} must be 0, 1 or 2; found {record['correctness']!r}. Correct it."
            )
        return int(record["correctness"])
    read = parse_yes_no(record["answer"], dialect)
    return 2 if read is None else int(read == record["truth"]["label"])


def is_right(record: Record, value: int) -> bool:
    """utils.py's assign_correctness."""
    return value == 1 or (value == 2 and _no_figure(record))


def _no_figure(record: Record) -> bool:
    return record["truth"]["category"] == "VS" and record["truth"]["figure_id"] == "0"


def _key(*fields: str) -> Callable[[Record], tuple[str, ...]]:
    return lambda record: tuple(record["truth"][field] for field in fields)


_PAIR = _key("category", "subcategory", "set_id", "question_id")
GROUPINGS: dict[str, tuple[Callable[[Record], bool], Callable[[Record], tuple[str, ...]]]] = {
    "figure": (lambda record: not _no_figure(record), _key("category", "subcategory", "set_id", "figure_id")),
    "pair": (lambda record: True, _PAIR),
    "easy": (lambda record: record["truth"]["visual_input"] != "2", _PAIR),
    "hard": (lambda record: record["truth"]["visual_input"] == "2", _PAIR),
}


def _group(counts: list[Counts], records: Sequence[Record], right: Sequence[int], name: str, keep, key) -> None:
    """Adds, at the first record of each group, one to `name` and to what became of the group."""
    members: dict[tuple[str, ...], list[int]] = {}
    for place, record in enumerate(records):
        if keep(record):
            members.setdefault(key(record), []).append(place)
    for places in members.values():
        good = sum(right[place] for place in places)
        outcome = "right" if good == len(places) else "wrong" if good == 0 else "mixed"
        counts[places[0]] |= {name: 1, f"{name}_{outcome}": 1}


def percent(above: float, below: float) -> float | None:
    """Rounded as evaluation.py prints it."""
    return round(100 * above / below, 4) if below else None
