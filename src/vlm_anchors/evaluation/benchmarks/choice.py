"""Multiple choice: ScienceQA and MMBench.                                          arXiv 2209.09513, 2307.06281

    accuracy = questions answered with the right letter     circular = questions right in every rotation of their options

Scripts: LLaVA eval_science_qa.py (dialect "llava"); VLMEvalKit's can_infer for MMBench (dialect "vlmevalkit"), without
its language-model fallback: what it cannot read is unread and wrong here, as under its exact matching. A rotation that
was not asked does not count against a question.
"""

import base64
import binascii
import csv
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..reading.files import of_split, question_files, read_object, read_text, unique
from ..reading.official import json_lines, scored_elsewhere
from ..reading.parsing import LETTER_DIALECTS, parse_letter
from ..reading.schema import KEY, NUMBER, TEXT, WORDS, Kind, Schema, list_of, nullable, optional, short, words_of
from .base import BadData, Benchmark, Counts, Metric, Metrics, Question, Record, one_of, pooled, ratio, switch

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ROTATION = 1_000_000  # MMBench numbers the rotations of question 7 as 1000007, 2000007, ...
PROBLEM = Schema(
    question=WORDS,
    choices=list_of(TEXT, 1),
    answer=NUMBER,
    hint=optional(TEXT),
    image=optional(WORDS),
    subject=optional(WORDS),
)
INDEX = Kind("a whole number", lambda value: isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value) is not None)
ROW = Schema(index=INDEX, question=WORDS, A=TEXT, B=TEXT)
MISSING = frozenset(
    ",#N/A,#N/A N/A,#NA,-1.#IND,-1.#QNAN,-NaN,-nan,1.#IND,1.#QNAN,<NA>,N/A,NA,NULL,NaN,None,n/a,nan,null".split(",")
)
"""What pandas reads as no value, exactly; VLMEvalKit reads the file with it."""


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
        """The letter an answer says; blanks before it are the script's business."""
        truth = record["truth"]
        return parse_letter(record["answer"], truth["options"], self.dialect, truth.get("letters"))


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
    truth = Schema(answer=words_of(*LETTERS), options=list_of(TEXT, 1))
    protocols = ("llava",)

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """The folder with problems.json and pid_splits.json; `split` is test (default), val, minival, ..."""
        problems = read_object(data / "problems.json", "ScienceQA's object of problems by id")
        splits = read_object(data / "pid_splits.json", "ScienceQA's object of lists of ids by split")
        wanted = split or "test"
        if wanted not in splits:
            raise BadData(f"{data / 'pid_splits.json'} has no split {wanted!r}. It has: {', '.join(splits)}.")
        found = []
        for pid in map(str, Schema({wanted: list_of(KEY)}).check(splits, str(data / "pid_splits.json"))[wanted]):
            if pid not in problems:
                raise BadData(
                    f"problems.json has no problem {pid} of split {wanted}. Take both files from the same release."
                )
            found.append(_problem(pid, problems[pid], wanted, f"{data / 'problems.json'}, problem {pid}"))
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


def _problem(pid: str, row: Any, split: str, place: str) -> Question:
    PROBLEM.check(row, place)
    if not 0 <= row["answer"] < len(row["choices"]):
        raise BadData(f"{place}: answer {row['answer']} is none of its {len(row['choices'])} choices. Correct it.")
    text = worded(row.get("hint") or "", row["question"], row["choices"])
    image = f"{split}/{pid}/{row['image']}" if row.get("image") else None
    truth = {"answer": LETTERS[row["answer"]], "options": list(row["choices"])}
    return Question(pid, image, text, row.get("subject") or "all", truth)


