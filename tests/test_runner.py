"""The runner: resumes after anything, never mixes settings, shards, reuses prefixes, and gives the same answers always."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import front
import pytest
import torch

import vlm_anchors as va
from vlm_anchors.apps.cli import main
from vlm_anchors.durable import drop_torn_line
from vlm_anchors.errors import AnchorsWarning, BadRun, BadSetting, CannotAct, MissingPackage, UserError
from vlm_anchors.evaluation.benchmarks.base import Question
from vlm_anchors.evaluation.benchmarks.protocols import protocol
from vlm_anchors.evaluation.reporting.tables import read_run, tables
from vlm_anchors.evaluation.runner import answer, evaluate
from vlm_anchors.evaluation.runner.answerer import key_of_run, run_of
from vlm_anchors.evaluation.runner.batches import Asked, batches
from vlm_anchors.evaluation.runner.bundled import bundled_data, export
from vlm_anchors.evaluation.runner.folder import RunFolder, shard
from vlm_anchors.generation.plan import GenerationPlan
from vlm_anchors.inputs.prompt_builder import Sample
from vlm_anchors.interventions.branch.image_cache import images_once
from vlm_anchors.scenes import from_objects, render

HERE = Path(__file__).parent
SCENES = 6
QUESTIONS = SCENES * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return front.save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tiny(folder):
    return va.load(str(folder))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return export(tmp_path_factory.mktemp("scenes"), images=SCENES)


def run(vlm, scenes, out, **how):
    how = {"methods": ["none", "clva"], "batch_size": 4, "protocol_name": "deco", "split": "adversarial", **how}
    return evaluate(vlm, "pope", out, data=scenes / "pope", images=scenes / "images", **how)


def comparable(out):
    """Records by key, without seconds and order."""
    found = {}
    for record in read_run(out).records:
        record.pop("seconds")
        key = (record["id"], record["method"], record["decoding"], record["seed"])
        assert key not in found, f"{key} is counted twice"
        found[key] = record
    return found


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


def test_killed_at_any_moment_the_records_are_the_same(folder, scenes, whole, tmp_path):
    """Three SIGKILLs at growing numbers of lines, one of them with a torn line made worse, then the rest."""
    out = tmp_path / "run"
    for number, lines in enumerate((1, 17, 40)):
        process = start(folder, scenes, out)
        wait_for_lines(process, lambda: [out / "records.jsonl"], lines)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if number == 1:
            with (out / "records.jsonl").open("a") as file:
                file.write('{"id": "torn')
    assert len(comparable(out)) < 2 * QUESTIONS
    last = start(folder, scenes, out)
    summary, complaint = last.communicate(timeout=600)
    assert last.returncode == 0, complaint.decode()[-2000:]
    assert 0 < int(summary) < 2 * QUESTIONS
    assert comparable(out) == whole


@pytest.mark.slow
def test_two_ranks_one_of_them_killed(folder, scenes, whole, tmp_path):
    out = tmp_path / "run"
    ranks = [start(folder, scenes, out, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    wait_for_lines(ranks[1], lambda: [out / "records.1.jsonl"], 8)
    ranks[1].send_signal(signal.SIGKILL)
    assert ranks[0].wait(600) == 0
    ranks[1].wait()
    assert 0 < len(comparable(out)) < 2 * QUESTIONS
    again = start(folder, scenes, out, RANK="1", WORLD_SIZE="2")
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
def test_ray_workers_killed_and_the_run_killed_the_records_are_the_same(folder, scenes, whole, tmp_path):
    """One worker of two dies, Ray replaces it; then everything dies, and a second run asks for what is missing."""
    pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    out = tmp_path / "run"
    first = start(folder, scenes, out, 2)
    wait_for_lines(first, lambda: [out / "records.jsonl"], 1)
    workers = [each for each in psutil.Process(first.pid).children(recursive=True) if "MapWorker" in each.name()]
    workers[0].kill()
    wait_for_lines(first, lambda: [out / "records.jsonl"], 24)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert 24 <= len(comparable(out)) < 2 * QUESTIONS
    second = start(folder, scenes, out, 1)
    summary, complaint = second.communicate(timeout=300)
    assert second.returncode == 0, complaint.decode()[-2000:]
    assert 0 < int(summary) <= 2 * QUESTIONS - 24
    assert comparable(out) == whole


def test_without_ray_a_sentence_says_what_to_install(tiny, scenes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingPackage, match=r'needs ray, which is not installed. GenerationPlan: pip install "vlm-anchors\[ray\]"'
    ):
        run(tiny, scenes, tmp_path / "run", ray_workers=2)


def test_slurm_variables_shard_too(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert shard() == (0, 1)
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert shard() == (3, 8)


def test_a_run_in_use_is_refused(tmp_path):
    with RunFolder(tmp_path / "run"), pytest.raises(BadRun, match="being written by another process"):
        RunFolder(tmp_path / "run").__enter__()


@pytest.mark.parametrize(("name", "other"), [("protocol_name", "vista"), ("split", "random")])
def test_settings_do_not_mix(tiny, scenes, tmp_path, name, other):
    run(tiny, scenes, tmp_path / "run", limit=1)
    if name == "split":
        assert run(tiny, scenes, tmp_path / "run", limit=1, split="random") == 2
        return
    with pytest.raises(BadRun, match="was made with protocol = 'deco'; this is 'vista'.*choose another --out"):
        run(tiny, scenes, tmp_path / "run", limit=1, **{name: other})


def test_another_longest_answer_is_recorded_and_does_not_mix(tiny, scenes, tmp_path):
    run(tiny, scenes, tmp_path / "run", limit=1, max_new_tokens=3)
    assert {record["tokens"] for record in read_run(tmp_path / "run").records} <= {1, 2, 3}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["max_new_tokens"] == 3
    with pytest.raises(BadRun, match="was made with max_new_tokens = 3; this is the protocol's"):
        run(tiny, scenes, tmp_path / "run", limit=2)
    summary = tables([tmp_path / "run"])[0].protocol
    assert "5 new tokens" in summary and summary.endswith("asked with 3 new tokens instead (--max-new-tokens)")
    run(tiny, scenes, tmp_path / "own", limit=1)
    run(tiny, scenes, tmp_path / "own", limit=2, max_new_tokens=5)  # the protocol's own number is no other
    assert len(tables([tmp_path / "run", tmp_path / "own"])) == 2  # never one table
    with pytest.raises(BadSetting, match="max_new_tokens must be a whole number from 1 to 100000; found 0"):
        run(tiny, scenes, tmp_path / "none", limit=1, max_new_tokens=0)


def test_what_is_refused_before_its_first_answer_binds_nobody(tiny, scenes, tmp_path):
    with pytest.raises(CannotAct, match="positive_layer = 99"):
        run(tiny, scenes, tmp_path / "run", methods=["clva:positive_layer=99"], limit=1)
    assert not (tmp_path / "run" / "run.json").exists()
    assert run(tiny, scenes, tmp_path / "run", methods=["none"], limit=1, protocol_name="vista") == 1


def test_logits_that_are_no_numbers_are_no_answers(tiny, scenes, tmp_path):
    with pytest.raises(CannotAct, match=r"under clva:alpha=1e\+308 some are NaN: a parameter is too large"):
        run(tiny, scenes, tmp_path / "run", methods=["clva:alpha=1e308"], limit=4)
    assert (tmp_path / "run" / "records.jsonl").read_text() == ""


def test_two_ranks_that_began_together_do_not_mix_settings(tmp_path):
    settings = {"model": "a", "protocol": "deco"}
    with RunFolder(tmp_path / "run", 0, 2) as first, RunFolder(tmp_path / "run", 1, 2) as second:
        first.settle(settings)
        second.settle({**settings, "protocol": "vista"})
        first.append([{"id": "1"}])
        with pytest.raises(BadRun, match="was made with protocol = 'deco'; this is 'vista'"):
            second.append([{"id": "2"}])


def test_another_model_or_data_file_is_refused(tiny, folder, scenes, tmp_path):
    import dataclasses

    run(tiny, scenes, tmp_path / "run", limit=1)
    with pytest.raises(BadRun, match="was made with model"):
        run(dataclasses.replace(tiny, name="another"), scenes, tmp_path / "run", limit=1)
    other = export(tmp_path / "other", images=SCENES, seed=1)
    with pytest.raises(BadRun, match="was made with data_sha256"):
        run(tiny, other, tmp_path / "run", limit=1)


def test_sentences_for_what_cannot_run(tiny, scenes, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSetting, match=r"lacks \d+ of the images, 'scene_0000.png' first"):
        evaluate(tiny, "pope", tmp_path / "run", data=scenes / "pope", images=tmp_path / "empty")
    with pytest.raises(BadSetting, match="--limit must be 1 or more; found 0"):
        run(tiny, scenes, tmp_path / "run", limit=0)
    with pytest.raises(UserError, match="no protocol 'lava'. Did you mean 'llava'"):
        run(tiny, scenes, tmp_path / "run", protocol_name="lava")
    with pytest.raises(BadSetting, match="has no bundled questions"):
        bundled_data("amber", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRun, match="is a file; --out names a folder"):
        run(tiny, scenes, tmp_path / "file")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "records.jsonl").write_text("{}\n")
    with pytest.raises(BadRun, match="no run.json"):
        run(tiny, scenes, tmp_path / "odd")
    (tmp_path / "odd" / "run.json").write_text("{")
    with pytest.raises(BadRun, match="is not valid JSON"):
        run(tiny, scenes, tmp_path / "odd")


@pytest.mark.parametrize(
    ("method", "decoding", "found"),
    [
        ("none", None, "beam"),
        ("imccd:preset=llava-1.5-7b/chair", None, "beam"),
        ("imccd:preset=llava-1.5-7b/chair-greedy", None, "beam"),  # the preset's name is no decoding
        ("clva+greedy", None, "greedy"),
        ("clva+nucleus:top_p=0.9", None, "nucleus:top_p=0.9"),
        ("imccd:preset=llava-1.5-7b/chair-greedy", "greedy", "greedy"),
    ],
)
def test_the_protocol_decodes_unless_a_decoding_is_asked_for(tiny, method, decoding, found):
    how = run_of(tiny, method, protocol("chair", "opera"), decoding, None)
    assert key_of_run(how)[1] == found


def test_what_will_be_done_is_said_first(tiny, scenes, tmp_path):
    said = []
    run(tiny, scenes, tmp_path / "run", limit=6, methods=["none", "clva"], say=said.append)
    assert said == [
        "pope, split adversarial: 6 questions, each with none, clva\n"
        "protocol deco: prompt '{q}', greedy, at most 5 new tokens"
    ]
    run(tiny, scenes, tmp_path / "beam", limit=2, methods=["none"], decoding="beam:num_beams=2", say=said.append)
    assert "Not greedy: beam:num_beams=2. Not comparable with greedy numbers" in said[1]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["questions"] == 6


def test_images_that_cannot_be_read_are_left_out_and_counted(tiny, scenes, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(scenes / "images", images)
    (images / "scene_0001.png").write_bytes((images / "scene_0001.png").read_bytes()[:500])
    how = {
        "data": scenes / "pope",
        "images": images,
        "split": "adversarial",
        "protocol_name": "deco",
        "methods": ["none"],
    }
    with pytest.warns(
        AnchorsWarning, match="6 questions are left out: 1 images cannot be read. The first: .*scene_0001"
    ):
        assert evaluate(tiny, "pope", tmp_path / "run", skip_bad=True, **how) == QUESTIONS - 6
    (table,) = tables([tmp_path / "run"], draws=20)
    assert any("6 questions were left out: their images cannot be read" in note for note in table.notes)
    for image in images.iterdir():
        image.write_bytes(b"no image")
    with pytest.raises(BadSetting, match="None of the images of the 36 questions can be read"):
        evaluate(tiny, "pope", tmp_path / "none", skip_bad=True, **how)


@pytest.fixture
def no_drawing(monkeypatch):
    def drawn(*arguments):
        raise AssertionError("scenes were drawn before the names were checked")

    monkeypatch.setattr("vlm_anchors.evaluation.runner.bundled._scenes", drawn)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["eval", "poep"], "No benchmark 'poep'. Did you mean 'pope'?"),
        (["eval", "pope", "--method", "vdc"], "No method 'vdc'. Did you mean 'vcd'?"),
        (["eval", "pope", "--method", "clva", "--method", ""], "Expected NAME or NAME:PARAMETER=VALUE"),
        (["eval", "pope", "--protocol", "lava"], "pope has no protocol 'lava'. Did you mean 'llava'"),
        (["eval", "pope", "--decoding", "bean"], "No decoding 'bean'. Did you mean 'beam'?"),
        (["eval", "pope", "--limit", "0"], "--limit must be 1 or more; found 0."),
        (["eval", "pope", "--max-new-tokens", "0"], "max_new_tokens must be a whole number from 1"),
        (["eval", "amber"], "amber has no bundled questions"),
        (["lmms-task", "poep"], "No benchmark 'poep'. Did you mean 'pope'?"),
        (["lmms-task", "pope", "--protocol", "lava"], "pope has no protocol 'lava'"),
    ],
)
def test_names_are_checked_before_anything_is_drawn(folder, tmp_path, no_drawing, capsys, asked, sentence):
    model = ["--model", str(folder)] if asked[0] == "eval" else []
    assert main([*asked, *model, "--out", str(tmp_path / "run")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("benchmark", ["pope", "mme", "chair"])
def test_a_limit_draws_the_images_it_asks_about_and_changes_nothing_else(tmp_path, benchmark):
    from vlm_anchors.evaluation.benchmarks import BENCHMARKS

    whole, images = bundled_data(benchmark, tmp_path / "whole", images=SCENES)
    few, drawn = bundled_data(benchmark, tmp_path / "few", images=SCENES, limit=2)
    assert {file.name: file.read_bytes() for file in few.iterdir()} == {
        file.name: file.read_bytes() for file in whole.iterdir()
    }
    wanted = {question.image for question in BENCHMARKS.build(benchmark).questions(few)[:2]}
    assert {file.name for file in drawn.iterdir()} == wanted
    assert len(wanted) < len(list(images.iterdir())) == SCENES
    assert all((drawn / name).read_bytes() == (images / name).read_bytes() for name in wanted)


def test_eval_takes_a_longest_answer(folder, tmp_path, capsys):
    asked = ["eval", "pope", "--model", str(folder), "--limit", "1", "--method", "none", "--protocol", "clva"]
    assert main([*asked, "--max-new-tokens", "2", "--out", str(tmp_path / "run")]) == 0
    assert read_run(tmp_path / "run").info["max_new_tokens"] == 2


SHARING = ["none", "clva", "clearsight", "clearsight:heads=selected", "deco", "pai", "vcd", "icd"]
ASKED = ["Is there a cup?", "How many forks are there in the image?", "Describe.", "What color is the cup?"]


@pytest.fixture(scope="module")
def double(folder):
    """In float64 rounding neither hides a difference nor makes one."""
    return va.load(str(folder), dtype=torch.float64)


def asked_both_ways(vlm, method, decoding):
    """Answers to questions about two images: each from its beginning, and with system and image prefilled once."""
    images = [render(from_objects(objects)) for objects in (["cup", "fork"], ["dog"])]
    samples = [Sample((images[n == 1],), text, str(n)) for n, text in enumerate(ASKED)]
    how = GenerationPlan.of(vlm, method, decoding, 6)
    assert answer.can_reuse(how)
    return [answer.answer_batch(how, [sample], False)[0] for sample in samples], answer.answer_batch(how, samples, True)


@pytest.mark.parametrize("method", SHARING)
@pytest.mark.parametrize("decoding", ["greedy", "beam:num_beams=3", "nucleus"])
def test_a_reused_prefix_changes_nothing(double, method, decoding):
    for alone, shared in zip(*asked_both_ways(double, method, decoding), strict=True):
        assert (shared.tokens, shared.prompt, shared.effects) == (alone.tokens, alone.prompt, alone.effects)
        assert shared.yes_no == pytest.approx(alone.yes_no, abs=1e-6)


@pytest.mark.parametrize("method", ["vista", "memvr", "imccd", "attanchor", "clva:rows=all"])
def test_methods_that_touch_the_prefix_read_every_prompt_whole(tiny, method):
    assert not answer.can_reuse(GenerationPlan.of(tiny, method, None, 4))


@pytest.mark.parametrize("method", ["clva", "vcd", "attanchor", "vista", "imccd", "clva:rows=all"])
def test_the_vision_tower_sees_each_image_once(tiny, method):
    """In a batch, and once more where a method changes it; whether the prefix is shared or not."""
    seen = []
    hook = tiny.model.model.vision_tower.register_forward_hook(lambda module, arguments, out: seen.append(len(out[0])))
    images = [render(from_objects(objects)) for objects in (["cup", "fork"], ["dog"])]
    samples = [Sample((images[n % 2],), text, str(n)) for n, text in enumerate(ASKED)]
    how = GenerationPlan.of(tiny, method, "greedy", 3)
    alone = [answer.answer_batch(how, [sample], False)[0] for sample in samples]
    seen.clear()
    together = answer.answer_batch(how, samples, answer.can_reuse(how))
    hook.remove()
    assert seen == ([2, 2] if method == "vcd" else [2])
    assert [each.tokens for each in together] == [each.tokens for each in alone]


def test_another_thread_s_images_are_its_own(tiny):
    """Four images of another thread, while this one shares two among four questions."""
    pixels = torch.randn(4, 3, *[tiny.model.config.vision_config.image_size] * 2)
    tower = tiny.model.model.vision_tower
    with torch.no_grad(), images_once(tiny.model, (0, 0, 1, 1)), ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(torch.no_grad()(tower), pixels).result().last_hidden_state
        ours = tower(pixels).last_hidden_state
    assert torch.equal(theirs, tower(pixels).last_hidden_state)
    assert torch.equal(ours[0], ours[1]) and torch.equal(ours[2], ours[3]) and not torch.equal(ours[0], ours[2])


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
