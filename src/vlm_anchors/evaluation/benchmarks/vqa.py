"""Short answers: VQAv2 and VizWiz (ten people's answers) and GQA (one).     arXiv 1612.00837, 1802.08218, 1902.09506

    VQA accuracy = mean over the ten people of min(1, matches among the other nine / 3)

Script: GT-Vision-Lab/VQA vqaEval.py. It cleans answers (punctuation, articles, numbers, contractions) only where the ten
are not all the same (dialect "official"); "evalai" always does, after a tokenizer of its own, as LLaVA and the EvalAI
servers. lmms-eval always does, without that tokenizer: it is neither. GQA's eval.py compares strings; LLaVA first drops
final full stops and case (dialect "llava").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..reading.files import of_split, question_files, read_object, rows, unique
from ..reading.official import json_array, scored_elsewhere
from ..reading.parsing import strip_punctuation
from ..reading.schema import FLAG, KEY, NUMBER, OBJECT, TEXT, WORDS, Schema, either, list_of, optional
from .base import BadData, Benchmark, Counts, Metric, Metrics, Question, Record, one_of, pooled

NUMBERS = {"none": "0"} | {
    w: str(i) for i, w in enumerate("zero one two three four five six seven eight nine ten".split())
}
ARTICLES = ("a", "an", "the")
ASKED = Schema(question_id=NUMBER, image_id=NUMBER, question=WORDS)
NOTED = Schema(question_id=NUMBER, answers=list_of(OBJECT, 1), answer_type=optional(WORDS))
ANSWER = Schema(answer=TEXT)
VIZWIZ_ASKED = Schema(image=WORDS, question=WORDS, answer_type=optional(WORDS))
VIZWIZ_ANSWERED = Schema(answers=list_of(either(TEXT, OBJECT), 1))
GQA_ROW = Schema(imageId=KEY, question=WORDS, answer=TEXT, isBalanced=optional(FLAG), types=optional(OBJECT))


def _contractions() -> dict[str, str]:
    """Words written without their apostrophe -> with it: the script's table from its regularities.

    Its entries with a capital I cannot be reached, since words are lower case by then.
    """
    table = {}
    for (
        stem
    ) in "ai are ca could did does do had has have is might must need ought sha should was were wo would".split():
        table[f"{stem}nt"] = f"{stem}n't"
    for stem in "could had might should would".split():
        table[f"{stem}nt've"] = table[f"{stem}n'tve"] = f"{stem}n't've"
    for stem in "he she it somebody someone something there they we who you".split():
        table[f"{stem}d've"] = table[f"{stem}'dve"] = f"{stem}'d've"
    for ending, stems in {
        "ve": "could might must should would not we they what where who you",
        "d": "he how it someone something there they where who you",
        "ll": "how it somebody someone something they what who why you",
        "re": "there they what why you",
        "s": "he how somebody someone that there what when where who why",
    }.items():
        table |= {stem + ending: f"{stem}'{ending}" for stem in stems.split()}
    table |= dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at")
    table |= {"yall": "y'all", "yall'll": "y'all'll", "y'allll": "y'all'll"}
    table |= dict.fromkeys(("yall'd've", "y'alld've", "y'all'dve"), "y'all'd've")
    # The one entry that takes an apostrophe away.
    return table | {"maam": "ma'am", "oclock": "o'clock", "twas": "'twas", "somebody'd": "somebodyd"}


CONTRACTIONS = _contractions()


def digits_and_articles(text: str) -> str:
    """processDigitArticle: lower case, number words to digits, no articles, apostrophes restored."""
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def clean(text: str) -> str:
    """Both steps of vqaEval.py."""
    return digits_and_articles(strip_punctuation(text))


def flat(text: str) -> str:
    """Line breaks and tabs as blanks, none at the ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def evalai(text: str) -> str:
    """EvalAIAnswerProcessor of Pythia and LLaVA (m4c_evaluator.py)."""
    words = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return clean(flat(words))


def vqa_accuracy(answer: str, people: Sequence[str], dialect: str = "official") -> float:
    """Agreement with the people, 0..1."""
    if dialect == "evalai":
        answer, people = evalai(answer), [evalai(each) for each in people]
    else:
        answer, people = flat(answer), [flat(each) for each in people]
        if len(set(people)) > 1:
            answer, people = clean(answer), [clean(each) for each in people]
    same = [each == answer for each in people]
    return sum(min(1.0, (sum(same) - own) / 3) for own in same) / len(same)


