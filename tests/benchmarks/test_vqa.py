"""The official cleaning of short answers, slip by slip, and accuracy among ten people."""

import json

import pytest
from benchmarks.made import record

from vlm_anchors.errors import UnknownName
from vlm_anchors.evaluation.benchmarks.base import BadData
from vlm_anchors.evaluation.benchmarks.vqa import CONTRACTIONS, Gqa, Vizwiz, Vqav2, clean, evalai, vqa_accuracy


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("The Dog", "dog"),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("red/white", "red white"),
        ("red / white", "red white"),
        ("t-shirt", "t shirt"),
        ("1,000", "1000"),
        ("x,y", "x y"),
        ("x, y", "x y"),
        ("3.5.", "3.5"),
        ("4 .5", "4 .5"),
        ("a.b", "ab"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("Im", "im"),
        ("...", ""),
        ("." * 40, "." * 8),
        ("", ""),
    ],
)
def test_cleaning(text, cleaned):
    assert clean(text) == cleaned


def test_a_comma_in_a_number_deletes_all_signs_elsewhere():
    assert clean("1,000 red-white") == "1000 redwhite"


def test_evalai_takes_signs_off_first():
    assert evalai("What, a dog's?") == "what dog 's"


def test_contractions_restore_apostrophes_only():
    odd = {"somebody'd"}
    assert all(key.replace("'", "") == value.replace("'", "") for key, value in CONTRACTIONS.items())
    assert all(
        value.count("'") > key.count("'") or value.startswith("'")
        for key, value in CONTRACTIONS.items()
        if key not in odd
    )


