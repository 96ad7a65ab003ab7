"""ScienceQA and MMBench: letters, rotations, files."""

import base64
import json
import re

import pytest
from benchmarks.made import record

from vlm_anchors.errors import UnknownName
from vlm_anchors.evaluation.benchmarks.base import BadData
from vlm_anchors.evaluation.benchmarks.choice import MmBench, ScienceQa, unpack_images, worded

OPTIONS = ["cat", "dog", "bird"]


def science(key, answer, right="B", image="1.png"):
    return record(key, answer, image, answer=right, options=OPTIONS)


def test_scienceqa_reads_as_llava_does():
    records = [
        science(1, "B"),
        science(2, "B. dog"),
        science(3, "The answer is B.", image=None),
        science(4, "dog"),
        science(5, "E"),
    ]
    score = ScienceQa().score(records)
    assert score.metrics == {"accuracy": 60.0, "image_accuracy": 50.0}
    assert score.unread == 2


def test_without_images_there_is_no_image_accuracy():
    assert ScienceQa().score([science(1, "B", image=None)]).metrics["image_accuracy"] is None


def problems(folder, **change):
    row = {
        "question": "Which?",
        "choices": OPTIONS,
        "answer": 1,
        "hint": "Look.",
        "image": "image.png",
        "subject": "natural science",
    }
    (folder / "problems.json").write_text(json.dumps({"7": {**row, **change}}))
    (folder / "pid_splits.json").write_text(json.dumps({"test": ["7"], "val": ["8"]}))
    return folder


def test_scienceqa_files(tmp_path):
    (question,) = ScienceQa().questions(problems(tmp_path))
    assert question.text == "Look.\nWhich?\nA. cat\nB. dog\nC. bird"
    assert (question.image, question.group, question.truth["answer"]) == ("test/7/image.png", "natural science", "B")
    assert ScienceQa().questions(problems(tmp_path, image=None))[0].image is None


@pytest.mark.parametrize(
    ("change", "split", "words"),
    [
        ({"answer": 3}, None, "problem 7: answer 3 is none of its 3 choices"),
        ({}, "dev", "has no split 'dev'. It has: test, val"),
        ({}, "val", "problems.json has no problem 8 of split val"),
    ],
)
def test_scienceqa_faults(tmp_path, change, split, words):
    with pytest.raises(BadData, match=re.escape(words)):
        ScienceQa().questions(problems(tmp_path, **change), split)


def rotations(answers, base=1):
    return [
        record(
            f"{base}/{turn}",
            answer,
            answer="ABC"[(1 - turn) % 3],
            options=OPTIONS[turn:] + OPTIONS[:turn],
            base=base,
            turn=turn,
        )
        for turn, answer in enumerate(answers)
    ]


def test_circular_wants_every_rotation():
    score = MmBench().score(rotations("BAC") + rotations("BBB", base=2))
    assert score.metrics == {"accuracy": 1.0, "circular": 0.5}
    assert MmBench().score(rotations("B")).metrics == {"accuracy": 1.0, "circular": None}
    assert MmBench().score(rotations("BBB")[::-1]).metrics == {"accuracy": 1.0, "circular": 0.0}


def test_rotations_are_drawn_together():
    one, two, _ = rotations("BAC")
    assert MmBench().cluster(one) == MmBench().cluster(two)


HEAD = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tl2-category\n"
ROW = '1\t"Say ""what"" it is"\tnan\tcat\tdog\tbird\t\tB\tx\t' + base64.b64encode(b"image").decode() + "\tperception\n"


def test_mmbench_files(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text(HEAD + ROW)
    (question,) = MmBench().questions(path)
    assert question.text == 'Say "what" it is\nA. cat\nB. dog\nC. bird'
    assert (question.image, question.group, question.truth["answer"]) == ("1.jpg", "perception", "B")
    turned = MmBench(circular=True).questions(path)
    assert [q.truth["answer"] for q in turned] == ["B", "A", "C"]
    assert turned[1].truth["options"] == ["dog", "bird", "cat"]
    assert unpack_images(path, tmp_path / "images") == 1
    assert (tmp_path / "images" / "1.jpg").read_bytes() == b"image"


def test_a_file_that_brings_its_rotations(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text(
        HEAD
        + ROW
        + ROW.replace("1\t", "1000001\t", 1).replace("cat\tdog\tbird", "dog\tbird\tcat").replace("\tB\t", "\tA\t")
    )
    one, two = MmBench().questions(path)
    assert one.truth["base"] == two.truth["base"] == 1
    assert one.image == two.image
    score = MmBench().score([one.record("B"), two.record("B")])
    assert score.metrics == {"accuracy": 1.0, "circular": 0.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + ROW.replace("\tB\t", "\tD\t"), "line 2: the answer 'D' is none of the options A, B, C. Correct it."),
        (HEAD + ROW[:40], "line 2: expected 11 columns. Is the file cut off?"),
        ("index\tfoo\n1\t2\n", "line 2: expected the field 'question'"),
    ],
)
def test_mmbench_faults(tmp_path, text, words):
    (tmp_path / "dev.tsv").write_text(text)
    with pytest.raises(BadData, match=re.escape(words)):
        MmBench().questions(tmp_path / "dev.tsv")


