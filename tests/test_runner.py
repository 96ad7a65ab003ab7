"""The runner: resumes after anything, shards, and gives the same answers always."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs_of_scenes import QUESTIONS, SCENES, comparable, run

import vlm_anchors as va
from vlm_anchors.durable import drop_torn_line
from vlm_anchors.errors import AnchorsWarning, BadSetting, CannotAct, MissingPackage
from vlm_anchors.evaluation.benchmarks.base import Question
from vlm_anchors.evaluation.reporting.tables import tables
from vlm_anchors.evaluation.runner import evaluate
from vlm_anchors.evaluation.runner.batches import Asked, batches
from vlm_anchors.evaluation.runner.bundled import export
from vlm_anchors.evaluation.runner.folder import shard
from vlm_anchors.scenes import from_objects, render

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return export(tmp_path_factory.mktemp("scenes"), images=SCENES)


@pytest.fixture(scope="module")
def whole(tiny, scenes, tmp_path_factory):
    """The records of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(tiny, scenes, out) == 2 * QUESTIONS
    return comparable(out)


def test_records_hold_what_scorers_and_readers_need(whole):
    record = next(r for key, r in whole.items() if key[1] == "clva")
    assert {"id", "image", "question", "group", "truth", "answer", "prompt", "effects", "yes_no", "tokens"} <= set(
        record
    )
    assert record["effects"]["clva"]["rows_edited"] > 0
    assert len(record["yes_no"]) == 2 and len(whole) == 2 * QUESTIONS


def test_the_run_file_is_a_birth_certificate(tiny, scenes, tmp_path):
    run(tiny, scenes, tmp_path / "run", limit=2)
    summary = json.loads((tmp_path / "run" / "run.json").read_text())
    wanted = {
        "model",
        "revision",
        "benchmark",
        "version",
        "data_sha256",
        "protocol",
        "seed",
        "versions",
        "commit",
        "device",
    }
    assert wanted | {"dtype", "attention"} <= set(summary)


def test_a_second_run_answers_nothing_and_more_methods_are_added(tiny, scenes, whole, tmp_path):
    assert run(tiny, scenes, tmp_path / "run", methods=["none"]) == QUESTIONS
    assert run(tiny, scenes, tmp_path / "run", methods=["none"]) == 0
    assert run(tiny, scenes, tmp_path / "run") == QUESTIONS
    assert comparable(tmp_path / "run") == whole


def test_a_torn_last_line_is_answered_again(tiny, scenes, whole, tmp_path):
    out = tmp_path / "run"
    run(tiny, scenes, out)
    file = out / "records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-3]) + lines[-3][:40])
    assert run(tiny, scenes, out) == 3
    assert comparable(out) == whole
    assert not drop_torn_line(file)


def start(folder, scenes, out, *more, **environment):
    arguments = [HERE / "eval_worker.py", folder, scenes / "pope", scenes / "images", out, *more]
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(HERE), **environment},
    )  # fmt: skip


def wait_for_lines(process, files, count):
    """Until so many lines are written, or the process has ended."""
    while process.poll() is None:
        if sum(f.read_bytes().count(b"\n") for f in files() if f.exists()) >= count:
            return
        time.sleep(0.002)


@pytest.mark.parametrize("kills", [(1, 17), pytest.param((1, 17, 40), marks=pytest.mark.slow)], ids=len)
def test_killed_at_any_moment_the_records_are_the_same(tiny_folder, scenes, whole, tmp_path, kills):
    """SIGKILLs at growing numbers of lines, one of them with a torn line made worse, then the rest."""
    out = tmp_path / "run"
    for number, lines in enumerate(kills):
        process = start(tiny_folder, scenes, out)
        wait_for_lines(process, lambda: [out / "records.jsonl"], lines)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if number == 1:
            with (out / "records.jsonl").open("a") as file:
                file.write('{"id": "torn')
    assert len(comparable(out)) < 2 * QUESTIONS
    last = start(tiny_folder, scenes, out)
    summary, complaint = last.communicate(timeout=600)
    assert last.returncode == 0, complaint.decode()[-2000:]
    assert 0 < int(summary) < 2 * QUESTIONS
    assert comparable(out) == whole


