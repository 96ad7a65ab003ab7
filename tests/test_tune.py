"""Tuning: halving and ties, the objective, resuming, and the honest verdict."""

import json
import random
import shutil
from dataclasses import replace

import pytest
from test_tune_settings import POPE, questions

import vlm_anchors as va
from vlm_anchors.apps.cli import main
from vlm_anchors.errors import BadData, BadImage, BadParameter, BadRun, BadSetting, CannotAct, UnknownName, UserError
from vlm_anchors.evaluation.benchmarks.mmhal import Mmhal
from vlm_anchors.evaluation.runner import bundled
from vlm_anchors.evaluation.runner.folder import RunFolder
from vlm_anchors.models.load import BUNDLED_FOLDER
from vlm_anchors.specs import choose, spec_of_all
from vlm_anchors.tuning import asking, paired, tune
from vlm_anchors.tuning.paired import Draws, Gain, Objective
from vlm_anchors.tuning.search import search
from vlm_anchors.tuning.space import SettingList, tunable

ACCURACY = Objective(POPE, POPE.metrics_of[1])


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch, request):
    """Enough to tell large differences from none."""
    if "statistics" not in request.node.name:
        monkeypatch.setattr(paired, "DRAWS", 200)


# Halving


class Oracle:
    """Answers by a known accuracy instead of a model; counts what it was asked."""

    def __init__(self, accuracy):
        self.accuracy, self.asked, self.records = accuracy, [], {}
        self.questions = {one.id: one for one in questions(200)}

    def __call__(self, asked, new, so_far):
        for setting in asked:
            spec = spec_of_all(setting)
            for key in new:
                self.asked.append((spec, key))
                draw = random.Random(f"{key}").random()
                right = draw < self.accuracy(spec)
                truth = self.questions[key].truth["label"]
                answer = truth if right else {"yes": "no", "no": "yes"}[truth]
                self.records[spec, key] = self.questions[key].record(answer, method=spec)
        return {spec_of_all(one): [self.records[spec_of_all(one), key] for key in so_far] for one in asked}


def halved(accuracy, specs, rounds=(24, 48, 96)):
    oracle = Oracle(accuracy)
    lists = [SettingList(tunable(spec[0]), tuple(choose(one)[0] for one in spec), len(spec), 0) for spec in specs]
    ids = [
        [f"{image}-{n}" for image in range(a, b) for n in range(2)] for a, b in zip((0, *rounds), rounds, strict=False)
    ]
    said = []
    plain, found = search(ACCURACY, lists, ids, oracle, 8, said.append)
    return oracle, plain, found, said


def test_settings_that_are_surely_worse_are_dropped_early_and_the_best_is_found():
    alphas = {"clva:alpha=1": 0.8, "clva:alpha=2": 0.9, "clva:alpha=3": 0.4, "clva:alpha=4": 0.85, "none": 0.8}
    oracle, plain, (clva,), said = halved(alphas.get, [[spec for spec in alphas if spec != "none"]])
    assert clva.best.spec == "clva:alpha=2" and clva.best.gain.value > 0
    dropped = {one.spec: one.dropped for one in clva.measured if one.dropped}
    assert "clva:alpha=3" in dropped and "after round 1, surely worse than plain" in dropped["clva:alpha=3"]
    assert sum(spec == "clva:alpha=3" for spec, _ in oracle.asked) == 48, "it answers the first round alone"
    assert sum(spec == "clva:alpha=2" for spec, _ in oracle.asked) == plain.questions == 192
    assert len(set(oracle.asked)) == len(oracle.asked), "no question is asked twice"
    assert said[0].startswith("round 1 of 3: 24 images, 4 settings;")


def test_methods_do_not_drop_each_other_s_settings():
    accuracy = {"none": 0.3, "clva:alpha=1": 0.95, "clva:alpha=2": 0.95, "vcd:alpha=1.5": 0.5, "vcd:alpha=2": 0.5}
    _, _, (_, vcd), _ = halved(accuracy.get, [["clva:alpha=1", "clva:alpha=2"], ["vcd:alpha=1.5", "vcd:alpha=2"]])
    assert not any(one.dropped for one in vcd.measured)


def test_ties_go_to_the_smaller_intervention():
    specs = ["clva:alpha=20", "clva:alpha=5", "clva:alpha=2,beta=0", "clva:alpha=5,beta=0"]
    _, _, (clva,), _ = halved(lambda spec: 0.7, [specs])
    assert clva.best.spec == "clva:alpha=2,beta=0" and not any(one.dropped for one in clva.measured)
    layers = ["clva:layers=2-8", "clva", "clva:layers=6-8"]
    assert halved(lambda spec: 0.7, [layers])[2][0].best.spec == "clva:layers=6-8"


