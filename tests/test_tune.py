"""Tuning: the settings that are tried, the split by image, halving and ties, resuming, and the honest verdict."""

import json
import random

import pytest

import vlm_anchors as va
from vlm_anchors.apps.cli import main
from vlm_anchors.errors import BadParameter, BadRun, BadSetting, CannotAct, UnknownName, UserError
from vlm_anchors.evaluation.benchmarks.mmhal import Mmhal
from vlm_anchors.evaluation.benchmarks.pope import Pope
from vlm_anchors.evaluation.runner import bundled
from vlm_anchors.models.load import BUNDLED_FOLDER
from vlm_anchors.specs import choose, spec_of_all
from vlm_anchors.tuning import asking, paired, space, split, tune
from vlm_anchors.tuning.paired import Draws, Gain, Objective
from vlm_anchors.tuning.search import search
from vlm_anchors.tuning.space import SettingList, chosen, distance_from_off, parse_grid, tunable

POPE = Pope()
ACCURACY = Objective(POPE, POPE.metrics_of[1])


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch, request):
    """Enough to tell large differences from none."""
    if "statistics" not in request.node.name:
        monkeypatch.setattr(paired, "DRAWS", 200)


def settings(specs, grid=None, budget=None, seed=0, depth=8, starts=(), fits=lambda setting: True):
    tunables = space.with_starts([tunable(spec) for spec in specs], starts)
    depths = [[depth] * len(one.base) for one in tunables]
    return chosen(tunables, grid or {}, budget, seed, depths, fits)


def specs_of(one):
    return [spec_of_all(setting) for setting in one.settings]


# Which settings are tried


def test_a_grid_holds_every_combination_and_nothing_else():
    (clva,) = settings(["clva:beta=0.5"], parse_grid(["alpha=2,5", "layers=13-24,none"]), depth=32)
    assert specs_of(clva) == [
        "clva:alpha=2,beta=0.5,layers=13-24",
        "clva:alpha=2,beta=0.5",
        "clva:alpha=5,beta=0.5,layers=13-24",
        "clva:alpha=5,beta=0.5",
    ]
    assert clva.words() == "clva:beta=0.5: 4 settings, 4 of the grid"


def test_each_method_gets_as_many_settings_as_the_largest_grid():
    clva, vcd = settings(["clva", "vcd"], parse_grid(["clva.alpha=2,5,14", "clva.lam=0,1", "vcd.alpha=0.5"]))
    assert len(clva.settings) == len(vcd.settings) == 6
    assert (clva.from_grid, vcd.from_grid, vcd.drawn) == (6, 1, 5)
    assert {part.alpha for (part,) in vcd.settings} == {0.5}, "what the grid names is drawn from the grid"


def test_a_budget_draws_from_declared_ranges_alone():
    (clva,) = settings(["clva"], budget=40, depth=8)
    assert len(set(clva.settings)) == len(clva.settings) == 40
    assert clva.settings[0] == (va.CLVA(),), "the method as it is comes first"
    drawn = [part for (part,) in clva.settings[1:]]
    assert all(0 <= part.alpha <= 50 and 0 <= part.beta <= 1 for part in drawn)
    assert {part.places for part in drawn} == {"found"} and {part.seed for part in drawn} == {0}
    ranges = [part.layers for part in drawn if part.layers is not None]
    assert ranges and all(1 <= first <= last <= 8 for first, last in ranges)
    assert specs_of(settings(["clva"], budget=40)[0]) == specs_of(clva), "the same seed draws the same settings"
    assert specs_of(settings(["clva"], budget=40, seed=1)[0]) != specs_of(clva)


def test_a_budget_smaller_than_the_grid_takes_a_part_of_it():
    (clva,) = settings(["clva"], {"alpha": [1, 2, 3, 4, 5, 6]}, budget=3)
    assert len(clva.settings) == 3 and {part.alpha for (part,) in clva.settings} <= {1, 2, 3, 4, 5, 6}


def test_draws_that_do_not_fit_are_drawn_again():
    (clva,) = settings(["clva"], budget=10, fits=lambda setting: setting[0].layers is None)
    assert len(clva.settings) == 10 and all(part.layers is None for (part,) in clva.settings)


def test_a_space_that_is_exhausted_says_how_many_there_are():
    (vicrop,) = settings(["vicrop"], {"crop": [True, False]}, budget=9)
    assert 2 <= len(vicrop.settings) <= 9


def test_what_a_spec_names_is_kept_and_a_preset_is_a_beginning():
    (clva,) = settings(["clva:alpha=3"], budget=8)
    assert {part.alpha for (part,) in clva.settings} == {3}
    (pai,) = settings(["pai:preset=llava-1.5-7b/any"], budget=8)
    assert len({part.alpha for (part,) in pai.settings}) > 1


def test_parts_of_a_composition_are_searched_together():
    (both,) = settings(["attanchor:tau=0.3+clva"], {"alpha": [2, 5]})
    assert specs_of(both) == ["attanchor:tau=0.3+clva:alpha=2", "attanchor:tau=0.3+clva:alpha=5"]


def test_start_values_are_tried_first_and_moved_layers_are_drawn_from_them():
    (clva,) = settings(["clva"], budget=12, starts=["clva:positive_layer=5,layers=6-8"])
    assert specs_of(clva)[:2] == ["clva", "clva:positive_layer=5,layers=6-8"]
    assert {part.positive_layer for (part,) in clva.settings} == {None, 5}


