"""Every way a question file can be wrong, and the sentence it earns."""

import json
import re

import pytest

from vlm_anchors.evaluation.benchmarks.base import BadData
from vlm_anchors.evaluation.benchmarks.pope import Pope
from vlm_anchors.evaluation.reading import files

GOOD = [
    {"question_id": i, "image": f"{i // 6}.jpg", "text": "Is there a dog in the image?", "label": "yes"}
    for i in range(1, 7)
]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_json_lines_and_a_json_array_are_the_same(tmp_path):
    one = write(tmp_path / "coco_pope_random.json", lines(GOOD))
    two = write(tmp_path / "coco_pope_random_array.json", json.dumps(GOOD, indent=4))
    assert [q.text for q in Pope().questions(one)] == [q.text for q in Pope().questions(two)]
    assert Pope().questions(one)[0].group == "coco/random"


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(GOOD).replace("\n", "\n\n").encode())
    assert len(Pope().questions(path)) == 6


def broken(**changes):
    return lines([*GOOD[:2], {**GOOD[2], **changes}])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty. Expected the official question file; download it again."),
        (lines(GOOD)[:-20], "is cut off in line 6: its JSON does not end."),
        (json.dumps(GOOD, indent=1)[:-30], "is cut off in line"),
        (json.dumps(GOOD, indent=1)[:-1], "is cut off in line"),
        (json.dumps(GOOD) + "\n" + json.dumps(GOOD), "holds several JSON values from line 2 on"),
        (lines(GOOD[:2]) + "{oops}\n" + lines(GOOD[2:]), "line 3: expected one JSON object a line; found '{oops}'"),
        (json.dumps(GOOD[0], indent=2), "line 1: expected one whole JSON object a line, or a JSON array"),
        ("[1, 2]", "entry 1: expected an object with named fields; found 1"),
        ("3\n", "line 1: expected an object with named fields; found 3"),
        (
            lines([{"query": "?"}]),
            "line 1: expected the field 'question_id'; found 'query'. Is it another benchmark's file?",
        ),
        (broken(label="Yes"), "line 3: expected 'yes' or 'no' in the field 'label'; found 'Yes'."),
        (broken(label=1), "line 3: expected 'yes' or 'no' in the field 'label'; found 1."),
        (
            lines([*GOOD, GOOD[0]]),
            "the id 'x/1' stands at question 1 and again at 7. Each question needs an id of its own",
        ),
        ("[]", "holds no question. Expected the official question file"),
    ],
)
def test_every_fault_has_its_sentence(tmp_path, text, words):
    with pytest.raises(BadData, match=re.escape(words)):
        Pope().questions(write(tmp_path / "x.json", text))


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\x80\x81\x82")
    with pytest.raises(BadData, match="is not UTF-8 text"):
        Pope().questions(tmp_path / "x.json")


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(BadData, match="There is no file or folder .*nowhere"):
        Pope().questions(tmp_path / "nowhere")
    with pytest.raises(BadData, match="holds no .json or .jsonl file"):
        Pope().questions(tmp_path)
    with pytest.raises(BadData, match=r"There is no file .*x\.json\. Check the path"):
        files.read_text(tmp_path / "x.json")
    with pytest.raises(BadData, match="Expected a file; .* is a folder"):
        files.read_text(tmp_path)


def test_an_unknown_split_lists_those_there_are(tmp_path):
    write(tmp_path / "coco_pope_random.json", lines(GOOD))
    with pytest.raises(BadData, match="has no split 'hard'. It has: coco/random"):
        Pope().questions(tmp_path, "hard")


def test_two_releases_of_pope_do_not_mix(tmp_path):
    old = [{**GOOD[0], "question_id": i} for i in range(2910)]
    new = [{**GOOD[0], "question_id": i} for i in range(3000)]
    write(tmp_path / "coco_pope_random.json", lines(old))
    write(tmp_path / "coco_pope_popular.json", lines(new))
    words = "coco_pope_random.json is from before October 2023 (2910 random questions), coco_pope_popular.json is "
    words += "current (3000)"
    with pytest.raises(BadData, match=re.escape(words)):
        Pope().questions(tmp_path)
    assert len(Pope().questions(tmp_path, "random")) == 2910


