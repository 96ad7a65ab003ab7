"""Files that a kill, a full disk or another program left: taken up again, never made worse, and refused by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_anchors.durable import AppendedLines, clear_leftovers, drop_torn_line, read_lines, write_whole
from vlm_anchors.errors import BadData, BadRun, BadSetting
from vlm_anchors.text_files import expand, parse_json, read_object, read_text

RECORD = {"id": "1", "answer": "Yes"}


def test_lines_are_appended_whole_and_a_torn_one_is_cut_at_the_first_append(tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_text('{"id": "0"}\n{"id": "1", "ans')
    with AppendedLines(file) as lines:
        assert file.read_text().endswith("ans"), "opened, but nothing is changed before something is written"
        lines.append([RECORD])
    assert read_lines(file) == ([{"id": "0"}, RECORD], 0)


@pytest.mark.parametrize("tail", ["", "x", "x" * 70_000, "\n", "a\nb"])
def test_what_follows_the_last_line_break_is_cut(tmp_path, tail):
    file = tmp_path / "lines"
    file.write_text("whole\n" + tail)
    drop_torn_line(file)
    kept = "whole\n" + tail
    assert file.read_text() == kept[: kept.rindex("\n") + 1]


def test_half_of_a_surrogate_pair_is_written_and_read_back(tmp_path):
    with AppendedLines(tmp_path / "lines") as lines:
        lines.append([{"id": "1", "answer": "\ud800"}])
    assert read_lines(tmp_path / "lines")[0][0]["answer"] == "\ud800"


def test_a_link_or_a_pipe_is_not_written_through(tmp_path):
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(BadRun, match="found a link, a pipe or a folder"), AppendedLines(tmp_path / name) as lines:
            lines.append([RECORD])
    assert (tmp_path / "target").read_text() == "precious"


@pytest.mark.parametrize(
    "line", [b"garbage", b"\0\0", b"null", b"[1]", b'{"id": "1", "answ', b"[" * 100_000, b"9" * 5000, b"\xff"]
)
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "records.jsonl").write_bytes(json.dumps(RECORD).encode() + b"\n" + line + b"\n" + b'{"id": "2"}\n')
    with pytest.raises(BadData, match=r"records\.jsonl, line 2: "):
        read_lines(tmp_path / "records.jsonl")


FULL = """
import resource, sys
from vlm_anchors.durable import AppendedLines, write_whole
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
out = Path(sys.argv[1])
try:
    if sys.argv[2] == "lines":
        with AppendedLines(out) as lines:
            for number in range(1000):
                lines.append([{"id": str(number), "answer": "x" * 100}])
    else:
        write_whole(out, "x" * 10_000)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path):
    run = [sys.executable, "-c", FULL]
    file = tmp_path / "records.jsonl"
    said = subprocess.run([*run, str(file), "lines"], capture_output=True, text=True).stdout
    assert said.startswith("BadRun Cannot write") and "What was answered before is kept" in said
    rows, torn = read_lines(file)
    assert [row["id"] for row in rows] == [str(n) for n in range(len(rows))] and len(rows) > 20 and torn == 0
    (tmp_path / "page").write_text("before")
    said = subprocess.run([*run, str(tmp_path / "page"), "whole"], capture_output=True, text=True).stdout
    assert said.startswith("BadSetting Cannot write") and (tmp_path / "page").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page", "records.jsonl"]


def test_what_is_right_already_is_not_written_again(tmp_path):
    write_whole(tmp_path / "a", "text")
    before = (tmp_path / "a").stat().st_mtime_ns, (tmp_path / "a").stat().st_ino
    write_whole(tmp_path / "a", "text")
    assert before == ((tmp_path / "a").stat().st_mtime_ns, (tmp_path / "a").stat().st_ino)


def test_leftovers_of_ended_processes_are_cleared_and_nothing_else(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / "below").mkdir()
    left = tmp_path / "below" / f".pope.json.{ended.pid}"
    kept = [tmp_path / f".pope.json.{os.getpid()}", tmp_path / ".DS_Store", tmp_path / "pope.json.7"]
    for path in (left, *kept):
        path.touch()
    clear_leftovers(tmp_path)
    assert not left.exists() and all(path.exists() for path in kept)


def test_one_lock_on_every_system(tmp_path, monkeypatch):
    """Windows has msvcrt where others have fcntl; a system with neither has no lock, and works."""
    with AppendedLines(tmp_path / "a"), pytest.raises(BadRun, match="being written by another process"):
        AppendedLines(tmp_path / "a").__enter__()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with AppendedLines(tmp_path / "b") as lines:
        lines.append([RECORD])

    class Msvcrt:
        LK_NBLCK, held = 2, set()

        @classmethod
        def locking(cls, file, mode, size):
            here = os.fstat(file).st_ino
            if here in cls.held:
                raise PermissionError
            cls.held.add(here)

    monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt)
    with AppendedLines(tmp_path / "c") as lines:
        lines.append([RECORD])
        with pytest.raises(BadRun, match="being written"):
            AppendedLines(tmp_path / "c").__enter__()
    assert read_lines(tmp_path / "c")[0] == [RECORD]


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, '{"a": ' * 5000, b"\xff\xfe", "{", ""])
def test_every_fault_of_json_is_one_kind_of_error(text):
    with pytest.raises(json.JSONDecodeError):
        parse_json(text)


def test_pipes_and_devices_are_refused_before_they_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadData, match="is a pipe. Write its content to a file first"):
        read_text(tmp_path / "pipe")
    with pytest.raises(BadSetting, match="is a device"):
        read_object(Path("/dev/zero"), BadSetting)
    with pytest.raises(BadData, match="is a folder"):
        read_text(tmp_path)
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(BadData, match="holds no JSON object. Restore it"):
        read_object(tmp_path / "list.json")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadData, match="has 1024 GiB; at most 16 are read"):
        read_text(tmp_path / "huge")


def test_a_home_of_nobody_is_left_as_it_is():
    assert expand("~nobody-of-this-name/x.png") == Path("~nobody-of-this-name/x.png")
    assert expand("~/x.png") == Path.home() / "x.png"
