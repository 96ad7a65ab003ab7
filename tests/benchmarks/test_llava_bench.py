"""LLaVA-Bench: the official answer file, what a judge is asked, and the script's arithmetic."""

import json

import pytest
from benchmarks.made import record

from vlm_anchors.evaluation.benchmarks.base import BadData
from vlm_anchors.evaluation.benchmarks.llava_bench import LlavaBench, content, marks, requests


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8 7\nGood.", (8, 7)),
        ("9, 8.5", (-1, -1)),  # the comma becomes a second blank, and three words are no two numbers
        ("8,7", (8, 7)),
        ("8  7", (-1, -1)),
        ("Both are good", (-1, -1)),
        ("", (-1, -1)),
    ],
)
def test_marks_as_the_script_reads_them(text, found):
    assert marks(text) == found


def answered(category="conv", **more):
    return {**record(1, "A cat.", "1.jpg", category, "What is it?", question_id=1), **more}


def test_scores():
    records = [answered(review="8 6\n"), {**answered(review="10 9"), "id": "2"}]
    score = LlavaBench().score(records)
    assert score.metrics == {"relative": round(7.5 / 9 * 100, 1), "reference_mark": 90.0, "mark": 75.0}
    assert LlavaBench().score([answered(review="no marks")]).unread == 1


def test_without_reviews_there_is_no_score():
    with pytest.raises(BadData, match="Question 1 and 0 more have no review. Let a judge read them: vlm-anchors judge"):
        LlavaBench().score([answered()])


def files(folder):
    (folder / "context.jsonl").write_text('{"image": "1.jpg", "caption": ["A cat", "on a mat"]}\n')
    (folder / "answers_gpt4.jsonl").write_text('{"question_id": 1, "text": "It is a cat."}\n')
    (folder / "rule.json").write_text('{"llava_bench_conv": {"role": "Assistant", "prompt": "Rate both."}}')
    return folder


EXPECTED = (
    "[Context]\nA cat\non a mat\n\n[Question]\nWhat is it?\n\n[Assistant 1]\nIt is a cat.\n\n[End of Assistant 1]\n\n"
    "[Assistant 2]\nA cat.\n\n[End of Assistant 2]\n\n[System]\nRate both.\n\n"
)


def test_the_judge_is_asked_word_for_word(tmp_path):
    assert requests([answered()], files(tmp_path), tmp_path / "rule.json") == [EXPECTED]
    rule = {"role": "Assistant", "prompt": "Rate both."}
    assert content(answered(), "It is a cat.", "A cat\non a mat", rule) == EXPECTED


@pytest.mark.parametrize(
    ("record", "rules", "words"),
    [
        (answered("odd"), None, "has no rule 'llava_bench_odd' with a role and a prompt. Give LLaVA's"),
        (
            answered(),
            "[]",
            "expected LLaVA's rules, an object with a role and a prompt for each category; found a list",
        ),
        (answered(), '{"llava_bench_conv": {"role": "Assistant"}}', "has no rule 'llava_bench_conv'"),
        (
            {**answered(), "id": "9"},
            None,
            "has no context or reference answer for question 9. Take all files of one set",
        ),
        ({**answered(), "image": "2.jpg"}, None, "has no context or reference answer for question 1"),
    ],
)
def test_faults(tmp_path, record, rules, words):
    files(tmp_path)
    if rules:
        (tmp_path / "rule.json").write_text(rules)
    with pytest.raises(BadData, match=words):
        requests([record], tmp_path, tmp_path / "rule.json")


def test_the_remark_names_judge_and_days():
    judged = answered(judge="gpt-4-0314", reviewed="2026-11-20T23:59:59Z")
    later = {**judged, "reviewed": "2026-11-22T00:00:00Z"}
    assert LlavaBench().remark_on([judged]) == "judge gpt-4-0314, reviews of 2026-11-20"
    assert LlavaBench().remark_on([later, judged]) == "judge gpt-4-0314, reviews of 2026-11-20 to 2026-11-22"
    assert LlavaBench().remark_on([answered(review="8 7")]) == "judge not recorded"


def test_questions_and_the_official_answer_file(tmp_path):
    row = {"question_id": 1, "image": "1.jpg", "text": "What is it?", "category": "conv"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    (question,) = LlavaBench().questions(tmp_path)
    assert (question.group, question.truth) == ("conv", {"question_id": 1})
    later = record(12, "A dog.", question_id=12)
    (text,) = LlavaBench().answer_files([later, question.record("A cat.", method="clva", model="scenes")]).values()
    first, second = map(json.loads, text.splitlines())  # the script goes by line
    assert second["question_id"] == 12
    assert first == {
        "question_id": 1,
        "prompt": "What is it?",
        "text": "A cat.",
        "answer_id": "1-clva",
        "model_id": "scenes",
        "metadata": {},
    }
