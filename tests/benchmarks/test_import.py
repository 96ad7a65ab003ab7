"""Answers of another program become a RUN folder that report reads like one of ours."""

import json

import pytest

from vlm_anchors.apps.cli import main
from vlm_anchors.evaluation.benchmarks.base import BadData
from vlm_anchors.evaluation.reporting.tables import read_run, tables
from vlm_anchors.evaluation.runner.import_answers import import_answers


@pytest.fixture
def pope(tmp_path):
    rows = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {word} in the image?", "label": label}
        for n, (word, label) in enumerate([("cup", "yes"), ("dog", "no"), ("fork", "yes"), ("cat", "no")], 1)
    ]
    data = tmp_path / "coco_pope_random.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


def answers(path, *texts):
    path.write_text("".join(json.dumps({"question_id": n, "text": text}) + "\n" for n, text in enumerate(texts, 1)))
    return path


def test_two_methods_of_another_program_compare_in_one_table(tmp_path, pope, capsys):
    plain = answers(tmp_path / "plain.jsonl", "Yes", "Yes", "No", "No")
    better = answers(tmp_path / "better.jsonl", "Yes", "No", "Yes", "No")
    command = ["score", "pope", "--data", str(pope), "--out", str(tmp_path / "run"), "--model", "Theirs"]
    assert main([*command, "--answers", str(plain)]) == 0
    assert main([*command, "--answers", str(better), "--method", "VCD"]) == 0
    (table,) = tables([tmp_path / "run"])
    rows = {row.method: row.cells["accuracy"].value for row in table.rows}
    assert rows == {"none": 50.0, "VCD": 100.0}
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run"), "--format", "md"]) == 0
    page = capsys.readouterr().out
    assert "Theirs" in page and "another program's" in page and "not stated" in page
    assert main([*command, "--answers", str(better), "--method", "VCD"]) == 0, "the same once more"
    assert len(read_run(tmp_path / "run").records) == 8


def test_what_does_not_fit_leaves_the_folder_as_it_was(tmp_path, pope):
    out = tmp_path / "run"
    import_answers("pope", answers(tmp_path / "a.jsonl", *["Yes"] * 4), out, data=pope, model="Theirs")
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".lock"}
    with pytest.raises(BadData, match="has no answer to"):
        import_answers("pope", answers(tmp_path / "b.jsonl", "Yes"), out, data=pope, model="Theirs", method="VCD")
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".lock"} == before


def test_the_command_says_what_is_wrong(tmp_path, pope, capsys):
    file = answers(tmp_path / "a.jsonl", *["Yes"] * 4)
    command = ["score", "pope", "--data", str(pope), "--out", str(tmp_path / "run"), "--answers", str(file)]
    assert main([*command, "--model", "One"]) == 0
    assert main([*command, "--model", "Two"]) == 2
    assert "was made with model = 'One'; this is 'Two'" in capsys.readouterr().err
    assert main([*command, "--model", " "]) == 2
    assert "--model is empty" in capsys.readouterr().err