def mmbench(tmp_path, *rows):
    (tmp_path / "dev.tsv").write_text(
        "index\tquestion\tA\tB\tC\tD\tanswer\n" + "".join("\t".join(row) + "\n" for row in rows)
    )
    return MmBench().questions(tmp_path / "dev.tsv")


def test_cells_without_a_value_are_those_of_pandas(tmp_path):
    (one,) = mmbench(tmp_path, ["1", "Q", "dog", "none", "NA", "N/A", "B"])
    assert one.truth["options"] == ["dog", "none"]
    with pytest.raises(
        BadData, match="expected two options or more; found 1. Pandas reads some words as no value, and B is 'null'"
    ):
        mmbench(tmp_path, ["1", "Q", "dog", "null", "", "", "A"])
    with pytest.raises(BadData, match="the answer 'B' is none of the options A, C"):
        mmbench(tmp_path, ["1", "Q", "dog", "None", "cat", "", "B"])


def test_a_gap_among_the_options_keeps_their_letters(tmp_path):
    (one,) = mmbench(tmp_path, ["1", "Q", "dog", "cat", "", "fox", "D"])
    assert one.text == "Q\nA. dog\nB. cat\nD. fox"
    assert MmBench().score([one.record("D")]).metrics["accuracy"] == 1.0
    (tmp_path / "dev.tsv").rename(tmp_path / "x.tsv")
    turned = MmBench(circular=True).questions(tmp_path / "x.tsv")
    assert [q.truth["answer"] for q in turned] == ["D", "B", "A"]


@pytest.mark.parametrize("index", ["q1", "1.5", "-1", ""])
def test_an_index_that_is_no_number(tmp_path, index):
    with pytest.raises(BadData, match=f"line 2: expected a whole number in the field 'index'; found '{index}'"):
        mmbench(tmp_path, [index, "Q", "dog", "cat", "", "", "A"])


def test_an_image_that_is_none(tmp_path):
    (tmp_path / "dev.tsv").write_text("index\timage\n1\tno base64!\n")
    with pytest.raises(BadData, match="line 2: expected an image in base64 in the field 'image'; found 'no base64!'"):
        unpack_images(tmp_path / "dev.tsv", tmp_path / "images")


def test_a_blank_before_the_letter_is_llavas_to_read():
    assert ScienceQa().score([science(1, " B")]).unread == 1
    assert ScienceQa("strict").score([science(1, " B")]).unread == 0


def test_dialects_are_checked():
    with pytest.raises(UnknownName, match="mmbench has no dialect 'lava'. Did you mean 'llava'"):
        MmBench("lava")


def test_mmbenchs_test_split_has_no_answers_but_a_file(tmp_path):
    path = tmp_path / "mmbench_test_20230712.tsv"
    path.write_text("index\tquestion\tA\tB\tcategory\n7\tWhich?\tcat\tdog\tk\n")
    one, two = MmBench(circular=True).questions(path)
    assert (one.truth["answer"], two.truth["options"]) == (None, ["dog", "cat"])
    (text,) = MmBench().answer_files([one.record("A"), two.record("B")]).values()
    assert [json.loads(line)["question_id"] for line in text.splitlines()] == [7, 1_000_007]
    with pytest.raises(BadData, match="this split of mmbench are known to its server alone"):
        MmBench().score([one.record("A")])


def test_wording_and_answers():
    assert worded("", "Which?", ["a", "b"]) == "Which?\nA. a\nB. b"
    (text,) = ScienceQa().answer_files([science(7, "B"), science(8, "C", image=None)]).values()
    one, two = map(json.loads, text.splitlines())
    assert one == {"question_id": "7", "prompt": "<image>\n?", "text": "B"}
    assert "<image>" not in two["prompt"]


def test_an_index_of_thousands_of_digits(tmp_path):
    (file := tmp_path / "mmbench.tsv").write_text(f"index\tquestion\tA\tB\tanswer\n{'9' * 5000}\t?\ta\tb\tA\n", "utf-8")
    with pytest.raises(BadData, match="expected a whole number in the field 'index'"):
        MmBench().questions(file)
