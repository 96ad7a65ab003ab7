"""POPE: "Is there a ... in the image?", half of them yes.                                     arXiv 2305.10355

    accuracy = (TP + TN) / n   precision = TP / (TP + FP)   recall = TP / (TP + FN)   F1 = 2 P R / (P + R)   yes is positive

Script: AoiDragon/POPE evaluate.py, which LLaVA's eval_pope.py repeats. It reads every answer as yes or no (dialect
"pope"), so nothing is unread there; the other dialects and what they do with the same words are in parsing.py.
Differs: answers belong to questions by id here, by line there; where the script divides by zero, the number is None;
"imange", a misprint of older files that VCD's copies share, is asked as "image" and counted in the remark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..reading.files import question_files, rows, unique
from ..reading.official import by_group, json_lines, safe_name
from ..reading.parsing import YES_NO_DIALECTS, parse_yes_no, wordless
from ..reading.schema import KEY, LABEL, LABELLED, WORDS, Schema
from .base import BadData, Benchmark, Counts, Metric, Metrics, Question, Record, one_of, pooled, ratio

KINDS = ("random", "popular", "adversarial")
SOURCES = ("coco", "aokvqa", "gqa", "scenes")
MISPRINT = "imange"  # files before October 2023 replaced "a" by "an" inside "image" too
OLD_RANDOM = 2910  # questions of the random split before October 2023; 3000 since
ROW = Schema(question_id=KEY, image=WORDS, text=WORDS, label=LABEL)


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
    truth = LABELLED
    protocols = ("llava", "vcd", "opera", "icd", "pai", "clearsight", "imccd", "deco", "vista", "lmms", "clva", "bare")
    yes_no = True

    def __post_init__(self):
        one_of(self, "dialect", YES_NO_DIALECTS)

    def remark(self) -> str:
        return f"dialect {self.dialect}"

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """JSON lines (COCO) or a JSON array (A-OKVQA, GQA): question_id, image, text, label."""
        found: list[Question] = []
        by_file: dict[str, list[Question]] = {}
        for path in question_files(data):
            group = group_of(path)
            if split is not None and split not in group:
                continue
            read = read_file(path, group)
            by_file[path.name] = read
            found.extend(read)
        if not found:
            raise BadData(f"{data} has no split {split!r}. It has: {', '.join(map(group_of, question_files(data)))}.")
        one_age(by_file, data)
        return unique(found, data)

    def remark_on(self, records: Sequence[Record]) -> str:
        corrected = sum("misprint" in record["truth"] for record in records)
        return (
            f"{self.remark()}; {corrected} questions had {MISPRINT!r}, asked as 'image'" if corrected else self.remark()
        )

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """For evaluate.py: a file a split, {"question", "answer"} a line, in the order of the questions."""
        return {
            f"{safe_name(group)}.jsonl": json_lines({"question": r["question"], "answer": r["answer"]} for r in members)
            for group, members in by_group(records).items()
        }

    def counts(self, records: Sequence[Record]) -> list[Counts]:
        known: dict[tuple[str, str], Counts] = {}  # answers are few, and each is read once
        made = []
        for record in records:
            key = record["answer"], record["truth"]["label"]
            if (counts := known.get(key)) is None:
                counts = known[key] = yes_no_counts(record, self.dialect)
            made.append(counts)
        return made

    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        # These two scripts print 0 where the official one dies of a division by zero.
        empty = 0.0 if self.dialect in ("lmms", "vlmevalkit") else None
        whole = yes_no_metrics(pooled(parts), empty)
        each = [yes_no_metrics(part, empty) for part in parts.values()]
        return {**whole, "mean_f1": mean([m["f1"] for m in each]), "mean_accuracy": mean([m["accuracy"] for m in each])}


def read_file(path: Path, group: str) -> list[Question]:
    """The questions of one official file; the old misprint is corrected, and noted in their truth."""
    found = []
    for place, row in rows(path):
        ROW.check(row, place)
        text, truth = row["text"], {"label": row["label"]}
        if MISPRINT in text:
            text, truth = text.replace(MISPRINT, "image"), {**truth, "misprint": MISPRINT}
        found.append(Question(f"{group}/{row['question_id']}", row["image"], text, group, truth))
    return unique(found, path)


def group_of(path: Path) -> str:
    """`coco/random` from coco_pope_random.json; the stem where the name says neither."""
    stem = path.stem.lower()
    kind = next((kind for kind in KINDS if kind in stem), None)
    source = next((source for source in SOURCES if source in stem), None)
    if kind is None:
        return path.stem
    return f"{source}/{kind}" if source else kind


def one_age(by_file: Mapping[str, Sequence[Question]], data: Path) -> None:
    """Splits of two releases hold different questions; their average would be of nothing.

    The old release is known by the size of its random split, and has the misprint in every split. The misprint alone does
    not tell: one of VCD's copies of the current files has it too.
    """
    old = [name for name, questions in by_file.items() if len(questions) == OLD_RANDOM]
    new = [
        name
        for name, questions in by_file.items()
        if name not in old and not any("misprint" in question.truth for question in questions)
    ]
    if old and new:
        raise BadData(
            f"{data} mixes two releases of POPE: {old[0]} is from before October 2023 ({OLD_RANDOM} random questions), "
            f"{new[0]} is current (3000). Take all from one release, or give one file."
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
        **wordless(record["answer"], dialect),
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
