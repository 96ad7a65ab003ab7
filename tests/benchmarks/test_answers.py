"""Answers of other tools find their questions, or the reason why not is said."""

import json
import re

import pytest
from benchmarks.made import record

from vlm_anchors.evaluation.benchmarks import hallusion
from vlm_anchors.evaluation.benchmarks.amber import Amber
from vlm_anchors.evaluation.benchmarks.base import BadData, Question
from vlm_anchors.evaluation.benchmarks.chair import Chair
from vlm_anchors.evaluation.benchmarks.hallusion import Hallusion
from vlm_anchors.evaluation.benchmarks.mme import Mme
from vlm_anchors.evaluation.benchmarks.pope import Pope
from vlm_anchors.evaluation.reading.answers import answered, mme_answers

QUESTIONS = [Question(f"coco/random/{i}", "1.jpg", "?", "coco/random", {"label": "yes"}) for i in (1, 2, 3)]


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_by_place_as_popes_script(tmp_path):
    path = lines(tmp_path / "a.jsonl", *({"question": "?", "answer": a} for a in ("Yes", "No", "")))
    records = answered(QUESTIONS, path, method="theirs")
    assert [r["answer"] for r in records] == ["Yes", "No", ""]
    assert {r["method"] for r in records} == {"theirs"}


def test_by_id_in_any_order_as_llavas(tmp_path):
    path = lines(tmp_path / "a.jsonl", *({"question_id": i, "prompt": "?", "text": f"answer {i}"} for i in (3, 1, 2)))
    assert [r["answer"] for r in answered(QUESTIONS, path)] == ["answer 1", "answer 2", "answer 3"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"answer": "Yes"}] * 2,
            "has 2 answers to 3 questions, and no ids, so they go by place. Are both of the same release",
        ),
        ([{"question_id": 9, "text": "x"}], "line 1: '9' is the id of no question"),
        ([{"question_id": 1, "text": "x"}] * 2, "line 2: question '1' is answered twice"),
        ([{"question_id": 1, "text": "x"}], "has no answer to 'coco/random/2' and 1 more questions"),
        ([{"question_id": 1, "output": "x"}], "line 1: expected one of answer, text, response"),
        ([{"question_id": 1, "text": 5}], "line 1: expected a text in the field 'text'; found 5"),
    ],
)
def test_faults(tmp_path, rows, words):
    with pytest.raises(BadData, match=re.escape(words)):
        answered(QUESTIONS, lines(tmp_path / "a.jsonl", *rows))


def test_a_bare_number_is_not_enough_for_two_splits(tmp_path):
    more = [*QUESTIONS, Question("coco/popular/1", "1.jpg", "?", "coco/popular", {"label": "no"})]
    with pytest.raises(BadData, match="'1' is the id of several questions; give one split"):
        answered(more, lines(tmp_path / "a.jsonl", {"question_id": 1, "text": "x"}))


def written(folder, bench, records):
    """The files a benchmark gives; the first one's path."""
    paths = []
    for name, text in bench.answer_files(records).items():
        (folder / name).write_text(text)
        paths.append(folder / name)
    return paths[0]


@pytest.mark.parametrize("bench", [Pope(), Amber(), Chair()], ids=lambda bench: bench.name)
def test_what_we_write_we_read(tmp_path, bench):
    questions = [Question(str(i), "1.jpg", "?", "g", {"label": "yes"}) for i in (1, 2)]
    path = written(tmp_path, bench, [q.record(f"answer {q.id}") for q in questions])
    assert [r["answer"] for r in answered(questions, path)] == ["answer 1", "answer 2"]


def test_hallusionbench_goes_by_its_five_numbers(tmp_path):
    truth = {
        "label": "yes",
        "category": "VD",
        "subcategory": "map",
        "visual_input": "1",
        "set_id": "0",
        "figure_id": "2",
        "question_id": "1",
    }
    question = Question(hallusion.name_of(truth), "1.png", "?", "VD/map", truth)
    path = written(tmp_path, Hallusion(), [question.record("Yes")])
    assert answered([question], path)[0]["answer"] == "Yes"


def test_mme_results_folder(tmp_path):
    records = [record(f"count/{i}", f"Yes {i}", "a.jpg", "count", label=label) for i, label in ((1, "yes"), (2, "no"))]
    written(tmp_path, Mme(), records)
    questions = [Question(r["id"], r["image"], "?", "count", r["truth"]) for r in records]
    assert [r["answer"] for r in mme_answers(questions, tmp_path)] == ["Yes 1", "Yes 2"]
    with pytest.raises(BadData, match="has 2 lines for 1 questions"):
        mme_answers(questions[:1], tmp_path)
    (tmp_path / "count.txt").write_text("b.jpg\t?\tYes\tx\na.jpg\t?\tNo\tx\n")
    with pytest.raises(BadData, match=r"line 1: expected a\.jpg, question, answer and response divided by tabs"):
        mme_answers(questions, tmp_path)
