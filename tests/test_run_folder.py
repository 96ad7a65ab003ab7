"""A RUN folder among whatever else lies on a disk: taken up again, or refused without a trace."""

import json
import os
import shutil
import subprocess

import pytest

from vlm_anchors.apps.cli import main
from vlm_anchors.errors import AnchorsWarning, BadData, BadRun, BadSetting
from vlm_anchors.evaluation.reporting.runs import read_run
from vlm_anchors.evaluation.runner import evaluate
from vlm_anchors.evaluation.runner.bundled import bundled_data, export
from vlm_anchors.evaluation.runner.folder import shard


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return export(tmp_path_factory.mktemp("scenes"), images=2)


def run(vlm, data, out, **how):
    how = {"methods": ["none"], "protocol_name": "deco", "limit": 2, **how}
    return evaluate(vlm, "pope", out, data=data / "pope", images=data / "images", **how)


@pytest.fixture
def begun(tiny, scenes, tmp_path):
    """A copy of the data, and a RUN that has answered two questions of it."""
    data = shutil.copytree(scenes, tmp_path / "data")
    assert run(tiny, data, tmp_path / "run") == 2
    return data, tmp_path / "run"


def everything(folder):
    return {path: path.read_bytes() if path.is_file() and not path.is_symlink() else None for path in folder.rglob("*")}


def test_what_lies_around_the_data_changes_nothing(tiny, begun):
    data, out = begun
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (".DS_Store", "._scenes_pope_random.json", f".scenes_pope_random.json.{ended.pid}", "notes.md"):
        (data / "pope" / name).write_bytes(b"\0")
    shutil.copytree(out, data / "pope" / "run")
    assert run(tiny, data, out, limit=3) == 1
    with (data / "pope" / "scenes_pope_random.json").open("a") as file:
        file.write("\n")
    with pytest.raises(BadRun, match="was made with data_sha256"):
        run(tiny, data, out, limit=3)


def test_bundled_questions_are_written_once_and_leftovers_are_cleared(tmp_path):
    data, _ = bundled_data("pope", tmp_path, images=2, limit=1)
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = data / f".scenes_pope_random.json.{ended.pid}"
    left.write_text("half")
    before = {path: path.stat().st_mtime_ns for path in data.glob("*.json")}
    bundled_data("pope", tmp_path, images=2, limit=1)
    assert before == {path: path.stat().st_mtime_ns for path in data.glob("*.json")} and not left.exists()
    (data / "scenes_pope_random.json").write_text("{}")
    with pytest.raises(BadSetting, match="holds other questions than this version writes"):
        bundled_data("pope", tmp_path, images=2, limit=1)


def test_a_refused_run_changes_no_file(tiny, begun, tmp_path):
    data, out = begun
    with (out / "records.jsonl").open("a") as file:
        file.write('{"id": "torn')
    before = everything(tmp_path)
    with pytest.raises(BadRun, match="was made with protocol"):
        run(tiny, data, out, protocol_name="vista")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "records.jsonl").write_text("a line without an end")
    (foreign / "precious").write_text("keep")
    with pytest.raises(BadRun, match=r"holds records but no run\.json"):
        run(tiny, data, foreign)
    assert {path: text for path, text in everything(tmp_path).items() if foreign not in (path, *path.parents)} == before
    assert (foreign / "records.jsonl").read_text() == "a line without an end"
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "records.jsonl").symlink_to(foreign / "precious")
    with pytest.raises(BadRun):
        run(tiny, data, linked)
    assert (foreign / "precious").read_text() == "keep"


def test_a_refused_command_draws_nothing(tiny_folder, begun, tmp_path, capsys):
    _, out = begun
    before = everything(out)
    command = ["eval", "pope", "--out", str(out), "--model", str(tiny_folder), "--limit", "1", "--protocol", "vista"]
    assert main(command) == 2 and "was made with" in capsys.readouterr().err
    assert everything(out) == before


@pytest.mark.parametrize(
    "line", [b"garbage\n", b"\0\0\n", b"null\n", b'{"id": "1", "answ\n', b'{"id": 1}\n', b'{"id": []}\n']
)
def test_a_damaged_record_is_named(tiny, begun, line):
    data, out = begun
    (out / "records.jsonl").write_bytes(line + (out / "records.jsonl").read_bytes())
    with pytest.raises(BadData, match=r"records\.jsonl, line 1: "):
        run(tiny, data, out, limit=3)


@pytest.mark.parametrize("content", [b"[]", b"\xff\xfe", b"{", b"9" * 5000, None])
def test_a_damaged_run_file_is_named(tiny, begun, content):
    data, out = begun
    (out / "run.json").unlink()
    (out / "run.json").write_bytes(content) if content else os.mkfifo(out / "run.json")
    with pytest.raises(BadRun, match=r"run\.json"):
        run(tiny, data, out, limit=3)
    with pytest.raises(BadData, match=r"run\.json"):
        read_run(out)


@pytest.mark.parametrize(("name", "value"), [("attention", "eager"), ("version", "2099")])
def test_another_kernel_or_benchmark_version_does_not_mix(tiny, begun, name, value):
    data, out = begun
    settings = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**settings, name: value}))
    with pytest.raises(BadRun, match=f"was made with {name} = '{value}'"):
        run(tiny, data, out, limit=3)


def test_other_packages_are_written_into_each_record(tiny, begun):
    data, out = begun
    settings = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**settings, "versions": {**settings["versions"], "torch": "1.0"}}))
    with pytest.warns(AnchorsWarning, match="was begun with versions of its packages other than today's"):
        assert run(tiny, data, out, limit=3) == 1
    made = [record.get("made_with") for record in read_run(out).records]
    assert made[:2] == [None, None] and made[2]["versions"] == settings["versions"]


@pytest.mark.parametrize("words", [("x", "2"), ("2", "2"), ("-1", "2"), ("0", "")])
def test_variables_that_are_no_share_are_told(monkeypatch, words):
    monkeypatch.setenv("RANK", words[0])
    monkeypatch.setenv("WORLD_SIZE", words[1])
    with pytest.raises(BadSetting, match="RANK and WORLD_SIZE as whole numbers"):
        shard()
