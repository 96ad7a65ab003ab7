"""Multiple choice: ScienceQA and MMBench.                                          arXiv 2209.09513, 2307.06281

    accuracy = questions answered with the right letter     circular = questions right in every rotation of their options

Scripts: LLaVA eval_science_qa.py (dialect "llava"); VLMEvalKit's can_infer for MMBench (dialect "vlmevalkit"), without
its language-model fallback: what it cannot read is unread and wrong here, as under its exact matching. A rotation that
was not asked does not count against a question.
"""

import base64
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import BadData, Benchmark, Counts, Metric, Metrics, Question, Record, one_of, pooled, ratio, switch
from .files import need, of_split, question_files, read_json, read_text, unique
from .official import json_lines, scored_elsewhere
from .parsing import LETTER_DIALECTS, parse_letter

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ROTATION = 1_000_000  # MMBench numbers the rotations of question 7 as 1000007, 2000007, ...


class _Choice(Benchmark):
    """What both share."""

    dialect: str

    def __post_init__(self):
        one_of(self, "dialect", LETTER_DIALECTS)

    def remark(self) -> str:
        return f"dialect {self.dialect}"

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """For LLaVA's scorer or converter: answers.jsonl, {"question_id", "prompt", "text"} a line."""
        return {"answers.jsonl": json_lines(map(answer_of, records))}

    def read(self, record: Record) -> str | None:
        return parse_letter(record["answer"].strip(), record["truth"]["options"], self.dialect)


def answer_of(record: Record) -> dict[str, Any]:
    """A line of LLaVA's answer file. ScienceQA knows problems by text, MMBench questions and rotations by number."""
    truth = record["truth"]
    key = truth["base"] + ROTATION * truth["turn"] if "base" in truth else record["id"]
    prompt = ("<image>\n" if record["image"] is not None else "") + record["question"]
    return {"question_id": key, "prompt": prompt, "text": record["answer"]}


@dataclass(frozen=True)
class ScienceQa(_Choice):
    """ScienceQA."""

    dialect: str = "llava"

    name = "scienceqa"
    version = "2022 (test)"
    source = "arXiv 2209.09513; github.com/lupantech/ScienceQA; LLaVA eval_science_qa.py"
    licence = "said to be CC BY-NC-SA 4.0, not confirmed"
    note = "Questions are worded hint, question, options A. B. C.; LLaVA's own file may word a few differently."
    metrics_of = (Metric("accuracy", "higher", "percent"), Metric("image_accuracy", "higher", "percent"))
    protocols = ("llava",)

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """The folder with problems.json and pid_splits.json; `split` is test (default), val, minival, ..."""
        problems, splits = read_json(data / "problems.json"), read_json(data / "pid_splits.json")
        wanted = split or "test"
        if wanted not in splits:
            raise BadData(f"{data / 'pid_splits.json'} has no split {wanted!r}. It has: {', '.join(splits)}.")
        found = []
        for place, pid in enumerate(splits[wanted], 1):
            if str(pid) not in problems:
                raise BadData(
                    f"problems.json has no problem {pid} of split {wanted}. Take both files from the same release."
                )
            found.append(_problem(str(pid), problems[str(pid)], wanted, data / "problems.json", place))
        return unique(found, data)

    def counts(self, records: Sequence[Record]) -> list[Counts]:
        counts: list[Counts] = []
        for record in records:
            letter = self.read(record)
            right, seen = int(letter == record["truth"]["answer"]), int(record["image"] is not None)
            unread = int(letter is None)
            counts.append({"n": 1, "right": right, "unread": unread, "seen": seen, "seen_right": right * seen})
        return counts

    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        c = pooled(parts)
        seen = ratio(c["seen_right"], c["seen"])
        return {"accuracy": c["right"] / c["n"] * 100, "image_accuracy": None if seen is None else seen * 100}


def _problem(pid: str, row: Mapping, split: str, path: Path, place: int) -> Question:
    need(row, ("question", "choices", "answer"), path, place)
    if not 0 <= row["answer"] < len(row["choices"]):
        raise BadData(
            f"{path}, problem {pid}: answer {row['answer']} is none of its {len(row['choices'])} choices. Correct it."
        )
    text = worded(row.get("hint") or "", row["question"], row["choices"])
    image = f"{split}/{pid}/{row['image']}" if row.get("image") else None
    truth = {"answer": LETTERS[row["answer"]], "options": list(row["choices"])}
    return Question(pid, image, text, row.get("subject", "all"), truth)


def worded(hint: str, question: str, options: Sequence[str]) -> str:
    """LLaVA's wording: hint, question, and one option a line."""
    lines = [*([hint] if hint else []), question, *(f"{LETTERS[i]}. {option}" for i, option in enumerate(options))]
    return "\n".join(lines)


