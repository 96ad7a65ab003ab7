"""POPE: "Is there a ... in the image?", half of them yes.                                     arXiv 2305.10355

    accuracy = (TP + TN) / n   precision = TP / (TP + FP)   recall = TP / (TP + FN)   F1 = 2 P R / (P + R)   yes is positive

Script: AoiDragon/POPE evaluate.py, which LLaVA's eval_pope.py repeats. It reads every answer as yes or no (dialect
"pope"), so nothing is unread there; the other dialects and what they do with the same words are in reading.py.
Differs: answers belong to questions by id here, by line there; where the script divides by zero, the number is None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .base import BadData, Benchmark, Counts, Metric, Metrics, Question, Record, one_of, pooled, ratio
from .files import need, question_files, rows, unique, word
from .official import by_group, json_lines, safe_name
from .parsing import YES_NO_DIALECTS, parse_yes_no

KINDS = ("random", "popular", "adversarial")
SOURCES = ("coco", "aokvqa", "gqa", "scenes")
MISPRINT = "imange"  # files before October 2023 replaced "a" by "an" inside "image" too


@dataclass(frozen=True)
class Pope(Benchmark):
    """POPE; `dialect` says how an answer is read."""

    dialect: str = "pope"

    name = "pope"
    version = "2023-10 (3000 questions a split)"
    source = "arXiv 2305.10355; github.com/AoiDragon/POPE"
    licence = "MIT"
    note = "Greedy or sampled and the words after the question move the number more than most methods do."
    metrics_of = (
        Metric("f1", "higher"),
        Metric("accuracy", "higher"),
        Metric("mean_f1", "higher"),
        Metric("mean_accuracy", "higher"),
        Metric("precision", "higher"),
        Metric("recall", "higher"),
        Metric("yes_ratio", "neither"),
    )
    protocols = ("llava", "vcd", "opera", "icd", "pai", "clearsight", "imccd", "deco", "vista", "lmms", "clva", "bare")
    yes_no = True

    def __post_init__(self):
        one_of(self, "dialect", YES_NO_DIALECTS)

    def remark(self) -> str:
        return f"dialect {self.dialect}"

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """JSON lines (COCO) or a JSON array (A-OKVQA, GQA): question_id, image, text, label."""
        found: list[Question] = []
        ages: dict[str, str] = {}
        for path in question_files(data):
            group = group_of(path)
            if split is not None and split not in group:
                continue
            read = read_file(path, group)
            ages[path.name] = age_of(read)
            found.extend(read)
        if not found:
            raise BadData(f"{data} has no split {split!r}. It has: {', '.join(map(group_of, question_files(data)))}.")
        one_age(ages, data)
        return unique(found, data)

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """For evaluate.py: a file a split, {"question", "answer"} a line, in the order of the questions."""
        return {
            f"{safe_name(group)}.jsonl": json_lines({"question": r["question"], "answer": r["answer"]} for r in members)
            for group, members in by_group(records).items()
        }

    def counts(self, records: Sequence[Record]) -> list[Counts]:
        return [yes_no_counts(record, self.dialect) for record in records]

    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        # These two scripts print 0 where the official one dies of a division by zero.
        empty = 0.0 if self.dialect in ("lmms", "vlmevalkit") else None
        whole = yes_no_metrics(pooled(parts), empty)
        each = [yes_no_metrics(part, empty) for part in parts.values()]
        return {**whole, "mean_f1": mean([m["f1"] for m in each]), "mean_accuracy": mean([m["accuracy"] for m in each])}


def read_file(path: Path, group: str) -> list[Question]:
    """The questions of one official file."""
    found = []
    for line, row in rows(path):
        need(row, ("question_id", "image", "text", "label"), path, line)
        label = word(row, "label", ("yes", "no"), path, line)
        found.append(Question(f"{group}/{row['question_id']}", str(row["image"]), row["text"], group, {"label": label}))
    return unique(found, path)


def group_of(path: Path) -> str:
    """`coco/random` from coco_pope_random.json; the stem where the name says neither."""
    stem = path.stem.lower()
    kind = next((kind for kind in KINDS if kind in stem), None)
    source = next((source for source in SOURCES if source in stem), None)
    if kind is None:
        return path.stem
    return f"{source}/{kind}" if source else kind


def age_of(questions: Sequence[Question]) -> str:
    """Which release a file belongs to; the number of questions or the old misprint tells."""
    old = len(questions) == 2910 or any(MISPRINT in question.text for question in questions)
    return "before October 2023" if old else "current"


def one_age(ages: Mapping[str, str], data: Path) -> None:
    """Splits of two releases hold different questions; their average would be of nothing."""
    if len(set(ages.values())) > 1:
        old = next(name for name, age in ages.items() if age != "current")
        new = next(name for name, age in ages.items() if age == "current")
        raise BadData(
            f"{data} mixes two releases of POPE: {old} is from before October 2023 (2910 random questions, 'imange'), {new} "
            f"is current (3000). Take all from one release, or give one file."
        )


def yes_no_counts(record: Record, dialect: str) -> Counts:
    """tp, fp, tn, fn, right, unread and yes of one answer, as the dialect's script counts them."""
    label = record["truth"]["label"]
    read = parse_yes_no(record["answer"], dialect, label)
    positive = label == "yes"
    # lmms-eval leaves unread answers out of recall and takes its yes ratio from the labels; both are reproduced.
    missed = positive and (read == "no" or (read is None and dialect != "lmms"))
    return {
        "n": 1,
        "tp": int(positive and read == "yes"),
        "fn": int(missed),
        "fp": int(not positive and read == "yes"),
        "tn": int(not positive and read == "no"),
        "right": int(read == label),
        "unread": int(read is None),
        "yes": int(positive if dialect == "lmms" else read == "yes"),
    }


def yes_no_metrics(counts: Mapping[str, float], empty: float | None = None) -> Metrics:
    """The five numbers of evaluate.py; `empty` stands where one is undefined."""
    precision = ratio(counts["tp"], counts["tp"] + counts["fp"])
    recall = ratio(counts["tp"], counts["tp"] + counts["fn"])
    f1 = None
    if precision is not None and recall is not None:
        f1 = ratio(2 * precision * recall, precision + recall)
    metrics = {
        "f1": f1,
        "accuracy": ratio(counts["right"], counts["n"]),
        "precision": precision,
        "recall": recall,
        "yes_ratio": ratio(counts["yes"], counts["n"]),
    }
    return {name: empty if value is None else value for name, value in metrics.items()}


def mean(values: Sequence[float | None]) -> float | None:
    """Average; None where one of them is undefined."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
