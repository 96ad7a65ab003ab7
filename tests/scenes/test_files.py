"""`scenes render`: good lists become images, bad ones a sentence."""

import json

import pytest
from PIL import Image

from vlm_anchors.errors import UserError
from vlm_anchors.scenes import render_files

NAME = "COCO_val2014_000000310196.jpg"


def write(tmp_path, content):
    path = tmp_path / "objects.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_official_names_become_png_files(tmp_path):
    lists = {NAME: ["person", "snowboard"], "kitchen": ["cup", "fork", "cup"], "v1.2": ["dog"]}
    paths = render_files(write(tmp_path, lists), tmp_path / "a" / "b")
    assert [path.name for path in paths] == [NAME.replace(".jpg", ".png"), "kitchen.png", "v1.2.png"]
    for path in paths:
        with Image.open(path) as image:
            assert (image.format, image.size, image.mode) == ("PNG", (128, 128), "RGB")


def test_same_seed_same_files_other_seed_other_files(tmp_path):
    path = write(tmp_path, {"x": ["cup", "fork"]})
    first, again, other = (
        render_files(path, tmp_path / d, s)[0].read_bytes() for d, s in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"a": ["cup"', "is not valid JSON (line 1, column 13)"),
        ("[" * 100_000, "is not valid JSON"),
        (["cup"], "holds a JSON list"),
        ("null", "holds a JSON null"),
        ({}, "names no image"),
        ({"a": "cup"}, "'a' holds a JSON string"),
        ({"a": []}, "'a' lists 0 objects. Expected 1 to 12."),
        ({"a": ["cup"] * 13}, "'a' lists 13 objects"),
        ({"a": ["Cup"]}, "Did you mean 'cup'?"),
        ({"a": ["zebbra"]}, "Did you mean 'zebra'?"),
        ({"a": ["qqqq"]}, "Expected one of the 80 COCO categories"),
        ({"a": [3]}, 'lists 3, which is no object'),
        ({"a": [["cup"]]}, "which is no object"),
        ({"../a": ["cup"]}, "cannot name a file"),
        ({"a\\b": ["cup"]}, "cannot name a file"),
        ({"": ["cup"]}, "cannot name a file"),
        ({"..": ["cup"]}, "cannot name a file"),
        ({"a\0": ["cup"]}, "cannot name a file"),
        ({"x" * 300: ["cup"]}, "cannot name a file"),
        ({"a": ["cup"], "a.png": ["dog"]}, "would both be written to a.png"),
        ('{"a": ["cup"], "a": ["dog"]}', "stands twice"),
    ],
)  # fmt: skip
def test_bad_lists_get_one_clear_sentence(tmp_path, content, sentence):
    with pytest.raises(UserError) as caught:
        render_files(write(tmp_path, content), tmp_path / "out")
    text = str(caught.value)
    assert sentence in text
    assert len(text) < 400
    assert not (tmp_path / "out").exists()


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        render_files(tmp_path / "none.json", tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        render_files(tmp_path / "binary.json", tmp_path)
    with pytest.raises(UserError, match="is a folder"):
        render_files(tmp_path, tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write into"):
        render_files(write(tmp_path, {"a": ["cup"]}), tmp_path / "file")
