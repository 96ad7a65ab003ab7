"""The command `vlm-anchors diagnose`: what it prints and writes, and a sentence for bad input."""

import json

import pytest

from vlm_anchors import scenes
from vlm_anchors.apps.cli import main
from vlm_anchors.scenes.draw import save


@pytest.fixture
def run(capsys, tiny_folder):
    def run(*arguments):
        code = main(["diagnose", "--model", str(tiny_folder), *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_command(run, tmp_path):
    save(scenes.from_objects(["cup", "fork"]), tmp_path / "a.png")
    save(scenes.from_objects(["dog"]), tmp_path / "b.png")
    code, out, err = run("--images", tmp_path, "--out", tmp_path / "drift.png")
    assert code == 0
    for words in (
        "2 questions about",
        "deep layers look away",
        "on image",
        "Parameters to try: clva:positive_layer=",
        "drift that CLVA repairs is",
    ):
        assert words in out
    assert (tmp_path / "drift.png").stat().st_size > 1000
    assert "2 of 2 questions" in err


def test_command_json_on_photographs_with_questions(run, tmp_path, red):
    red.save(tmp_path / "red.png")
    (tmp_path / "questions.txt").write_text("Is there a dog?\nWhat is it?\n")
    code, out, _ = run("--images", tmp_path, "--questions", tmp_path / "questions.txt", "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary["questions"] == 2
    assert len(summary["layers"]) == 4
    assert all("object" not in one["premise"] for one in summary["verdicts"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--images", "nowhere"], "Expected a folder of images; nowhere is none"),
        (["--images", "EMPTY"], "No images in "),
        (["--questions", "nowhere.txt"], "The questions in nowhere.txt cannot be read"),
        (["--limit", "1"], "Invalid value for '--limit'"),
        (["--limit", "2", "--out", "EMPTY/a.xyz"], "Expected a file ending in .png, .svg or .pdf"),
    ],
)
def test_bad_input(run, tmp_path, arguments, sentence):
    code, out, err = run(*[each.replace("EMPTY", str(tmp_path)) for each in arguments])
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


def test_one_question_is_not_enough(run, red, tmp_path):
    red.save(tmp_path / "red.png")
    code, out, err = run("--images", tmp_path)
    assert (code, out) == (2, "")
    assert "tells a difference from chance by how much questions differ; found 1. Give two images" in err