@dataclass(frozen=True)
class MmBench(_Choice):
    """MMBench; `circular` asks every question once for each rotation of its options."""

    dialect: str = "vlmevalkit"
    circular: bool = False

    name = "mmbench"
    version = "2023-07 (dev, LLaVA's mmbench_dev_20230712)"
    source = "arXiv 2307.06281; github.com/open-compass/MMBench; LLaVA model_vqa_mmbench.py"
    licence = "not confirmed"
    note = "The official reading may ask GPT what an answer means; this one does not. The test split is scored by the server."
    metrics_of = (Metric("accuracy", "higher"), Metric("circular", "higher"))
    protocols = ("llava",)

    def __post_init__(self):
        super().__post_init__()
        switch(self, "circular")

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """A TSV with index, question, hint, A to D, answer (not where "test" is in its name), category, image in base64."""
        path = question_files(data, (".tsv",))[0]
        found: list[Question] = []
        for line, row in table(path):
            need(row, ("index", "question", "A", "B", *([] if _is_test(path) else ["answer"])), path, line)
            found.extend(self._rotations(row, path, line))
        return of_split(unique(found, path), split, path)

    def _rotations(self, row: Mapping[str, str], path: Path, line: int) -> Iterator[Question]:
        options = [row[letter] for letter in LETTERS if not _none(row.get(letter))]
        known = not _is_test(path)
        if known and row["answer"] not in LETTERS[: len(options)]:
            raise BadData(
                f"{path}, line {line}: the answer {row['answer']!r} is none of its {len(options)} options. Correct it."
            )
        index, right = int(row["index"]), LETTERS.index(row["answer"]) if known else 0
        group = row.get("l2-category") or row.get("category") or "all"
        # A file that has the rotations already brings its own; else they are made here.
        turns = len(options) if self.circular and index < ROTATION else 1
        for turn in range(turns):
            turned = options[turn:] + options[:turn]
            hint = "" if _none(row.get("hint")) else row["hint"]
            letter = LETTERS[(right - turn) % len(options)] if known else None
            truth = {"answer": letter, "options": turned, "base": index % ROTATION, "turn": turn or index // ROTATION}
            key = str(index) if turns == 1 else f"{index}/{turn}"
            yield Question(key, f"{index % ROTATION}.jpg", worded(hint, row["question"], turned), group, truth)

    def cluster(self, record: Record) -> str:
        return str(record["truth"]["base"])

    def counts(self, records: Sequence[Record]) -> list[Counts]:
        counts: list[Counts] = []
        groups: dict[int, list[int]] = {}
        for place, record in enumerate(records):
            if record["truth"]["answer"] is None:
                raise scored_elsewhere(self.name)
            letter = self.read(record)
            right, first = int(letter == record["truth"]["answer"]), int(record["truth"]["turn"] == 0)
            # Plain accuracy is over the questions as they are, not over their rotations.
            counts.append(
                {"n": 1, "right": right, "unread": int(letter is None), "first": first, "first_right": right * first}
            )
            groups.setdefault(record["truth"]["base"], []).append(place)
        for places in groups.values():
            counts[places[0]] |= {"base": 1, "base_right": int(all(counts[place]["right"] for place in places))}
        return counts

    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        c = pooled(parts)
        turned = c["n"] > c["base"]
        return {
            "accuracy": ratio(c["first_right"], c["first"]),
            "circular": ratio(c["base_right"], c["base"]) if turned else None,
        }


def table(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a TSV as pandas reads them: tabs, double quotes around cells that need them."""
    read_text(path)
    csv.field_size_limit(sys.maxsize)  # a cell holds a whole image
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t")
        for number, row in enumerate(reader, 2):
            if None in row or any(value is None for value in row.values()):
                raise BadData(
                    f"{path}, line {number}: expected {len(reader.fieldnames or ())} columns. Is the file cut off?"
                )
            yield number, row


def _is_test(path: Path) -> bool:
    """MMBench's test split comes without answers."""
    return "test" in path.stem.lower()


def _none(value: str | None) -> bool:
    """LLaVA's is_none: missing, NaN or the word none."""
    return value is None or value.lower() in ("", "nan", "none")


def unpack_images(path: Path, folder: Path) -> int:
    """Writes the images a TSV holds to `folder`, named by index; how many. Rotations point to their question's image."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for line, row in table(path):
        need(row, ("index", "image"), path, line)
        if int(row["index"]) < ROTATION:
            (folder / f"{row['index']}.jpg").write_bytes(base64.b64decode(row["image"]))
            count += 1
    return count