def test_a_method_of_another_package_is_searched_by_its_declared_range():
    from dataclasses import dataclass

    from vlm_anchors.interventions.method import Method
    from vlm_anchors.parameters import parameter

    @dataclass(frozen=True)
    class Nudge(Method):
        strength: float = parameter(0.5, 0, 2)
        seed: int = parameter(0, 0, 9, whole=True)

        def disabled(self):
            return Nudge(0.0)

    (nudge,) = settings([Nudge()], budget=5)
    assert len({part.strength for (part,) in nudge.settings}) == 5 and {part.seed for (part,) in nudge.settings} == {0}
    assert distance_from_off((Nudge(2.0),)) > distance_from_off((Nudge(0.25),)) > 0


@pytest.mark.parametrize(
    ("specs", "grid", "kind", "words"),
    [
        (["none"], {}, BadSetting, "the plain model, which has no parameters"),
        (["clva+beam"], {}, BadSetting, "beam is a decoding, which is not tuned"),
        (["clva"], {"alpa": [1]}, UnknownName, "Did you mean 'alpha'"),
        (["clva"], {"vcd.alpha": [1]}, UnknownName, "No method that is tuned has the parameter 'vcd.alpha'"),
        (["clva:alpha=5"], {"alpha": [1]}, BadSetting, "alpha is fixed by clva:alpha=5 and searched by the grid"),
        (["vcd"], {"beta": [0.1, 3]}, BadParameter, "VCD.beta must be a number from 0 to 1; found 3"),
        (["clva"], {"alpha": []}, BadSetting, "one or more values of alpha"),
        (["clva"], {"alpha": "2,5"}, BadSetting, "as a list"),
    ],
)
def test_what_cannot_be_searched_is_refused(specs, grid, kind, words):
    with pytest.raises(kind, match=words):
        settings(specs, grid)


@pytest.mark.parametrize("item", ["alpha", "alpha=", "=2", "alpha=2,,5", ""])
def test_a_grid_without_values_is_refused(item):
    with pytest.raises(BadParameter, match="Expected --grid NAME=VALUE"):
        parse_grid([item])


def test_a_grid_names_a_parameter_once():
    with pytest.raises(BadParameter, match="twice"):
        parse_grid(["alpha=1", "alpha=2"])
    assert parse_grid(['icd.text="a, b",c']) == {"icd.text": ["a, b", "c"]}


def test_start_values_belong_to_a_tuned_method():
    with pytest.raises(BadSetting, match="belong to no method that is tuned"):
        settings(["clva"], starts=["vcd"])
    with pytest.raises(BadSetting, match="alpha is fixed by"):
        settings(["clva:alpha=2"], starts=["clva:alpha=3"])


# The split by image


def questions(images, per_image=2):
    from vlm_anchors.evaluation.benchmarks.base import Question

    made = [(image, number) for image in range(images) for number in range(per_image)]
    return [Question(f"{i}-{n}", f"{i}.png", "?", "g", {"label": ("yes", "no")[n % 2]}) for i, n in made]


def files(folder, names, same=()):
    for name in names:
        (folder / name).write_bytes(b"one" if name in same else name.encode())
    return folder


def test_no_image_is_in_both_parts(tmp_path):
    asked = questions(40)
    files(tmp_path, {one.image for one in asked})
    parts = split.split_by_image(POPE, asked, tmp_path, 0.25, 0)
    assert (len(parts.validation), len(parts.held_out)) == (30, 10)
    images = [{key.split("-")[0] for image in part for key in image} for part in (parts.validation, parts.held_out)]
    assert not images[0] & images[1] and len(images[0] | images[1]) == 40
    assert parts == split.split_by_image(POPE, asked, tmp_path, 0.25, 0)
    assert parts != split.split_by_image(POPE, asked, tmp_path, 0.25, 1)
    assert "30 images (60 questions)" in parts.words() and "no image is in both" in parts.words()


def test_one_image_under_two_names_is_one(tmp_path):
    asked = questions(6)
    files(tmp_path, {one.image for one in asked}, same=("1.png", "4.png"))
    for seed in range(8):
        parts = split.split_by_image(POPE, asked, tmp_path, 0.5, seed)
        held = {key for image in parts.held_out for key in image}
        assert ("1-0" in held) == ("4-1" in held)


@pytest.mark.parametrize("images", [1, 3])
def test_too_few_images_are_refused(images, tmp_path):
    asked = questions(images)
    files(tmp_path, {one.image for one in asked})
    with pytest.raises(BadSetting, match=f"4 or more images.*found {images}"):
        split.split_by_image(POPE, asked, tmp_path, 0.5, 0)


def test_rounds_double():
    parts = split.ImageSplit(tuple((str(n),) for n in range(250)), ())
    assert parts.rounds == (31, 62, 125, 250)
    assert split.ImageSplit((("a",),) * 40, ()).rounds == (40,)


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


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ({"grid": {"layers": [(2, 40)]}}, CannotAct, "layers 1 to 4"),
        ({"objective": "f2"}, UnknownName, "No|no metric"),
        ({"budget": 0}, BadSetting, "1 or more"),
        ({"held_out": 1.0}, BadSetting, "above 0 and below 1"),
        ({"limit": 6}, BadSetting, "4 or more images"),
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
