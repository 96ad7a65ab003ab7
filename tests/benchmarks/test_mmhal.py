"""MMHal-Bench: files, ratings, and what the judge is asked."""

import json
import random

import pytest
from benchmarks.made import record
from judge_server import JudgeServer

from vlm_anchors.apps.cli import main
from vlm_anchors.evaluation.benchmarks.base import BadData
from vlm_anchors.evaluation.benchmarks.mmhal import Mmhal, rating, requests
from vlm_anchors.evaluation.judging import reviews
from vlm_anchors.evaluation.reporting.tables import tables

ROW = {
    "question_type": "attribute",
    "question_topic": "chair",
    "image_id": "x",
    "image_src": "https://a.b/c/1%20_o.jpg",
    "image_content": ["chair", "table"],
    "question": "Which colour?",
    "gt_answer": "Red.",
    "model_answer": "",
}


def test_questions_and_the_answer_file(tmp_path):
    (tmp_path / "response_template.json").write_text(json.dumps([ROW, {**ROW, "question": "How many?"}]))
    one, two = Mmhal().questions(tmp_path)
    assert (one.image, one.group, one.text) == ("1 _o.jpg", "attribute", "Which colour?")
    (text,) = Mmhal().answer_files([two.record("Two."), one.record("Blue.")]).values()
    first, second = json.loads(text)
    assert first == {**ROW, "model_answer": "Blue."}
    assert second["model_answer"] == "Two."


@pytest.mark.parametrize(
    ("review", "found"),
    [
        ("Rating: 4, very good", 4),
        ("rating: 0", 0),
        ("RATING: 6", 6),
        ("Rating: 3. Again, rating: 3", 3),
        ("Rating: 10", 1),  # the script looks for the first digit alone
        ("Rating: 4.5", 4),
        ("Rating: 2 or rating: 5", None),
        ("Rating: 7", None),
        ("Rating:4", None),
        ("Rating: **4**", None),
        ("Rating - 4", None),
        ("good", None),
        ("", None),
    ],
)
def test_ratings(review, found):
    assert rating(review) == found


def reviewed(key, review):
    return {**record(key, "Blue.", gt_answer="Red.", image_content=["chair", "table"]), "review": review}


def test_scores():
    score = Mmhal().score(
        [reviewed(1, "Rating: 6"), reviewed(2, "Rating: 2"), reviewed(3, "Rating: 3"), reviewed(4, "?")]
    )
    assert score.metrics == {"score": 11 / 4, "hallucination": 1 / 2}
    assert score.unread == 1
    with pytest.raises(BadData, match="have no review"):
        Mmhal().score([record(1, "x", gt_answer="y", image_content=[])])


def test_the_judge_is_asked_with_the_template_given(tmp_path):
    (tmp_path / "prompt.txt").write_text("Contents {} Question {} Human {} Model {} end")
    (text,) = requests([{**reviewed(1, ""), "answer": "It is {}."}], tmp_path / "prompt.txt")
    assert text == "Contents chair, table Question ? Human Red. Model It is {}. end"
    (tmp_path / "prompt.txt").write_text("only {}")
    with pytest.raises(BadData, match="expected the judge's prompt with four {} .*; found 1"):
        requests([reviewed(1, "")], tmp_path / "prompt.txt")


TYPES = ["attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other"]
PIECES = [
    "Rating: ",
    "rating: ",
    "RATING: ",
    "Rating:",
    "rating ",
    "**Rating**: ",
    "0",
    "2",
    "3",
    "5",
    "6",
    "7",
    "12",
    " ",
    "\n",
    "ok",
]


def literal(reviews_in_order):
    """The rules one by one: score of each review, share of scores below 3, mean of each eighth question."""
    scores = []
    for review in reviews_in_order:
        found = {digit for digit in range(7) if "rating: " + str(digit) in review.lower()}
        scores.append(found.pop() if len(found) == 1 else 0)
    by_type = [scores[first::8] for first in range(8)]
    low = [score for score in scores if score < 3]
    return sum(scores) / len(scores), len(low) / len(scores), [sum(each) / len(each) for each in by_type]


@pytest.mark.parametrize("seed", range(5))
def test_numbers_are_those_of_the_rules_whole_and_by_type(seed):
    """96 questions, their types in turn as in the official file, answered in any order; reviews of any wording."""
    draw = random.Random(seed)
    said = ["".join(draw.choices(PIECES, k=draw.randrange(6))) for _ in range(96)]
    records = [{**reviewed(number, review), "group": TYPES[number % 8]} for number, review in enumerate(said)]
    draw.shuffle(records)
    score = Mmhal().score(records)
    mean, hallucinated, by_type = literal(said)
    assert score.metrics == {"score": pytest.approx(mean), "hallucination": pytest.approx(hallucinated)}
    assert [score.parts[name].metrics["score"] for name in TYPES] == pytest.approx(by_type)
    assert score.unread == sum(rating(review) is None for review in said)


def test_from_answers_over_the_judge_to_a_table(tmp_path, capsys):
    """The judge sees the prompt alone, as the user's message at temperature 0; what it says is what the table shows."""
    (tmp_path / "response_template.json").write_text(
        json.dumps([{**ROW, "question_type": TYPES[number % 8]} for number in range(16)])
    )
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"benchmark": "mmhal", "model": "scenes", "data": str(tmp_path)}))
    asked = [one.record(f"Answer {one.id}.", method="none", decoding="greedy") for one in Mmhal().questions(tmp_path)]
    (run / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    (tmp_path / "prompt.txt").write_text("Contents {} Question {} Human {} Model {}")
    with JudgeServer(review="Fine.\nRating: 5") as server:
        command = ["judge", str(run), "--rules", str(tmp_path / "prompt.txt"), "--url", server.base]
        assert main([*command, "--judge-model", "judge-1", "--send"]) == 0
    first = "Contents chair, table Question Which colour? Human Red. Model Answer 0."
    assert server.bodies[0] == {
        "model": "judge-1", "messages": [{"role": "user", "content": first}], "temperature": 0.0,
    }  # fmt: skip
    assert len(reviews.read(run)) == 16
    whole, *parts = tables([run], draws=20)
    assert [table.group for table in parts] == TYPES
    assert (whole.rows[0].cells["score"].value, whole.rows[0].cells["hallucination"].value) == (5.0, 0.0)
