"""POPE's numbers by hand, by dialect, and over the official files."""

import json

import pytest
from benchmarks.made import record

from vlm_anchors.errors import UnknownName
from vlm_anchors.evaluation.benchmarks.base import BadData
from vlm_anchors.evaluation.benchmarks.pope import Pope


def answered(pairs, dialect="pope"):
    records = [record(i, answer, label=label) for i, (label, answer) in enumerate(pairs)]
    return Pope(dialect).score(records)


# 3 yes: found, found, missed. 4 no: found, found, found, called yes.
PAIRS = [
    ("yes", "Yes"),
    ("yes", "yes."),
    ("yes", "No"),
    ("no", "No"),
    ("no", "no, it is not"),
    ("no", "There is not"),
    ("no", "Yes"),
]


def test_the_five_numbers():
    score = answered(PAIRS)
    assert score.metrics["accuracy"] == 5 / 7
    assert score.metrics["precision"] == score.metrics["recall"] == 2 / 3
    assert score.metrics["f1"] == pytest.approx(2 / 3)
    assert score.metrics["yes_ratio"] == 3 / 7
    assert (score.n, score.unread, score.note) == (7, 0, "dialect pope")


def test_everything_unclear_is_yes_to_the_official_script():
    score = answered([("no", ""), ("no", "NO"), ("no", "\nNo"), ("yes", "?")])
    assert score.metrics["yes_ratio"] == 1
    assert score.metrics["accuracy"] == 1 / 4
    assert score.unread == 0


def test_no_yes_at_all_has_no_precision():
    score = answered([("yes", "no"), ("no", "no")])
    assert score.metrics["precision"] is None
    assert score.metrics["f1"] is None
    assert score.metrics["recall"] == 0
    assert answered([("yes", "no"), ("no", "no")], "lmms").metrics["f1"] == 0.0


def test_unread_is_wrong_and_counted():
    score = answered([("yes", "Sure"), ("no", "Sure"), ("yes", "Yes")], "strict")
    assert score.unread == 2
    assert score.unread / score.n == pytest.approx(2 / 3)
    assert score.metrics["accuracy"] == 1 / 3
    assert score.metrics["recall"] == 1 / 2
    assert score.metrics["yes_ratio"] == 1 / 3


def test_lmms_leaves_unread_out_of_recall_and_counts_labels_as_yes_ratio():
    score = answered([("yes", "Yes."), ("yes", "Yes."), ("yes", "yes"), ("no", "yes")], "lmms")
    assert score.metrics["recall"] == 1.0
    assert score.metrics["yes_ratio"] == 3 / 4
    assert score.metrics["accuracy"] == 1 / 4


def test_vcd_counts_a_wandering_answer_right_on_both_sides():
    assert answered([("yes", "Yes... or no"), ("no", "Yes... or no")], "vcd").metrics["accuracy"] == 1.0
    assert answered([("yes", "maybe"), ("no", "maybe")], "vcd").metrics["accuracy"] == 0.0


def test_splits_are_scored_alone_and_averaged():
    records = [record(i, a, group="coco/random", label=b) for i, (b, a) in enumerate(PAIRS)]
    records += [record(f"x{i}", "yes", group="coco/popular", label="yes") for i in range(3)]
    score = Pope().score(records)
    assert set(score.parts) == {"coco/random", "coco/popular"}
    assert score.parts["coco/popular"].metrics["f1"] == 1
    assert score.metrics["mean_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert score.metrics["accuracy"] == 8 / 10


def test_order_of_records_does_not_matter():
    records = [record(i, a, label=b) for i, (b, a) in enumerate(PAIRS)]
    assert Pope().score(records[::-1]).metrics == Pope().score(records).metrics


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([], "There are no answers to score for pope"),
        ([record(1, "yes", label="yes")] * 2, "The id '1' was answered twice in pope; score one method"),
        ([{"id": 1, "image": None, "group": "g", "answer": "x"}], "Record 1 of pope has no 'truth'"),
        (
            [dict(record(1, "yes", label="yes"), answer=None)],
            "Record 1 of pope: expected a text in the field 'answer'; found None",
        ),
    ],
)
def test_records_that_cannot_be_scored(records, words):
    with pytest.raises(BadData, match=words):
        Pope().score(records)


def test_unknown_dialect():
    with pytest.raises(UnknownName, match="pope has no dialect 'poppe'. Did you mean 'pope'"):
        Pope("poppe")


def test_answers_in_the_official_format_a_file_a_split_in_the_order_of_the_questions():
    """evaluate.py goes by line, and records stand in the order of answering."""
    more = {"group": "coco/random", "label": "yes"}
    records = [record(f"coco/random/{i}", f"Yes {i}", question=f"Is it {i}?", **more) for i in (10, 2, 1)]
    records.append(record("coco/popular/1", "No", question="Is it?", group="coco/popular", label="no"))
    files = Pope().answer_files(records)
    assert list(files) == ["coco-random.jsonl", "coco-popular.jsonl"]
    assert [json.loads(line) for line in files["coco-random.jsonl"].splitlines()] == [
        {"question": f"Is it {i}?", "answer": f"Yes {i}"} for i in (1, 2, 10)
    ]
    assert files["coco-popular.jsonl"] == '{"question": "Is it?", "answer": "No"}\n'


@pytest.mark.parametrize("folder", ["official_coco", "official_seem_aokvqa", "official_seem_gqa"])
def test_official_files(official, folder):
    questions = Pope().questions(official(f"pope/{folder}"))
    assert len(questions) == 9000
    assert len({q.image for q in questions}) == 500
    always_yes = Pope().score([q.record("Yes") for q in questions])
    assert always_yes.metrics["f1"] == pytest.approx(2 / 3)
    assert always_yes.metrics["accuracy"] == 0.5
    assert len(always_yes.parts) == 3
    perfect = Pope().score([q.record(q.truth["label"]) for q in questions])
    assert perfect.metrics["mean_f1"] == 1
