"""The scripts that make results/: presets by one rule, a silent method gets no row, the control of equal yes-ratio."""

import json
from pathlib import Path

import pytest

import vlm_anchors as va
from vlm_anchors.evaluation.reporting import tables as report
from vlm_anchors.methods import METHODS
from vlm_anchors.models.load import BUNDLED_FOLDER
from vlm_anchors.specs import choose


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend("runs")


def record(number, method, answer, margin, **more):
    return {
        "id": str(number),
        "image": f"{number // 2}.png",
        "question": "Is there a cup in the image?",
        "group": "scenes/random",
        "truth": {"label": "yes" if number % 2 else "no"},
        "answer": answer,
        "method": method,
        "decoding": "greedy",
        "seed": None,
        "yes_no": [12 + margin, 12.0],
        "effects": {method: {"rows_edited": 3, "anchors": {"positive": [1]}}},
        **more,
    }


def write(folder, records):
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"benchmark": "pope", "model": "scenes", "protocol": "deco"}))
    (folder / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return folder


@pytest.fixture
def run(tmp_path):
    """Eight questions: plain says yes to three, CLVA to five; the third method leaves every logit where it was."""
    margins = [2.0, 1.0, 0.5, -0.2, -0.4, -0.7, -1.5, -3.0]
    plain = [record(i, "none", "Yes" if margin > 0 else "No", margin) for i, margin in enumerate(margins)]
    clva = [record(i, "clva", "Yes" if m > -0.5 else "No", m + 0.5) for i, m in enumerate(margins)]
    silent = [{**one, "method": "memvr", "yes_no": [one["yes_no"][0] + 1e-4, 12.0]} for one in plain]
    return write(tmp_path / "run", plain + clva + silent)


def test_presets_follow_the_rule():
    from scenes_methods import baselines

    by = {benchmark: baselines(benchmark) for benchmark in ("pope", "chair", "mme")}
    assert set(by["pope"]) == set(METHODS.names()) - {"none", "clva"}
    assert by["chair"]["imccd"] == ("imccd:rate=0.3333333333333333,gate=scores,window=last", "official-code")
    assert baselines("chair", "nucleus")["imccd"][0] == "imccd:rate=0.3333333333333333,gate=scores"
    assert by["chair"]["vista"] == ("vista:lam=0.17,pca=true", "official-code")  # the task's own
    assert by["pope"]["pai"] == ("pai:boost_prompt=false", "official-code")  # for any task
    assert by["mme"]["vcd"] == ("vcd", "ours")  # none is known
    for spec, _ in (preset for presets in by.values() for preset in presets.values()):
        assert "layers=" not in spec, "layers are scaled by the method"


@pytest.mark.skipif(not (BUNDLED_FOLDER / "config.json").exists(), reason="the bundled model is not made yet")
@pytest.mark.parametrize("benchmark", ["pope", "chair", "mme"])
def test_every_preset_attaches_to_the_bundled_model(benchmark):
    from scenes_methods import baselines

    vlm = va.load("scenes")
    for spec, _ in baselines(benchmark).values():
        (method,), _ = choose(spec)
        if not method.reads_samples:  # what changes the questions is not attached
            with va.attach(vlm, method):
                pass


def test_a_method_that_moves_no_answer_gets_no_row(run, tmp_path, monkeypatch, capsys):
    import scenes_report

    monkeypatch.setattr(scenes_report, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    scenes_report.main("made", str(run))
    summary = json.loads((tmp_path / "results" / "made.json").read_text())
    assert [row["method"] for row in summary["tables"][0]["rows"]] == ["none", "clva"]
    assert summary["silent"] == [["memvr", "greedy"]]
    assert "memvr (greedy) moved no answer" in capsys.readouterr().err
    clva, memvr = summary["effects"]
    assert (clva["moved"], clva["changed"], clva["effects"]) == (1, 0.25, {"rows_edited": 3})
    assert (memvr["moved"], memvr["changed"]) == (0, 0)


@pytest.mark.parametrize(
    ("logits", "gap"), [([12.0, 11.0], 0), ([12.5, 11.0], 0.5), ([None, 11.0], float("inf")), (None, 0)]
)
def test_logits_left_out_are_far_from_any_other(logits, gap):
    """A method may cut a word: its logit is then null."""
    from scenes_report import apart

    here, there = ({"yes_no": values} if logits else {} for values in (logits, [12.0, 11.0]))
    assert apart(here, there) == gap
    assert apart(here, here) == 0


def test_the_logit_shift_says_yes_as_often_as_clva(run, tmp_path):
    import logit_shift

    logit_shift.main(run, tmp_path / "shift")
    shifted = report.read_run(tmp_path / "shift").records
    assert [one["answer"] for one in shifted] == ["Yes"] * 5 + ["No"] * 3
    assert {one["method"] for one in shifted} == {"logit-shift"}
    assert shifted[0]["effects"]["logit-shift"]["shift"] == pytest.approx(0.55)
    rows = report.tables([run, tmp_path / "shift"], draws=20)[0].rows
    assert [row.method for row in rows] == ["none", "clva", "memvr", "logit-shift"]


@pytest.mark.parametrize(("yes", "shift"), [(0, -2.0), (1, -0.5), (2, 1.0)])
def test_a_shift_lies_between_two_margins(yes, shift):
    from logit_shift import shift_for

    assert shift_for([1.5, -0.5], yes) == pytest.approx(shift)


def test_a_shift_is_refused_where_answers_do_not_follow_from_logits(tmp_path):
    import logit_shift

    odd = write(tmp_path / "odd", [record(0, "none", "No", 2.0), record(0, "clva", "Yes", 2.0)])
    with pytest.raises(SystemExit, match="0 was answered 'No' at a margin of 2"):
        logit_shift.main(odd, tmp_path / "shift")


def test_a_sweep_takes_the_rows_that_move_its_dial_alone():
    pytest.importorskip("matplotlib")
    import clva_sweep

    specs = ["none", "clva", "clva:alpha=20", "clva:beta=0", "clva:alpha=2", "clva:alpha=-14,beta=-0.9"]
    rows = [{"method": spec, "cells": {"f1": place}} for place, spec in enumerate(specs)]
    assert clva_sweep.points(rows, "alpha", "f1") == [(2, 4), (14, 1), (20, 2)]
    assert clva_sweep.points(rows, "beta", "f1") == [(0, 3), (0.9, 1)]


def test_results_name_no_folder_of_one_machine(tmp_path, monkeypatch):
    from scenes_report import from_here

    assert from_here("runs/out/scenes/data/pope") == "runs/out/scenes/data/pope"
    monkeypatch.setenv("RUN", str(tmp_path))
    assert from_here(str(tmp_path / "scenes" / "data" / "pope")) == "runs/out/scenes/data/pope"
    for file in (Path(__file__).parent.parent / "results").glob("scenes_*.json"):
        for run in json.loads(file.read_text("utf-8")).get("runs", ()):
            assert str(run.get("data", "")).startswith("runs/out/"), file.name
