"""MME: two yes-no questions an image, fourteen sub-tasks.                                     arXiv 2306.13394

    score of a sub-task = 100 acc + 100 acc+     acc: questions answered right     acc+: images with both right
    perception = sum of ten sub-tasks (2000 at most)     cognition = sum of four (800)
    hallucination subset = existence + count + position + color (800)

Script: calculation.py of BradyFU's eval_tool. An answer that is neither yes nor no is "other": wrong, and unread here.
Differs: the two questions of an image are found by its name, not by standing on neighbouring lines; in the official
files both give the same pairs.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..reading.files import of_split, question_files, read_text, unique
from ..reading.official import by_group
from ..reading.parsing import WITHOUT_LABEL, parse_yes_no, wordless
from ..reading.schema import LABELLED, short
from .base import BadData, Benchmark, Counts, Metric, Metrics, Question, Record, one_of, ratio

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
HALLUCINATION = ("existence", "count", "position", "color")
ONE_SIGN = re.compile("[\t\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")


@dataclass(frozen=True)
class Mme(Benchmark):
    """MME; `dialect` says how an answer is read."""

    dialect: str = "mme"

    name = "mme"
    version = "2023-06 (2374 questions)"
    source = "arXiv 2306.13394; BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation"
    licence = "no licence text found"
    note = "`perception`, `cognition` and `hallucination` are shown where all their sub-tasks were answered."
    metrics_of = (
        Metric("score", "higher", "points"),
        Metric("accuracy", "higher"),
        Metric("accuracy_plus", "higher"),
        Metric("perception", "higher", "points"),
        Metric("cognition", "higher", "points"),
        Metric("hallucination", "higher", "points"),
    )
    truth = LABELLED
    protocols = ("mme-official", "llava", "memvr", "imccd", "clva")
    yes_no = True

    def __post_init__(self):
        one_of(self, "dialect", WITHOUT_LABEL)

    def remark(self) -> str:
        return f"dialect {self.dialect}"

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """A folder of `existence.txt`, ...: image, question and answer in columns divided by tabs."""
        paths = [p for p in question_files(data, (".txt",)) if p.is_file() and p.stem in (*PERCEPTION, *COGNITION)]
        if not paths:
            raise BadData(f"{data} holds none of MME's sub-tasks. Expected files such as existence.txt or OCR.txt.")
        found = [question for path in paths for question in read_task(path)]
        return of_split(unique(found, data), split, data)

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """For calculation.py: existence.txt, ...: image, question, answer and response in columns divided by tabs."""
        return {
            f"{task}.txt": "".join("\t".join(columns_of(record)) + "\n" for record in members)
            for task, members in by_group(records).items()
        }

    def counts(self, records: Sequence[Record]) -> list[Counts]:
        right = [int(parse_yes_no(r["answer"], self.dialect) == r["truth"]["label"]) for r in records]
        both: Counter[tuple[str, str]] = Counter()
        asked: Counter[tuple[str, str]] = Counter()
        for record, ok in zip(records, right, strict=True):
            both[pair_of(record)] += ok
            asked[pair_of(record)] += 1
        whole_pairs(asked)
        # An image's acc+ is counted half at each of its two questions, so a sum over records is a sum over images.
        return [
            {
                "n": 1,
                "right": ok,
                "pairs": 0.5,
                "both": 0.5 * (both[pair_of(record)] == 2),
                "unread": int(parse_yes_no(record["answer"], self.dialect) is None),
                **wordless(record["answer"], self.dialect),
            }
            for record, ok in zip(records, right, strict=True)
        ]

    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        scores = {task: task_score(counts) for task, counts in parts.items()}
        n, pairs = sum(c["n"] for c in parts.values()), sum(c["pairs"] for c in parts.values())
        return {
            "score": total_of(scores, tuple(scores)),
            "accuracy": ratio(sum(c["right"] for c in parts.values()), n),
            "accuracy_plus": ratio(sum(c["both"] for c in parts.values()), pairs),
            "perception": total_of(scores, PERCEPTION),
            "cognition": total_of(scores, COGNITION),
            "hallucination": total_of(scores, HALLUCINATION),
        }


def read_task(path: Path) -> list[Question]:
    """One sub-task's file; its name is the sub-task's name."""
    found: list[Question] = []
    lines = [(number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    for number, line in lines:
        place, columns = f"{path}, line {number}", line.rstrip("\r").split("\t")
        if len(columns) not in (3, 4):
            raise BadData(
                f"{place}: expected image, question and answer divided by tabs; found {len(columns)} column(s). "
                f"A response must not hold tabs or line breaks."
            )
        image, text, label = columns[:3]
        for column, value in (("image", image), ("question", text)):
            if not value.strip():
                raise BadData(f"{place}: expected the {column} in its column; found {short(value)}. Correct it.")
        if label not in ("Yes", "No"):
            raise BadData(f"{place}: the answer must be 'Yes' or 'No'; found {label!r}. Correct it.")
        found.append(Question(f"{path.stem}/{len(found) + 1}", image, text, path.stem, {"label": label.lower()}))
    seen: dict[str | None, int] = {}
    for place_in_file in range(0, len(found), 2):
        pair, number = found[place_in_file : place_in_file + 2], lines[place_in_file][0]
        if len(pair) < 2 or pair[0].image != pair[1].image:
            raise BadData(
                f"{path}, line {number}: expected two questions on {pair[0].image}, one after the other. "
                f"The official score pairs neighbouring lines; the file is cut off or was shuffled."
            )
        if pair[0].image in seen:
            raise BadData(
                f"{path}, line {number}: {pair[0].image} was asked about in line {seen[pair[0].image]} already. Expected two "
                f"questions an image; the file holds something twice."
            )
        seen[pair[0].image] = number
    return found


def columns_of(record: Record) -> tuple[str, str, str, str]:
    """One line of the official results folder; breaks and tabs in the response would begin another column.

    Each becomes one blank and none goes: the script looks at the first four characters, whatever they are.
    """
    label, response = record["truth"]["label"].capitalize(), ONE_SIGN.sub(" ", record["answer"])
    return str(record["image"]), record["question"], label, response


def pair_of(record: Record) -> tuple[str, str]:
    """The two questions of an image in a sub-task belong together."""
    return record["group"], str(record["image"])


def whole_pairs(asked: Mapping[tuple[str, str], int]) -> None:
    """acc+ needs both answers of an image."""
    for (task, image), times in asked.items():
        if times != 2:
            raise BadData(
                f"MME's {task} has {times} answer(s) on {image}; acc+ needs exactly two an image. "
                f"Answer the missing questions, or use an even --limit."
            )


def task_score(counts: Mapping[str, float]) -> float:
    """100 acc + 100 acc+, in the script's own order of operations."""
    return counts["right"] / counts["n"] * 100 + counts["both"] / counts["pairs"] * 100


def total_of(scores: Mapping[str, float], tasks: Sequence[str]) -> float | None:
    """Sum over sub-tasks; None where one was not answered."""
    return sum(scores[task] for task in tasks) if all(task in scores for task in tasks) else None