def test_the_old_misprint_is_asked_as_it_was_meant_and_told(tmp_path):
    """One of VCD's copies of the current files has it; all three are one release."""
    old = [{**GOOD[0], "text": "Is there an apple in the imange?"}, GOOD[1]]
    write(tmp_path / "coco_pope_adversarial.json", lines(old))
    write(tmp_path / "coco_pope_popular.json", lines(GOOD))
    found = Pope().questions(tmp_path)
    assert found[0].text == "Is there an apple in the image?"
    remark = Pope().score([question.record("Yes") for question in found]).note
    assert remark == "dialect pope; 1 questions had 'imange', asked as 'image'"
    assert Pope().score([question.record("Yes") for question in found[1:]]).note == "dialect pope"


def test_an_old_release_is_read_as_a_whole(tmp_path):
    old = [{**GOOD[0], "question_id": i, "text": "Is there an apple in the imange?"} for i in range(2910)]
    write(tmp_path / "coco_pope_random.json", lines(old))
    write(tmp_path / "coco_pope_popular.json", lines(old[:6]))
    assert len(Pope().questions(tmp_path)) == 2916


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_signs_that_end_lines_elsewhere_may_stand_in_a_text(tmp_path, sign):
    row = {**GOOD[0], "text": f"Is there a dog{sign} in the image?"}
    text = json.dumps(row, ensure_ascii=False).replace("\\u000b", "\u000b").replace("\\f", "\\u000c") + "\n"
    (question,) = Pope().questions(write(tmp_path / "x.jsonl", text if sign > "\x20" else json.dumps(row)))
    assert question.text == row["text"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            lines(GOOD).replace("}\n", "},\n"),
            "line 1: a comma follows the object. Expected one JSON object a line without",
        ),
        (json.dumps(GOOD)[:-1] + ",]", "line 1: a comma stands before a closing bracket, which JSON does not allow."),
        (lines(GOOD[:1]).replace("}", ",}"), "line 1: a comma stands before a closing bracket"),
        (
            "<!DOCTYPE html><html><body>Not found</body></html>",
            "is a web page, saved in place of the file. Download the file",
        ),
        ("\n <html>", "is a web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS"),
        (lines(GOOD[:1]) + '{"question_id": 2, "image": nul', "is cut off in line 2"),
        (lines(GOOD[:1]) + "oops\n", "line 2: expected one JSON object a line; found 'oops'"),
        ('{"question_id": 1 "image": 2}\n' + lines(GOOD[:1]), "line 1: expected one JSON object a line; found"),
    ],
)
def test_sentences_are_true(tmp_path, text, words):
    with pytest.raises(BadData, match=re.escape(words)):
        Pope().questions(write(tmp_path / "x.json", text))


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_images_are_found_by_name_or_by_stem(tmp_path):
    png, deep = image(tmp_path / "COCO_1.png"), image(tmp_path / "hallusion_bench" / "VD" / "map" / "0_1.png")
    find = files.find_image(tmp_path)
    assert find("COCO_1.png") == find("COCO_1.jpg") == png
    assert find("VD/map/0_1.png") == find("0_1.png") == deep


def test_images_missing_or_doubtful(tmp_path):
    image(tmp_path / "a" / "1.png")
    image(tmp_path / "b" / "1.png")
    find = files.find_image(tmp_path)
    with pytest.raises(BadData, match=r"The image 2\.jpg is not in .*, nor with another ending \(2 images there\)"):
        find("2.jpg")
    with pytest.raises(BadData, match="both could be it. Keep one"):
        find("1.jpg")
    with pytest.raises(BadData, match="There is no image folder"):
        files.find_image(tmp_path / "none")


def test_missing_images_are_listed_once(tmp_path):
    image(tmp_path / "0.png")
    path = write(tmp_path / "coco_pope_random.json", lines(GOOD))
    assert files.missing_images(Pope().questions(path), tmp_path) == ["1.jpg"]


def test_hash_of_a_folder_is_of_names_and_contents(tmp_path):
    one = write(tmp_path / "x.json", "{}")
    before = files.sha256(tmp_path)
    assert files.sha256(tmp_path) == before
    one.rename(tmp_path / "y.json")
    assert files.sha256(tmp_path) != before


def test_official_files_are_known_by_their_hash(official):
    path = official("pope/official_coco/coco_pope_random.json")
    assert files.identify(path) == "coco_pope_random.json of AoiDragon/POPE @08d957b"


def test_other_files_are_not(tmp_path):
    assert files.identify(write(tmp_path / "x", "y")) is None


def test_a_name_longer_than_file_systems_take(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(BadData, match="longer than file systems take"):
        files.find_image(tmp_path)("x" * 300 + ".jpg")