class _ShortAnswers(Benchmark):
    """What the three share: dialects, and "right" may be a fraction."""

    dialect: str
    dialects: ClassVar[tuple[str, ...]] = ("official", "evalai")
    metrics_of: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", "higher", "percent"),)
    truth = Schema(answers=list_of(TEXT))
    protocols = ("llava", "bare")

    def __post_init__(self):
        one_of(self, "dialect", self.dialects)

    def remark(self) -> str:
        return f"dialect {self.dialect}"

    def counts(self, records: Sequence[Record]) -> list[Counts]:
        return [
            {"n": 1, "right": self.right(r["answer"], r["truth"]), "unread": int(not r["answer"].strip())}
            for r in records
        ]

    def right(self, answer: str, truth: Mapping[str, Any]) -> float:
        """How right an answer is, 0..1: here, its agreement with ten people."""
        if not truth["answers"]:
            raise scored_elsewhere(self.name)
        return vqa_accuracy(answer, truth["answers"], self.dialect)

    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        counts = pooled(parts)
        return {"accuracy": round(100 * counts["right"] / counts["n"], 2)}


@dataclass(frozen=True)
class Vqav2(_ShortAnswers):
    """VQAv2; `dialect` "official" or "evalai"."""

    dialect: str = "official"

    name = "vqav2"
    version = "v2 (val2014)"
    source = "arXiv 1612.00837; github.com/GT-Vision-Lab/VQA"
    licence = "code BSD-2-Clause; annotations said to be CC BY 4.0, not confirmed"
    note = "test-dev and test-standard are scored by the EvalAI server; `report --answers` writes its file."

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """For the EvalAI server: answers.json, [{"question_id", "answer"}], cleaned as LLaVA does."""
        rows_ = ({"question_id": int(r["id"]), "answer": evalai(r["answer"])} for r in records)
        return {"answers.json": json_array(rows_)}

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """A folder with the official *Questions*.json and *mscoco*annotations.json; groups are the answer types.

        A test split has questions alone.
        """
        asked = _two(data, "questions", ("question",))
        if "test" in asked[0].stem.lower():
            return of_split(unique(_without_answers(*asked), data), split, data)
        noted = _two(data, "annotations", ("annotation",))
        notes: dict[int, dict[str, Any]] = {}
        for number, note in enumerate(noted[1], 1):
            place = f"{noted[0]}, entry {number}"
            if NOTED.check(note, place)["question_id"] in notes:
                raise BadData(f"{place}: the question {note['question_id']} stands twice. Keep one entry a question.")
            notes[note["question_id"]] = note
        subtype = "train2014" if "train2014" in asked[0].stem else "val2014"
        found = []
        for number, row in enumerate(asked[1], 1):
            key = ASKED.check(row, f"{asked[0]}, entry {number}")["question_id"]
            if key not in notes:
                raise BadData(f"{noted[0]} has no answers to question {key}. Take both files of one split.")
            note, place = notes[key], f"{noted[0]}, question {key}"
            truth = {"answers": [ANSWER.check(each, place, "answers.")["answer"] for each in note["answers"]]}
            image = f"COCO_{subtype}_{row['image_id']:012d}.jpg"
            found.append(Question(str(key), image, row["question"], note.get("answer_type") or "all", truth))
        return of_split(unique(found, data), split, data)


@dataclass(frozen=True)
class Vizwiz(_ShortAnswers):
    """VizWiz: questions of blind people; `dialect` "evalai" or "official"."""

    dialect: str = "evalai"

    name = "vizwiz"
    version = "2019 (val)"
    source = "arXiv 1802.08218; vizwiz.org"
    licence = "said to be CC BY 4.0, not confirmed"
    note = (
        "The ten answers are left out one at a time by place, as EvalAI does. The test split is scored by the server."
    )

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """For the EvalAI server: answers.json, [{"image", "answer"}], cleaned as LLaVA does."""
        return {"answers.json": json_array({"image": r["image"], "answer": evalai(r["answer"])} for r in records)}

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """val.json: image, question, answers (ten of them), answer_type; test.json has no answers."""
        found = []
        for path in question_files(data):
            for place, row in rows(path):
                VIZWIZ_ASKED.check(row, place)
                people = [] if path.stem == "test" else VIZWIZ_ANSWERED.check(row, place)["answers"]
                truth = {"answers": [_answer(each, place) for each in people]}
                group = row.get("answer_type") or path.stem
                found.append(Question(Path(row["image"]).stem, row["image"], row["question"], group, truth))
        return of_split(unique(found, data), split, data)


