"""Answers another tool wrote, in the official answer formats, as records to score.

    POPE {"question", "answer"} · LLaVA {"question_id", "text"} · AMBER {"id", "response"} · CHAIR {"image_id", "caption"}
    VQA {"question_id", "answer"} · GQA {"questionId", "prediction"} · HallusionBench {..., "model_prediction"}

Answers with an id go to the question of that id. Answers without go by their place, as POPE's own script does; it cuts
the longer of two lists in silence, here both must be as long. MME's results folders are read by `mme_answers`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..benchmarks.base import BadData, Question
from ..benchmarks.choice import ROTATION
from .files import read_text, rows
from .schema import KEY, TEXT, Schema

TEXT_KEYS = ("answer", "text", "response", "caption", "prediction", "model_prediction")
ID_KEYS = ("question_id", "id", "image_id", "questionId")
HALLUSION = Schema(dict.fromkeys(("category", "subcategory", "set_id", "figure_id", "question_id"), KEY))


def answered(questions: Sequence[Question], path: Path, **more: Any) -> list[dict[str, Any]]:
    """One record a question; `more` is added to each (method, decoding, seed)."""
    found = [(place, _id(row, place), _text(row, place)) for place, row in rows(path)]
    if all(key is not None for _, key, _ in found):
        return _by_id(questions, found, path, more)
    if len(found) != len(questions):
        raise BadData(
            f"{path} has {len(found)} answers to {len(questions)} questions, and no ids, so they go by place. "
            f"Are both of the same release (POPE's random split had 2910 questions before October 2023)?"
        )
    return [question.record(text, **more) for question, (_, _, text) in zip(questions, found, strict=True)]


def _by_id(
    questions: Sequence[Question], found: list[tuple[str, str | None, str]], path: Path, more: dict
) -> list[dict]:
    # Official files number what ours names: POPE's ids count from 1 in every split, MMBench's rotations have their own.
    known = {question.id: [question] for question in questions}
    short: dict[str, list[Question]] = {}
    for question in questions:
        for name in (question.id.rpartition("/")[2], official_number(question)):
            short.setdefault(name, []).append(question)
    texts: dict[str, str] = {}
    for place, key, text in found:
        same = known.get(str(key)) or short.get(str(key), [])
        if len(same) != 1:
            fault = "is the id of several questions; give one split" if same else "is the id of no question"
            raise BadData(f"{place}: {key!r} {fault}. Are both files of the same release?")
        if same[0].id in texts:
            raise BadData(f"{place}: question {key!r} is answered twice. Keep one answer.")
        texts[same[0].id] = text
    missing = [question.id for question in questions if question.id not in texts]
    if missing:
        raise BadData(f"{path} has no answer to {missing[0]!r} and {len(missing) - 1} more questions. Answer them all.")
    return [question.record(texts[question.id], **more) for question in questions]


def official_number(question: Question) -> str:
    """The number of a rotation in MMBench's files; elsewhere the id."""
    truth = question.truth
    return str(truth["base"] + ROTATION * truth["turn"]) if "turn" in truth else question.id


def _id(row: dict[str, Any], place: str) -> str | None:
    if {"set_id", "figure_id"} <= set(row):  # HallusionBench numbers its questions within a set
        HALLUSION.check(row, place)
        return "_".join(str(row[key]) for key in HALLUSION.fields)
    key = next((key for key in ID_KEYS if key in row), None)
    return None if key is None else str(Schema({key: KEY}).check(row, place)[key])


def _text(row: dict[str, Any], place: str) -> str:
    key = next((key for key in reversed(TEXT_KEYS) if key in row), None)
    if key is None:
        found = ", ".join(map(repr, row))
        raise BadData(f"{place}: expected one of {', '.join(TEXT_KEYS)}; found {found}.")
    return Schema({key: TEXT}).check(row, place)[key]


def mme_answers(questions: Sequence[Question], folder: Path, **more: Any) -> list[dict[str, Any]]:
    """MME's results folder: the question files with the response as fourth column; lines go by place."""
    records = []
    for task in dict.fromkeys(question.group for question in questions):
        path = folder / f"{task}.txt"
        here = [question for question in questions if question.group == task]
        lines = [line for line in read_text(path).split("\n") if line.strip()]
        if len(lines) != len(here):
            raise BadData(
                f"{path} has {len(lines)} lines for {len(here)} questions. One line a question, no breaks in responses."
            )
        for number, (question, line) in enumerate(zip(here, lines, strict=True), 1):
            columns = line.split("\t")
            if len(columns) != 4 or columns[0] != question.image:
                raise BadData(
                    f"{path}, line {number}: expected {question.image}, question, answer and response divided by tabs."
                )
            records.append(question.record(columns[3], **more))
    return records
