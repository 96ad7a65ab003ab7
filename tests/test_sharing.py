"""Processes at work on one RUN share its questions in one way; a later run may share them otherwise and answers none twice."""

import json
import subprocess
import sys

import pytest

from vlm_anchors.apps.cli import main
from vlm_anchors.durable import exclusive
from vlm_anchors.errors import BadRun
from vlm_anchors.evaluation.reporting.runs import read_run
from vlm_anchors.evaluation.runner import evaluate
from vlm_anchors.evaluation.runner.bundled import export
from vlm_anchors.evaluation.runner.folder import RunFolder, key_of
from vlm_anchors.evaluation.runner.sharing import FILE, shares_of

HOLDS = """
import sys, types
from pathlib import Path
import vlm_anchors.evaluation
# The package without its models, which take seconds to import.
runner = types.ModuleType("vlm_anchors.evaluation.runner")
runner.__path__ = [str(Path(vlm_anchors.evaluation.__file__).parent / "runner")]
sys.modules[runner.__name__] = runner
from vlm_anchors.errors import BadRun
from vlm_anchors.evaluation.runner.folder import RunFolder

print("ready", flush=True)
sys.stdin.readline()
try:
    with RunFolder(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])):
        print("in", flush=True)
        sys.stdin.readline()
except BadRun:
    print("refused", flush=True)
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return export(tmp_path_factory.mktemp("scenes"), images=2)


def run(vlm, scenes, out, **how):
    how = {"split": "adversarial", "batch_size": 2, **how}
    return evaluate(
        vlm, "pope", out, data=scenes / "pope", images=scenes / "images", methods=["none"], protocol_name="deco", **how
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [((0, 2), (0, 1)), ((0, 1), (1, 2)), ((0, 2), (2, 3)), ((2, 3), (1, 2)), ((0, 2), (1, 3)), ((7, 8), (0, 4))],
)
def test_another_number_of_processes_is_refused_until_the_first_have_ended(tmp_path, first, second):
    out = tmp_path / "run"
    with RunFolder(out, *first), pytest.raises(BadRun, match="another number of processes") as refused:
        RunFolder(out, *second).__enter__()
    assert str(refused.value) == (
        f"{out} is being answered by other processes, with another number of processes ({first[1]}; here {second[1]}): "
        f"some questions would be answered twice. Wait for them, or choose another --out."
    )
    with RunFolder(out, *second):  # one after another is allowed, either way round
        pass
    with RunFolder(out, *first):
        pass


def test_all_ranks_of_one_number_share_a_run(tmp_path):
    with RunFolder(tmp_path / "run", 0, 3), RunFolder(tmp_path / "run", 2, 3), RunFolder(tmp_path / "run", 1, 3):
        with pytest.raises(BadRun, match="records.1.jsonl is being written by another process"):
            RunFolder(tmp_path / "run", 1, 3).__enter__()
        with pytest.raises(BadRun, match="another number of processes"):
            RunFolder(tmp_path / "run", 3, 4).__enter__()
    with RunFolder(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({**shares_of("abc", 4)}, r"another --batch-size \(2; here 4\)"),
        ({**shares_of("abd", 2)}, "other questions: some"),
        ({**shares_of(["a", "bc"], 2)}, "other questions: some"),
    ],
)
def test_ranks_with_other_batches_are_refused(tmp_path, other, sentence):
    """Each rank answers every n-th batch: of other batches it would be other questions."""
    with RunFolder(tmp_path / "run", 0, 2, shares_of("abc", 2)):
        with pytest.raises(BadRun, match=sentence):
            RunFolder(tmp_path / "run", 1, 2, other).__enter__()
        with RunFolder(tmp_path / "run", 1, 2, shares_of(["a", "b", "c"], 2)):
            pass
    with RunFolder(tmp_path / "run", 1, 2, other):
        pass


def test_a_refused_process_holds_nothing_and_leaves_what_was_agreed(tmp_path):
    out = tmp_path / "run"
    with RunFolder(out, 0, 2):
        for _ in range(2):
            with pytest.raises(BadRun, match="another number"):
                RunFolder(out, 1, 3).__enter__()
        assert json.loads((out / FILE).read_text()) == {"processes": 2}
        with RunFolder(out, 1, 2):  # the refused rank has let go of records.1.jsonl
            pass


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 4000, '{"processes": 2', '{"processes": "2"}', "\0\xff"])
def test_what_nobody_can_read_is_no_agreement(tmp_path, content):
    out = tmp_path / "run"
    with RunFolder(out, 0, 2):
        (out / FILE).write_bytes(content.encode("latin-1"))
        with pytest.raises(BadRun, match="another number of processes"):
            RunFolder(out, 1, 2).__enter__()
    with RunFolder(out, 1, 2):
        assert json.loads((out / FILE).read_text()) == {"processes": 2}


def test_a_process_that_holds_the_file_too_long_is_named(tmp_path):
    with exclusive(tmp_path / FILE), pytest.raises(BadRun, match="processes.json is held by another process"):
        exclusive(tmp_path / FILE, seconds=0.05).__enter__()
    (tmp_path / "link").symlink_to(tmp_path / FILE)
    with pytest.raises(BadRun, match="found a link"):
        exclusive(tmp_path / "link").__enter__()


def started(out, rank, world):
    """A process that has imported everything and waits for a line before it opens the RUN."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(out), str(rank), str(world)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_that_start_together_are_all_of_one_number_and_a_killed_one_refuses_nobody(tmp_path):
    """Ranks of 2 and of 3 at the same moment: whoever is first decides."""
    ranks = [(0, 2), (2, 3), (1, 2)]
    processes = [started(tmp_path / "run", *each) for each in ranks]
    try:
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        found = [process.stdout.readline() for process in processes]
        inside = {world for (_, world), word in zip(ranks, found, strict=True) if word == "in\n"}
        assert set(found) == {"in\n", "refused\n"} and len(inside) == 1
        assert found.count("in\n") == (2 if inside == {2} else 1)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    with RunFolder(tmp_path / "run", 3, 4):
        pass


def test_eval_says_it_in_one_sentence(tiny, tiny_folder, scenes, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    assert run(tiny, scenes, out, limit=2) == 2
    before = (out / "records.jsonl").read_bytes()
    asked = ["eval", "pope", "--model", str(tiny_folder), "--data", str(scenes / "pope"), "--protocol", "deco"]
    asked += ["--images", str(scenes / "images"), "--split", "adversarial", "--method", "none", "--out", str(out)]
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with RunFolder(out, 0, 2):
        assert main(asked) == 2
    assert "another number of processes (2; here 3)" in " ".join(capsys.readouterr().err.split())
    assert (out / "records.jsonl").read_bytes() == before


def test_a_run_goes_on_with_any_number_of_processes_and_answers_nothing_twice(tiny, scenes, tmp_path, monkeypatch):
    def ranks(world, batch_size, limit=None):
        found = []
        for rank in range(world):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", str(world))
            found.append(run(tiny, scenes, tmp_path / "run", batch_size=batch_size, limit=limit))
        return found

    assert ranks(2, 2, limit=6) == [4, 2]
    assert sum(ranks(1, 4, limit=8)) == 2
    assert sum(ranks(3, 2)) == 4
    assert ranks(2, 3) == [0, 0]
    lines = [json.loads(line) for file in (tmp_path / "run").glob("records*.jsonl") for line in file.open()]
    keys = [key_of(line) for line in lines]
    assert len(keys) == len(set(keys)) == 12 == len(read_run(tmp_path / "run").records)
