"""MMHal-Bench: files, ratings, and what the judge is asked."""

import json

import pytest
from benchmarks.made import record

from vlm_anchors.evaluation.benchmarks.base import BadData
from vlm_anchors.evaluation.benchmarks.mmhal import Mmhal, rating, requests

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
    [("Rating: 4, very good", 4), ("rating: 0", 0), ("Rating: 2 or rating: 5", None), ("good", None), ("", None)],
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