def test_all_worse_than_plain_still_leaves_one():
    accuracy = {"none": 0.9, "clva:alpha=1": 0.3, "clva:alpha=2": 0.2}
    _, _, (clva,), _ = halved(accuracy.get, [["clva:alpha=1", "clva:alpha=2"]])
    assert clva.best.spec == "clva:alpha=1" and clva.best.gain.value < 0 and not clva.best.dropped


def test_lower_is_better_where_the_metric_says_so():
    from vlm_anchors.evaluation.statistics import Interval

    aim = Objective(POPE, next(m for m in va.list_benchmarks()[1].load().metrics_of if m.better == "lower"))
    gap = Gain(-0.1, Interval(-0.2, -0.05), 0.01)
    assert aim.is_better(gap) and not aim.is_worse(gap) and not ACCURACY.is_better(gap) and ACCURACY.is_worse(gap)


def test_numbers_are_those_of_the_statistics():
    from vlm_anchors.evaluation import statistics

    oracle = Oracle({"none": 0.6, "clva": 0.75}.get)
    ids = [f"{image}-{n}" for image in range(30) for n in range(2)]
    records = oracle([(), (va.CLVA(),)], ids, ids)
    here, there = Draws(ACCURACY, records["clva"]), Draws(ACCURACY, records["none"])
    whole = statistics.difference(POPE, [records["clva"]], [records["none"]], "accuracy")
    found = here.minus(there)
    assert (found.value, found.interval, found.p) == (whole.value, whole.interval, whole.p)
    assert here.interval() == statistics.intervals(POPE, [records["clva"]])["accuracy"]


# The objective


def test_an_objective_has_a_better_side():
    assert asking.metric_of(POPE, None).name == "f1"
    with pytest.raises(BadSetting, match="yes_ratio of pope has none. Choose one of: f1, accuracy"):
        asking.metric_of(POPE, "yes_ratio")
    with pytest.raises(UnknownName, match="Did you mean 'accuracy'"):
        asking.metric_of(POPE, "acuracy")


def test_a_benchmark_that_a_judge_scores_is_refused():
    with pytest.raises(BadSetting, match="mmhal cannot score answers on its own, so there is nothing to tune by"):
        asking.require_scores(Mmhal(), questions(2))


def test_an_objective_that_the_labels_leave_undefined_is_refused():
    f1, accuracy = POPE.metrics_of[:2]
    answered_no = [replace(one, truth={"label": "no"}) for one in questions(3)]
    words = (
        r"f1 is undefined on the 6 questions about the held-out .*'no' is right\. Choose .*\(accuracy, mean_accuracy\)"
    )
    with pytest.raises(BadSetting, match=words):
        asking.require_defined(POPE, f1, answered_no, "held-out")
    asking.require_defined(POPE, accuracy, answered_no, "held-out")
    asking.require_defined(POPE, f1, questions(3), "held-out")
    asking.require_defined(POPE, f1, [replace(one, truth={"label": "yes"}) for one in questions(3)], "held-out")
    asking.require_defined(Mmhal(), f1, [replace(one, truth={}) for one in questions(3)], "held-out")


# The seed


def test_a_seed_in_the_decoding_is_the_decodings():
    assert asking.seed_of("nucleus:top_p=0.9,seed=7", None) == asking.seed_of("nucleus:seed=7", 7) == 7
    assert asking.seed_of(va.Nucleus(seed=7), None) == 7 and asking.seed_of("nucleus:seed=0", None) == 0
    assert asking.seed_of("nucleus", 3) == asking.seed_of(None, 3) == asking.seed_of("greedy", 3) == 3
    for decoding in ("nucleus:seed=0", "nucleus:seed=7", va.Nucleus(seed=7)):
        with pytest.raises(BadParameter, match=r"names the seed \d, and --seed \(seed=\) is 3. Keep one"):
            asking.seed_of(decoding, 3)


# With a model


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return bundled.export(tmp_path_factory.mktemp("scenes"), ["pope"], images=6)


def tuned(vlm, scenes, out, methods="clva", **how):
    how = {"grid": {"alpha": [2.0, 5.0]}, "split": "adversarial", "protocol_name": "deco", **how}
    return va.tune(vlm, methods, "pope", out, data=scenes / "pope", images=scenes / "images", **how)


def lines(out):
    return {part: (out / part / "records.jsonl").read_bytes() for part in ("validation", "held-out")}