@pytest.mark.parametrize(("votes", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_accuracy_leaves_each_person_out_once(votes, accuracy):
    people = ["cat"] * votes + ["a bird"] * (10 - votes)
    assert vqa_accuracy("cat", people) == pytest.approx(accuracy)


def test_the_same_ten_answers_are_not_cleaned():
    assert vqa_accuracy("the dog", ["the dog"] * 10) == 1.0
    assert vqa_accuracy("dog", ["the dog"] * 10) == 0.0
    assert vqa_accuracy("dog", ["the dog"] * 10, "evalai") == 1.0
    assert vqa_accuracy("dog", ["the dog"] * 9 + ["cat"]) == 1.0


def test_scores_are_rounded_to_two_places_and_empty_is_unread():
    people = ["x"] * 10
    score = Vqav2().score([record(i, a, group="other", answers=people) for i, a in enumerate(["x", "y", ""])])
    assert score.metrics["accuracy"] == 33.33
    assert score.unread == 1


def test_dialects_are_checked():
    for bench in (Vqav2, Vizwiz):
        with pytest.raises(UnknownName, match="has no dialect 'eval'. Did you mean 'evalai'"):
            bench("eval")
    with pytest.raises(UnknownName, match="gqa has no dialect 'lava'. Did you mean 'llava'"):
        Gqa("lava")


def vqa_files(folder, **note):
    folder.mkdir(exist_ok=True)
    questions = [{"question_id": 5, "image_id": 9, "question": "What is it?"}]
    answers = [{"answer": "dog", "answer_id": i} for i in range(10)]
    annotation = {"question_id": 5, "answers": answers, "answer_type": "other", **note}
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": questions}))
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": [annotation]}))
    return folder


def test_vqav2_files(tmp_path):
    (question,) = Vqav2().questions(vqa_files(tmp_path))
    assert (question.id, question.image, question.group) == ("5", "COCO_val2014_000000000009.jpg", "other")
    assert Vqav2().score([question.record("Dog.")]).metrics["accuracy"] == 0.0
    (text,) = Vqav2().answer_files([question.record("A Dog.")]).values()
    assert json.loads(text) == [{"question_id": 5, "answer": "dog"}]


def test_vqav2s_test_split_has_no_answers_but_a_file_for_its_server(tmp_path):
    questions = [{"question_id": 262148000, "image_id": 262148, "question": "What is it?"}]
    (tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json").write_text(json.dumps({"questions": questions}))
    (question,) = Vqav2().questions(tmp_path)
    assert question.image == "COCO_test2015_000000262148.jpg"
    (text,) = Vqav2().answer_files([question.record("Down.")]).values()
    assert json.loads(text) == [{"question_id": 262148000, "answer": "down"}]
    with pytest.raises(
        BadData, match="The answers to this split of vqav2 are known to its server alone. Write the file"
    ):
        Vqav2().score([question.record("Down.")])


def test_vizwizs_test_split(tmp_path):
    row = {"image": "VizWiz_test_00000000.jpg", "question": "What is it?"}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    (question,) = Vizwiz().questions(tmp_path)
    with pytest.raises(BadData, match="this split of vizwiz are known to its server alone"):
        Vizwiz().score([question.record("A cup.")])
    (tmp_path / "test.json").rename(tmp_path / "val.json")
    with pytest.raises(BadData, match="expected the field 'answers'"):
        Vizwiz().questions(tmp_path)


def test_vizwiz_answers_for_its_server():
    """As LLaVA's convert_vizwiz_for_submission.py writes them."""
    records = [record("VizWiz_val_00000000", "The 2 dogs.", "VizWiz_val_00000000.jpg", answers=["x"] * 10)]
    (text,) = Vizwiz().answer_files(records).values()
    assert json.loads(text) == [{"image": "VizWiz_val_00000000.jpg", "answer": "2 dogs"}]


def test_gqa_answers_for_eval_py():
    """As LLaVA's convert_gqa_for_eval.py writes them; as they are where they are scored so."""
    records = [record("201307251", "Dining Table.", answer="dining table")]
    files = Gqa().answer_files(records)
    assert json.loads(files["testdev_balanced_predictions.json"]) == [
        {"questionId": "201307251", "prediction": "dining table"}
    ]
    (text,) = Gqa("exact").answer_files(records).values()
    assert json.loads(text)[0]["prediction"] == "Dining Table."


def test_vqav2_files_that_do_not_belong_together(tmp_path):
    with pytest.raises(BadData, match="has no answers to question 5. Take both files of one split"):
        Vqav2().questions(vqa_files(tmp_path / "a", question_id=6))
    (tmp_path / "a" / "v2_mscoco_val2014_annotations.json").write_text("[]")
    with pytest.raises(BadData, match="an object with 'annotations'; found a list"):
        Vqav2().questions(tmp_path / "a")
    (tmp_path / "a" / "v2_mscoco_val2014_annotations.json").unlink()
    with pytest.raises(BadData, match="must hold one annotation file of VQAv2; found 0"):
        Vqav2().questions(tmp_path / "a")


def test_vizwiz_answers_with_and_without_confidence(tmp_path):
    answers = [{"answer": "unanswerable", "answer_confidence": "yes"}] * 9 + [
        {"answer": "can", "answer_confidence": "no"}
    ]
    rows = [
        {"image": "VizWiz_val_00000001.jpg", "question": "What?", "answers": answers, "answer_type": "unanswerable"}
    ]
    (tmp_path / "val.json").write_text(json.dumps(rows))
    (question,) = Vizwiz().questions(tmp_path / "val.json")
    assert question.id == "VizWiz_val_00000001"
    assert Vizwiz().score([question.record("Unanswerable.")]).metrics["accuracy"] == 100.0


def test_gqa_rounds_as_its_script_does():
    """23 of 160: eval.py multiplies the mean by a hundred and prints 14.37."""
    records = [record(i, "dog" if i < 23 else "cat", answer="dog") for i in range(160)]
    assert Gqa().score(records).metrics["accuracy"] == 14.37
    people = ["dog"] * 10
    assert (
        Vqav2().score([record(i, "dog" if i < 23 else "cat", answers=people) for i in range(160)]).metrics["accuracy"]
        == 14.38
    )


def test_gqa(tmp_path):
    rows = {
        "1": {"imageId": "n7", "question": "?", "answer": "yes", "isBalanced": True, "types": {"structural": "verify"}},
        "2": {"imageId": "n7", "question": "?", "answer": "dog", "isBalanced": True, "types": {"structural": "query"}},
        "3": {"imageId": "n7", "question": "?", "answer": "dog", "isBalanced": False, "types": {"structural": "query"}},
    }
    (tmp_path / "q.json").write_text(json.dumps(rows))
    one, two = Gqa().questions(tmp_path / "q.json")
    records = [one.record("Yes."), two.record("a dog")]
    score = Gqa().score(records)
    assert score.metrics == {"accuracy": 50.0, "binary": 100.0, "open": 0.0}
    assert Gqa("exact").score(records).metrics["binary"] == 0.0
    (tmp_path / "q.json").write_text("[]")
    with pytest.raises(BadData, match="expected GQA's object of questions by id .*; found a list"):
        Gqa().questions(tmp_path / "q.json")
