"""HallusionBench by hand, and over the official file against the figures the official script gave."""

import json
import re

import pytest
from benchmarks.made import record

from vlm_anchors.errors import UnknownName
from vlm_anchors.evaluation.benchmarks.base import BadData
from vlm_anchors.evaluation.benchmarks.hallusion import Hallusion


def asked(answer, label="yes", category="VD", figure="1", question="0", visual="1", set_id="0"):
    truth = {"category": category, "subcategory": "map", "visual_input": visual, "set_id": set_id}
    truth |= {"figure_id": figure, "question_id": question, "label": label}
    return record("_".join(truth.values()) + answer, answer, group=f"{category}/map", **truth)


def test_questions_figures_and_pairs():
    records = [
        asked("yes", figure="0", question="0"),
        asked("yes", figure="0", question="1"),
        asked("no", figure="1", question="0", visual="2"),
        asked("yes", figure="1", question="1", visual="2"),
    ]
    m = Hallusion().score(records).metrics
    assert (m["a_acc"], m["f_acc"], m["q_acc"]) == (75.0, 50.0, 50.0)
    assert (m["easy_acc"], m["hard_acc"], m["inconsistent"]) == (100.0, 50.0, 50.0)


def test_unclear_is_right_only_without_the_figure():
    assert (
        Hallusion().score([asked("I cannot see it", category="VS", figure="0", visual="0")]).metrics["a_acc"] == 100.0
    )
    score = Hallusion().score([asked("I cannot see it", category="VS", figure="1")])
    assert (score.metrics["a_acc"], score.unread) == (0.0, 1)


def test_questions_without_a_figure_make_no_figure():
    m = Hallusion().score([asked("yes", category="VS", figure="0", visual="0")]).metrics
    assert (m["f_acc"], m["q_acc"], m["hard_acc"]) == (None, 100.0, None)


def test_a_judges_verdict_overrules_the_reading():
    judged = [dict(asked("no"), correctness="1"), dict(asked("yes", question="1"), correctness=0)]
    assert Hallusion().score(judged).metrics["a_acc"] == 50.0
    with pytest.raises(BadData, match="must be 0, 1 or 2; found 'good'"):
        Hallusion().score([dict(asked("no"), correctness="good")])


def test_a_set_is_drawn_as_one():
    bench = Hallusion()
    assert bench.cluster(asked("x", figure="0")) == bench.cluster(asked("x", figure="1"))
    assert bench.cluster(asked("x", set_id="1")) != bench.cluster(asked("x", set_id="0"))


def test_dialect_is_checked():
    with pytest.raises(UnknownName, match="hallusion has no dialect 'vcd'"):
        Hallusion("vcd")


ROW = {
    "category": "VD",
    "subcategory": "map",
    "visual_input": "1",
    "set_id": "0",
    "figure_id": "0",
    "question_id": "0",
    "question": "?",
    "gt_answer": "1",
    "filename": "./hallusion_bench/VD/map/0_0.png",
}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{**ROW, "gt_answer": 1}], "expected '0' or '1' in the field 'gt_answer'; found 1"),
        ([ROW, ROW], "the id 'VD_map_0_0_0' stands at question 1 and again at 2"),
        ([{k: v for k, v in ROW.items() if k != "filename"}], "expected the field 'filename'"),
    ],
)
def test_broken_files(tmp_path, rows, words):
    (tmp_path / "HallusionBench.json").write_text(json.dumps(rows))
    with pytest.raises(BadData, match=re.escape(words)):
        Hallusion().questions(tmp_path)


def test_answers_go_back_in_the_official_layout(tmp_path):
    (tmp_path / "HallusionBench.json").write_text(json.dumps([ROW]))
    (question,) = Hallusion().questions(tmp_path)
    assert question.image == "VD/map/0_0.png"
    (row,) = json.loads(Hallusion().answer_files([question.record("Yes")])["HallusionBench_result.json"])
    assert row == {**{k: v for k, v in ROW.items() if k != "filename"}, "model_prediction": "Yes"}


def test_the_official_judge_finds_the_answer_in_words(official):
    """Its script reads gt_answer_details of every entry."""
    questions = Hallusion().questions(official("hallusionbench"))
    rows = json.loads(Hallusion().answer_files([q.record("Yes") for q in questions])["HallusionBench_result.json"])
    assert len(rows) == 1129
    assert all(row["gt_answer_details"] and row["question"] and row["sample_note"] is not None for row in rows)


def test_official_file_gives_the_official_scores(official):
    questions = Hallusion().questions(official("hallusionbench"))
    assert (len(questions), sum(q.image is None for q in questions)) == (1129, 178)
    assert len(Hallusion(images_only=True).questions(official("hallusionbench"))) == 951
    m = Hallusion().score([q.record("Yes") for q in questions]).metrics
    assert (m["a_acc"], m["q_acc"], m["f_acc"]) == (42.8698, 3.956, 7.2254)
    judged = [{**q.record(""), "correctness": "10211"[i % 5]} for i, q in enumerate(questions)]
    m = Hallusion().score(judged).metrics
    assert (m["a_acc"], m["q_acc"], m["f_acc"]) == (63.419, 21.0989, 28.0347)
    assert (m["easy_acc"], m["hard_acc"], m["inconsistent"]) == (54.2857, 56.0465, 62.1387)
    assert m["yes_difference"] == pytest.approx(0.04694419840566871)
    assert m["false_positive_ratio"] == pytest.approx(0.5641646489104116)