@pytest.mark.slow
def test_two_ranks_one_of_them_killed(tiny_folder, scenes, whole, tmp_path):
    out = tmp_path / "run"
    ranks = [start(tiny_folder, scenes, out, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    wait_for_lines(ranks[1], lambda: [out / "records.1.jsonl"], 8)
    ranks[1].send_signal(signal.SIGKILL)
    assert ranks[0].wait(600) == 0
    ranks[1].wait()
    assert 0 < len(comparable(out)) < 2 * QUESTIONS
    again = start(tiny_folder, scenes, out, RANK="1", WORLD_SIZE="2")
    assert again.wait(600) == 0, again.stderr.read().decode()[-2000:]
    assert comparable(out) == whole
    assert len(list(out.glob("records.*.jsonl"))) == 2


@pytest.mark.slow
def test_ray_workers_give_the_same_records_and_the_same_sentences(tiny, scenes, whole, tmp_path):
    ray = pytest.importorskip("ray")
    try:
        run(tiny, scenes, tmp_path / "run", methods=["clva"], ray_workers=2)
        assert comparable(tmp_path / "run") == {key: record for key, record in whole.items() if key[1] == "clva"}
        with pytest.raises(CannotAct, match=r"positive_layer = 99: this model's decoder has layers 1 to 4"):
            run(tiny, scenes, tmp_path / "run", methods=["clva:positive_layer=99"], limit=4, ray_workers=1)
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_ray_workers_killed_and_the_run_killed_the_records_are_the_same(tiny_folder, scenes, whole, tmp_path):
    """One worker of two dies, Ray replaces it; then everything dies, and a second run asks for what is missing."""
    pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    out = tmp_path / "run"
    first = start(tiny_folder, scenes, out, 2)
    wait_for_lines(first, lambda: [out / "records.jsonl"], 1)
    workers = [each for each in psutil.Process(first.pid).children(recursive=True) if "MapWorker" in each.name()]
    workers[0].kill()
    wait_for_lines(first, lambda: [out / "records.jsonl"], 24)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert 24 <= len(comparable(out)) < 2 * QUESTIONS
    second = start(tiny_folder, scenes, out, 1)
    summary, complaint = second.communicate(timeout=300)
    assert second.returncode == 0, complaint.decode()[-2000:]
    assert 0 < int(summary) <= 2 * QUESTIONS - 24
    assert comparable(out) == whole


def test_without_ray_a_sentence_says_what_to_install(tiny, scenes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingPackage, match=r'needs ray, which is not installed. Run: pip install "vlm-anchors\[ray\]"'
    ):
        run(tiny, scenes, tmp_path / "run", ray_workers=2)


def test_slurm_variables_shard_too(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert shard() == (0, 1)
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert shard() == (3, 8)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (va.VCD(), {"vcd"}),
        ("vcd", {"vcd"}),
        ([va.VCD()], {"vcd"}),
        ([va.VCD(), "none", va.CLVA(tau=1)], {"vcd", "none", "clva:tau=1"}),
        ([["attanchor", va.CLVA()], "clva"], {"attanchor+clva", "clva"}),
        (None, {"none"}),
    ],
)
def test_methods_are_objects_or_text_one_or_many(tiny, scenes, tmp_path, arguments, found):
    assert run(tiny, scenes, tmp_path / "run", methods=arguments, limit=1) == len(found)
    assert {key[1] for key in comparable(tmp_path / "run")} == found


def test_without_methods_the_model_s_own_answers(tiny, scenes, tmp_path):
    import dataclasses

    run(dataclasses.replace(tiny, method="clva:tau=1"), scenes, tmp_path / "run", methods=None, limit=1)
    assert {key[1] for key in comparable(tmp_path / "run")} == {"clva:tau=1"}


def test_a_method_named_twice_answers_once(tiny, scenes, tmp_path):
    assert run(tiny, scenes, tmp_path / "run", methods=["clva", va.CLVA()], limit=1) == 1
    assert len(comparable(tmp_path / "run")) == 1


def test_no_methods_at_all_are_refused(tiny, scenes, tmp_path):
    with pytest.raises(BadSetting, match="Expected one or more methods; found an empty list"):
        run(tiny, scenes, tmp_path / "run", methods=[], limit=1)


@pytest.mark.slow
def test_memory_stays_flat(tiny, scenes, tmp_path):
    """Nothing is kept from one batch to the next."""
    import gc

    def tensors():
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    counts = []
    run(tiny, scenes, tmp_path / "run", methods=["clva"], progress=lambda done, of: counts.append(tensors()))
    assert max(counts[3:]) <= counts[2] + 5


def test_batches_are_a_function_of_the_questions():
    asked = [Asked(Question(str(n), f"{n % 3}.png", "?", "g", {}), "?" * n) for n in range(9)]
    made = batches(asked, 4)
    assert [len(batch) for batch in made] == [4, 4, 1]
    assert [one.question.image for one in made[0]] == ["0.png"] * 3 + ["1.png"]


@pytest.mark.parametrize("method", ["none", "clva", "vcd", "deco", "vista", "attanchor"])
def test_questions_without_an_image_are_answered_too(tiny, tmp_path, method):
    """HallusionBench has them; there a method has nothing to act on, says so, and leaves the plain answer."""
    folder = tmp_path / "images" / "VS" / "map"
    folder.mkdir(parents=True)
    render(from_objects(["cup"])).save(folder / "0_1.png")
    row = {"category": "VS", "subcategory": "map", "visual_input": "1", "set_id": "0", "question_id": "0"}
    row |= {
        "question": "Is there a cup?",
        "gt_answer": "1",
        "figure_id": "1",
        "filename": "./hallusion_bench/VS/map/0_1.png",
    }
    without_image = {**row, "visual_input": "0", "figure_id": "0", "filename": None}
    longer = {**without_image, "question_id": "1", "question": "Is there a cup somewhere?"}
    (tmp_path / "HallusionBench.json").write_text(json.dumps([row, without_image, longer]))
    arguments = {"data": tmp_path / "HallusionBench.json", "images": tmp_path / "images", "protocol_name": "llava"}
    arguments["max_new_tokens"] = 16  # the tiny model never ends by itself, and the protocol has 128
    assert evaluate(tiny, "hallusion", tmp_path / "plain", **arguments) == 3
    with contextlib.nullcontext() if method == "none" else pytest.warns(AnchorsWarning, match="leaves it as it is"):
        assert evaluate(tiny, "hallusion", tmp_path / "run", methods=[method], **arguments) == 3
    plain, found = comparable(tmp_path / "plain"), comparable(tmp_path / "run")
    assert sorted(record["image"] is None for record in found.values()) == [False, True, True]
    for key, record in found.items():
        if record["image"] is None:
            assert record["answer"] == plain[(key[0], "none", *key[2:])]["answer"]
            assert record["effects"] == {}
    assert tables([tmp_path / "run"])[0].rows[0].n == 3
    assert "Infinity" not in (tmp_path / "run" / "records.jsonl").read_text()


def test_tables_come_from_the_records(tiny, scenes, tmp_path):
    run(tiny, scenes, tmp_path / "run", split=None, limit=24)
    made = tables([tmp_path / "run"])
    assert {row.method for row in made[0].rows} == {"none", "clva"}
    assert made[0].rows[0].n == 24


def test_export_writes_the_official_formats(scenes):
    from vlm_anchors.evaluation.benchmarks import BENCHMARKS

    counts = {name: len(BENCHMARKS.build(name).questions(scenes / name)) for name in ("pope", "chair", "mme")}
    assert counts["pope"] == 3 * QUESTIONS and counts["chair"] == SCENES and counts["mme"] >= 4 * SCENES
    assert len(list((scenes / "images").glob("*.png"))) == SCENES