def test_a_search_writes_what_it_found_and_is_not_made_twice(tiny, scenes, tmp_path):
    out, said = tmp_path / "out", []
    found = tuned(tiny, scenes, out, ["clva", "vcd:step=300"], say=said.append)
    summary = json.loads((out / "tune.json").read_text("utf-8"))
    assert summary["winner"] == found.spec and summary["verdict"] == found.verdict
    assert summary["split"] == {part: {"images": 3, "questions": 18} for part in ("validation", "held_out")}
    assert {"versions", "commit", "device", "seed", "date"} <= set(summary)
    assert [len(one["settings"]) for one in summary["methods"]] == [2, 2]
    content = json.loads((out / "anchors.json").read_text("utf-8"))
    assert choose(content["method"])[0] == choose(found.spec)[0] and found.verdict in content["source"]
    assert (out / "tune.png").read_bytes()[:4] == b"\x89PNG"
    assert any("split by image" in words for words in said)
    text = found.text(100)
    assert f"winner: {found.spec}" in text and "held out" in text and "Holm" in text
    before = lines(out)
    assert tuned(tiny, scenes, out, ["clva", "vcd:step=300"]).as_dict() == summary
    assert lines(out) == before, "nothing is answered twice"


def test_a_search_that_was_killed_goes_on_where_it_was(tiny, scenes, tmp_path):
    class Killed(Exception):
        pass

    def kill(done, of):
        if done >= 20:
            raise Killed

    whole = tuned(tiny, scenes, tmp_path / "whole")
    with pytest.raises(Killed):
        tuned(tiny, scenes, tmp_path / "out", progress=kill)
    kept = (tmp_path / "out" / "validation" / "records.jsonl").read_bytes()
    assert kept
    again = tuned(tiny, scenes, tmp_path / "out")
    assert (tmp_path / "out" / "validation" / "records.jsonl").read_bytes().startswith(kept)
    timeless = [{key: value for key, value in one.as_dict().items() if key != "data"} for one in (whole, again)]
    assert timeless[0] == timeless[1]


def test_another_division_in_the_same_folder_is_refused(tiny, scenes, tmp_path):
    tuned(tiny, scenes, tmp_path)
    before = lines(tmp_path)
    for how in ({"seed": 1}, {"held_out": 0.34}, {"limit": 30}):
        with pytest.raises(BadRun, match="Its held-out images would be others"):
            tuned(tiny, scenes, tmp_path, **how)
    more = tuned(tiny, scenes, tmp_path, grid={"alpha": [0.0, 40.0]})
    assert more.seen_before in (0, 1) and lines(tmp_path)["validation"].startswith(before["validation"])


def test_settings_that_change_nothing_are_no_better(tiny, scenes, tmp_path):
    found = tuned(tiny, scenes, tmp_path, grid={"alpha": [0.0], "beta": [0.0]})
    gain = found.winner.held_out.gain
    assert gain.value == 0 and gain.interval.low == gain.interval.high == 0 and not found.better
    assert found.verdict.startswith("No setting is better than plain: none scores higher than plain even on")
    vague = replace(found.winner, held_out=replace(found.winner.held_out, score=None, gain=None))
    assert replace(found, winner=vague, methods=(vague,)).verdict == (
        f"Whether {found.spec} is better than plain cannot be said: on the held-out images f1 is undefined for {found.spec}."
    )
    (tmp_path / "tune.json").unlink()
    (tmp_path / "anchors.json").write_text("{")
    with pytest.raises(BadSetting, match="anchors.json is not valid JSON in line 1.*Remove it"):
        tune.write_files(tmp_path, found, print)
    assert json.loads((tmp_path / "tune.json").read_text("utf-8"))["winner"] == found.spec, "numbers are written first"


def test_an_objective_that_no_answer_defines_has_no_winner(tiny, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "require_defined", lambda *given: None)
    answered_no = tmp_path / "no.json"
    lines_of = [json.loads(line) for line in next((scenes / "pope").glob("*adv*")).read_text("utf-8").splitlines()]
    answered_no.write_text("\n".join(json.dumps({**line, "label": "no"}) for line in lines_of[::6]))
    how = {"data": answered_no, "images": scenes / "images", "grid": {"alpha": [2.0]}, "protocol_name": "deco"}
    with pytest.raises(BadSetting, match="f1 is undefined for every setting on the validation images.*are kept"):
        va.tune(tiny, "clva", "pope", tmp_path / "out", **how)
    assert (tmp_path / "out" / "validation" / "records.jsonl").read_bytes()
    assert va.tune(tiny, "clva", "pope", tmp_path / "out", objective="accuracy", **how).spec == "clva:alpha=2.0"


