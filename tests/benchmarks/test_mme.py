"""MME by hand, and over the official files against the figures the official script printed."""

import re

import pytest
from benchmarks.made import record

from vlm_anchors.errors import UnknownName
from vlm_anchors.evaluation.benchmarks.base import BadData
from vlm_anchors.evaluation.benchmarks.mme import COGNITION, PERCEPTION, Mme
from vlm_anchors.evaluation.reading.parsing import parse_yes_no


def pair(image, yes, no, task="count"):
    one = record(f"{task}/{image}y", yes, image, task, label="yes")
    return [one, record(f"{task}/{image}n", no, image, task, label="no")]


def test_score_is_accuracy_plus_accuracy_plus():
    score = Mme().score([*pair("a", "Yes", "No"), *pair("b", "Yes", "Yes"), *pair("c", "Maybe", "no.")])
    assert score.metrics["score"] == pytest.approx(100 * 4 / 6 + 100 * 1 / 3)
    assert score.metrics["accuracy"] == pytest.approx(4 / 6)
    assert score.metrics["accuracy_plus"] == pytest.approx(1 / 3)
    assert score.unread == 1
    assert score.metrics["perception"] is None


def test_first_four_characters_decide():
    score = Mme().score([*pair("a", "yes it is", "Another one"), *pair("b", "I think yes", "know it")])
    assert score.metrics["accuracy"] == 3 / 4


def test_totals_need_all_their_tasks():
    records = [r for task in (*PERCEPTION, *COGNITION) for r in pair("a", "Yes", "No", task)]
    score = Mme().score(records)
    assert (score.metrics["perception"], score.metrics["cognition"], score.metrics["hallucination"]) == (2000, 800, 800)
    assert score.parts["OCR"].metrics["score"] == 200
    four = [r for task in ("existence", "count", "position", "color") for r in pair("a", "Yes", "Yes", task)]
    assert Mme().score(four).metrics["hallucination"] == 200
    assert Mme().score(four).metrics["perception"] is None


def test_pairs_are_by_image_whatever_the_order():
    records = [*pair("a", "Yes", "No"), *pair("b", "No", "Yes")]
    assert Mme().score(records[::-1]).metrics == Mme().score([records[0], records[3], records[1], records[2]]).metrics


def test_half_a_pair_cannot_be_scored():
    with pytest.raises(BadData, match=r"MME's count has 1 answer\(s\) on b; acc\+ needs exactly two an image"):
        Mme().score([*pair("a", "Yes", "No"), pair("b", "Yes", "No")[0]])


def test_vcd_reads_no_mme():
    with pytest.raises(UnknownName, match="mme has no dialect 'vcd'"):
        Mme("vcd")


GOOD = "1.jpg\tIs it red? Please answer yes or no.\tYes\n1.jpg\tIs it blue? Please answer yes or no.\tNo\n"


def test_questions(tmp_path):
    (tmp_path / "color.txt").write_text(GOOD)
    (tmp_path / "readme.txt").write_text("not a task")
    one, two = Mme().questions(tmp_path)
    assert (one.id, one.image, one.group, one.truth) == ("color/1", "1.jpg", "color", {"label": "yes"})
    assert two.text.endswith("Please answer yes or no.")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("\t", " "), "line 1: expected image, question and answer divided by tabs; found 1 column(s)"),
        (GOOD.replace("Yes\n", "yes\n"), "line 1: the answer must be 'Yes' or 'No'; found 'yes'"),
        (GOOD.splitlines()[0], "line 1: expected two questions on 1.jpg, one after the other"),
        (GOOD + GOOD.replace("1.jpg\tIs it b", "2.jpg\tIs it b"), "line 3: expected two questions on 1.jpg"),
    ],
)
def test_broken_files(tmp_path, text, words):
    (tmp_path / "color.txt").write_text(text)
    with pytest.raises(BadData, match=re.escape(words)):
        Mme().questions(tmp_path)


def test_a_folder_without_tasks(tmp_path):
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(BadData, match="holds none of MME's sub-tasks"):
        Mme().questions(tmp_path)


def test_answers_go_back_in_the_official_layout():
    files = Mme().answer_files([*pair("a", "Yes,\n it\tis", "No"), *pair("b", "", "No", "OCR")])
    assert files == {
        "count.txt": "a\t?\tYes\tYes,  it is\na\t?\tNo\tNo\n",
        "OCR.txt": "b\t?\tYes\t\nb\t?\tNo\tNo\n",
    }


def test_a_written_answer_reads_as_the_answer_does():
    """calculation.py looks at the first four characters; blanks that went would make another answer of them."""
    for answer in ("\n\nYes", "\tYes", " no", "\r\nNo", "Yes\x85", "\u2028\u2028\u2028no"):
        written = Mme().answer_files(pair("a", answer, "No"))["count.txt"].split("\n")[0].split("\t")[3]
        assert parse_yes_no(written, "mme") == parse_yes_no(answer, "mme"), repr(answer)


@pytest.mark.parametrize("lines", [[0, 1, 0, 1], [0, 1, 2, 3, 0, 1]])
def test_a_doubled_file_is_refused_before_the_first_answer(tmp_path, lines):
    four = (GOOD + GOOD.replace("1.jpg", "2.jpg")).splitlines()
    (tmp_path / "color.txt").write_text("\n".join(four[line] for line in lines) + "\n")
    with pytest.raises(BadData, match=r"1\.jpg was asked about in line 1 already. Expected two questions an image"):
        Mme().questions(tmp_path)


def test_pairs_stand_on_neighbouring_lines_whatever_the_order_of_answering():
    records = [record(f"count/{i}", str(i), f"{(i - 1) // 2}.jpg", "count", label="yes") for i in (4, 1, 3, 2, 10, 9)]
    lines = [line.split("\t") for line in Mme().answer_files(records)["count.txt"].splitlines()]
    assert [line[3] for line in lines] == ["1", "2", "3", "4", "9", "10"]
    assert [line[0] for line in lines[::2]] == [line[0] for line in lines[1::2]]


def test_official_files_give_the_official_scores(official):
    """The answers below, appended to the official files, made calculation.py print these totals."""
    questions = Mme().questions(official("mme/questions"))
    assert len(questions) == 2374
    answers = ["Yes", "No.", "yes, it is", "Another", "There is not", "no"]
    records = [q.record(answers[(int(q.id.split("/")[1]) - 1) % 6]) for q in questions]
    score = Mme().score(records)
    assert score.metrics["perception"] == pytest.approx(1507.0882352941176)
    assert score.metrics["cognition"] == pytest.approx(615.7142857142858)
    assert score.parts["celebrity"].metrics["score"] == pytest.approx(150.58823529411762)
    assert score.metrics["hallucination"] == pytest.approx(600)