def _answer(each: str | dict[str, Any], place: str) -> str:
    return each if isinstance(each, str) else ANSWER.check(each, place, "answers.")["answer"]


@dataclass(frozen=True)
class Gqa(_ShortAnswers):
    """GQA; `dialect` "llava" (case and final full stops aside) or "exact"."""

    dialect: str = "llava"

    name = "gqa"
    version = "1.2 (testdev_balanced)"
    source = "arXiv 1902.09506; GQA eval.py; LLaVA convert_gqa_for_eval.py"
    licence = "said to be CC BY 4.0, not confirmed"
    note = (
        "Accuracy, binary and open, over the balanced questions; consistency, validity and grounding are not computed."
    )
    dialects = ("llava", "exact")
    truth = Schema(answer=TEXT)
    metrics_of = (
        Metric("accuracy", "higher", "percent"),
        Metric("binary", "higher", "percent"),
        Metric("open", "higher", "percent"),
    )

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """testdev_balanced_questions.json: {id: {imageId, question, answer, isBalanced, types}}."""
        path = question_files(data)[0]
        whole = read_object(path, "GQA's object of questions by id (testdev_balanced_questions.json)")
        found = []
        for key, row in whole.items():
            GQA_ROW.check(row, f"{path}, question {key}")
            if row.get("isBalanced") is not False:
                kind = "open" if (row.get("types") or {}).get("structural", "query") == "query" else "binary"
                found.append(Question(key, f"{row['imageId']}.jpg", row["question"], kind, {"answer": row["answer"]}))
        return of_split(unique(found, path), split, path)

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """For eval.py: testdev_balanced_predictions.json, [{"questionId", "prediction"}], cleaned as LLaVA does or as it is."""
        rows_ = ({"questionId": r["id"], "prediction": self.cleaned(r["answer"])} for r in records)
        return {"testdev_balanced_predictions.json": json_array(rows_)}

    def cleaned(self, answer: str) -> str:
        """The answer as eval.py is to compare it."""
        return answer.rstrip(".").lower() if self.dialect == "llava" else answer

    def right(self, answer: str, truth: Mapping[str, Any]) -> float:
        return float(self.cleaned(answer) == truth["answer"])

    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        kinds = {kind: _percent(parts[kind]) for kind in parts}
        return {"accuracy": _percent(pooled(parts)), "binary": kinds.get("binary"), "open": kinds.get("open")}


def _percent(counts: Mapping[str, float]) -> float:
    """In eval.py's order of operations: 23 of 160 is printed as 14.37, not 14.38."""
    return round(counts["right"] / counts["n"] * 100, 2)


def _without_answers(path: Path, asked: Sequence[Any]) -> list[Question]:
    """The questions of a test split; test-dev is a part of test2015."""
    found = []
    for number, row in enumerate(asked, 1):
        ASKED.check(row, f"{path}, entry {number}")
        image = f"COCO_test2015_{row['image_id']:012d}.jpg"
        found.append(Question(str(row["question_id"]), image, row["question"], "test", {"answers": []}))
    return found


def _two(data: Path, key: str, words: Sequence[str]) -> tuple[Path, list[Any]]:
    """The file of a folder whose name says the word, and the list it holds."""
    paths = [p for p in question_files(data) if any(each in p.stem.lower() for each in words)]
    if len(paths) != 1:
        raise BadData(
            f"{data} must hold one {words[0]} file of VQAv2; found {len(paths)}. Give the folder of one split."
        )
    whole = read_object(paths[0], f"VQAv2's official file, an object with {key!r}")
    return paths[0], Schema({key: list_of(OBJECT)}).check(whole, str(paths[0]))[key]