def worded(hint: str, question: str, options: Sequence[str], letters: Sequence[str] = LETTERS) -> str:
    """LLaVA's wording: hint, question, and one option a line."""
    lines = [*([hint] if hint else []), question]
    lines += [f"{letter}. {option}" for letter, option in zip(letters, options, strict=False)]
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
    truth = Schema(
        answer=nullable(words_of(*LETTERS)), options=list_of(TEXT, 2), base=NUMBER, turn=NUMBER, letters=optional(WORDS)
    )
    protocols = ("llava",)

    def __post_init__(self):
        super().__post_init__()
        switch(self, "circular")

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """A TSV with index, question, hint, A to D, answer (not where "test" is in its name), category, image in base64."""
        path = question_files(data, (".tsv",))[0]
        found: list[Question] = []
        for place, row in table(path):
            ROW.check(row, place)
            found.extend(self._rotations(row, place, not _is_test(path)))
        return of_split(unique(found, path), split, path)

    def _rotations(self, row: Mapping[str, str], place: str, known: bool) -> Iterator[Question]:
        """The question, or one for each rotation of its options. `known`: the file has the answers."""
        letters = [letter for letter in LETTERS if row.get(letter, "") not in MISSING]
        options = [row[letter] for letter in letters]
        if len(options) < 2:
            raise BadData(f"{place}: expected two options or more; found {len(options)}. {_missing_words(row)}")
        if known:
            Schema(answer=TEXT).check(row, place)
            if row["answer"] not in letters:
                raise BadData(
                    f"{place}: the answer {row['answer']!r} is none of the options {', '.join(letters)}. {_missing_words(row)}"
                )
        index, right = int(row["index"]), letters.index(row["answer"]) if known else 0
        group = next((row[name] for name in ("l2-category", "category") if row.get(name, "") not in MISSING), "all")
        hint = row.get("hint", "")
        if hint in MISSING or hint.lower() in ("nan", "none"):  # pandas', then LLaVA's own rule
            hint = ""
        # An option may be empty with others after it: VLMEvalKit keeps their letters.
        gap = {"letters": "".join(letters)} if letters != list(LETTERS[: len(letters)]) else {}
        # A file that has the rotations already brings its own; else they are made here.
        turns = len(options) if self.circular and index < ROTATION else 1
        for turn in range(turns):
            turned = options[turn:] + options[:turn]
            letter = letters[(right - turn) % len(options)] if known else None
            truth = {"answer": letter, "options": turned, "base": index % ROTATION, "turn": turn or index // ROTATION}
            key = str(index) if turns == 1 else f"{index}/{turn}"
            text = worded(hint, row["question"], turned, letters)
            yield Question(key, f"{index % ROTATION}.jpg", text, group, truth | gap)

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


def _missing_words(row: Mapping[str, str]) -> str:
    """Which cells of options pandas, and so VLMEvalKit, takes for missing."""
    cells = [f"{letter} is {row[letter]!r}" for letter in LETTERS if row.get(letter) and row[letter] in MISSING]
    if not cells:
        return "Correct it."
    return f"Pandas reads some words as no value, and {' and '.join(cells)}: write the option in other words."


def table(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, row) of a TSV as pandas reads it: tabs, double quotes around cells that need them."""
    read_text(path)
    csv.field_size_limit(sys.maxsize)  # a cell holds a whole image
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t")
        try:
            for number, row in enumerate(reader, 2):
                place = f"{path}, line {number}"
                if None in row or any(value is None for value in row.values()):
                    raise BadData(f"{place}: expected {len(reader.fieldnames or ())} columns. Is the file cut off?")
                yield place, row
        except csv.Error as problem:
            raise BadData(f"{path}, line {reader.line_num}: no table divided by tabs ({problem}).") from None


def _is_test(path: Path) -> bool:
    """MMBench's test split comes without answers."""
    return "test" in path.stem.lower()


def unpack_images(path: Path, folder: Path) -> int:
    """Writes the images a TSV holds to a folder, named by index. Rotations point to their question's image.

    Args:
        path: MMBench's TSV, with the columns index and image (base64).
        folder: Made where it is not there.

    Returns:
        How many were written.

    Raises:
        BadData: A cell holds no image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for place, row in table(path):
        Schema(index=INDEX, image=WORDS).check(row, place)
        if int(row["index"]) >= ROTATION:
            continue
        try:
            content = base64.b64decode(row["image"], validate=True)
        except binascii.Error as problem:
            raise BadData(
                f"{place}: expected an image in base64 in the field 'image'; found {short(row['image'])} ({problem})."
            ) from None
        (folder / f"{row['index']}.jpg").write_bytes(content)
        count += 1
    return count