def test_an_image_that_cannot_be_read_is_named_before_anything_is_answered(tiny, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "bad")
    broken = sorted((tmp_path / "bad" / "images").iterdir())[2]
    broken.write_bytes(b"no image")
    with pytest.raises(BadImage, match=rf"of question '\S+' first: .*{broken.name}.*--skip-bad"):
        tuned(tiny, tmp_path / "bad", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_broken_files_of_an_earlier_search_are_named_before_anything_is_answered(tiny, scenes, tmp_path):
    (tmp_path / "anchors.json").write_text("{")
    with pytest.raises(BadSetting, match="anchors.json is not valid JSON in line 1.*Remove it"):
        tuned(tiny, scenes, tmp_path)
    (tmp_path / "anchors.json").unlink()
    (tmp_path / "plan.json").write_text("")
    with pytest.raises(
        BadRun, match="plan.json is not valid JSON.*Remove it and run the command that wrote it again; the answers"
    ):
        tuned(tiny, scenes, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(("change", "words"), [({}, "none"), ({"answer": None}, "None")])
def test_a_record_without_an_answer_is_named_with_its_line(tmp_path, change, words):
    whole = {**questions(1)[0].record("Yes"), "method": "none", "decoding": "greedy", "seed": None}
    less = {key: value for key, value in whole.items() if key != "answer"} | {"id": "other"} | change
    (tmp_path / "records.jsonl").write_text(f"{json.dumps(whole)}\n{json.dumps(less)}\n")
    with pytest.raises(
        BadData, match=f"records.jsonl, line 2: expected a text in the field 'answer'; found {words}. Remove"
    ):
        RunFolder(tmp_path).done()


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ({"grid": {"layers": [(2, 40)]}}, CannotAct, "layers 1 to 4"),
        ({"objective": "f2"}, UnknownName, "No|no metric"),
        ({"budget": 0}, BadSetting, "1 or more"),
        ({"held_out": 1.0}, BadSetting, "above 0 and below 1"),
        ({"limit": 6}, BadSetting, "4 or more images.*found 1. Raise --limit"),
        ({"start": "clva:layers=2-40"}, CannotAct, "layers 1 to 4"),
        ({"methods": []}, BadSetting, "one or more methods"),
        ({"methods": ["clva", "clva:alpha=3"]}, BadSetting, "tuned twice"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_answered(tiny, scenes, tmp_path, how, kind, words):
    methods = how.pop("methods", "clva")
    with pytest.raises(kind, match=words):
        tuned(tiny, scenes, tmp_path / "out", methods, **how)
    assert not (tmp_path / "out").exists(), "what is refused binds nobody"


def test_ranks_are_refused(tiny, scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="runs in one process; found several ranks"):
        tuned(tiny, scenes, tmp_path)


def test_misspelled_keywords_are_refused(tiny, scenes, tmp_path):
    with pytest.raises(TypeError, match="'bugdet'"):
        tuned(tiny, scenes, tmp_path, bugdet=3)


def test_wrong_words_on_the_command_line_end_with_2(capsys, tmp_path):
    wrong = [
        ["--method", "clav"],
        ["--method", "clva", "--grid", "alfa=2"],
        ["--method", "clva", "--objective", "f3"],
        ["--method", "clva", "--benchmark", "popes"],
        ["--method", "vcd", "--grid", "beta=7"],
        ["--method", "clva", "--grid", "alpha="],
        ["--method", "clva:alpha=2", "--start", "clva:alpha=3"],
        ["--method", "clva", "--decoding", "nucleus:seed=7", "--seed", "3"],
    ]
    for words in wrong:
        assert main(["tune", *words, "--out", str(tmp_path / "out")]) == 2, words
        assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not (BUNDLED_FOLDER / "config.json").exists(), reason="the bundled model is not made yet")
@pytest.mark.parametrize("more", [(), pytest.param(("--start", "diagnose"), marks=pytest.mark.slow)], ids=str)
def test_on_the_bundled_model_no_setting_is_better(more, tmp_path, capsys):
    """The bundled model looks at the image already: the command says so, and the gain lies within its interval."""
    how = ["--split", "adversarial", "--limit", "24", "--protocol", "deco", "--grid", "alpha=2", *more]
    assert main(["tune", "--method", "clva", *how, "--batch-size", "48", "--out", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    gain = summary["methods"][0]["held_out"]["gain"]
    assert gain["interval"]["low"] <= gain["value"] <= gain["interval"]["high"]
    assert gain["interval"]["low"] <= 0 <= gain["interval"]["high"]
    assert not summary["winner_is_better_than_plain"]
    assert "No setting is better than plain" in summary["verdict"]
    assert ("diagnose suggests clva:positive_layer=" in printed.err) == bool(more)
    assert tune.PLAN in {file.name for file in tmp_path.iterdir()}
