"""What a RUN is made with: settings never mix, names are checked first, and what will be done is said."""

import json
import shutil

import pytest
from runs_of_scenes import QUESTIONS, SCENES, run

from vlm_anchors.apps.cli import main
from vlm_anchors.errors import AnchorsWarning, BadRun, BadSetting, CannotAct, UserError
from vlm_anchors.evaluation.benchmarks.protocols import protocol
from vlm_anchors.evaluation.reporting.tables import read_run, tables
from vlm_anchors.evaluation.runner import evaluate
from vlm_anchors.evaluation.runner.answerer import key_of_run, run_of
from vlm_anchors.evaluation.runner.bundled import bundled_data, export
from vlm_anchors.evaluation.runner.folder import RunFolder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return export(tmp_path_factory.mktemp("scenes"), images=SCENES)


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


def test_another_model_or_data_file_is_refused(tiny, scenes, tmp_path):
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
def test_names_are_checked_before_anything_is_drawn(tiny_folder, tmp_path, no_drawing, capsys, asked, sentence):
    model = ["--model", str(tiny_folder)] if asked[0] == "eval" else []
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


def test_eval_takes_a_longest_answer(tiny_folder, tmp_path, capsys):
    asked = ["eval", "pope", "--model", str(tiny_folder), "--limit", "1", "--method", "none", "--protocol", "clva"]
    assert main([*asked, "--max-new-tokens", "2", "--out", str(tmp_path / "run")]) == 0
    assert read_run(tmp_path / "run").info["max_new_tokens"] == 2
