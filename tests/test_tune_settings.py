"""Which settings a search tries: grids, budgets, declared ranges, start values; and how images are split."""

import pytest

import vlm_anchors as va
from vlm_anchors.errors import BadParameter, BadSetting, UnknownName
from vlm_anchors.evaluation.benchmarks.pope import Pope
from vlm_anchors.specs import spec_of_all
from vlm_anchors.tuning import space, split
from vlm_anchors.tuning.space import chosen, distance_from_off, parse_grid, tunable
from vlm_anchors.tuning.starts import start_for

POPE = Pope()


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
    assert specs_of(clva)[:2] == ["clva:positive_layer=5,layers=6-8", "clva"]
    assert {part.positive_layer for (part,) in clva.settings} == {None, 5}


def test_start_values_count_in_the_budget_before_a_grid_does():
    (clva,) = settings(["clva"], budget=1, starts=["clva:layers=3-5"])
    assert specs_of(clva) == ["clva:layers=3-5"]
    clva, vcd = settings(
        ["clva", "vcd"], {"clva.alpha": [3, 5, 7]}, budget=3, starts=["clva:layers=3-5", "clva:alpha=5"]
    )
    assert specs_of(clva)[:2] == ["clva:layers=3-5", "clva:alpha=5"] and specs_of(clva)[2] in (
        "clva:alpha=3",
        "clva:alpha=7",
    )
    assert len(vcd.settings) == 3 and clva.words() == "clva: 3 settings, 2 given and 1 of the grid"
    clva, vcd = settings(["clva", "vcd"], {"clva.alpha": [3, 5]}, starts=["clva:layers=3-5", "clva:alpha=5"])
    assert len(clva.settings) == len(vcd.settings) == 3, "a start that the grid holds counts once"
    with pytest.raises(BadSetting, match="clva has 2 start values and a budget of 1. Give a budget of 2 or more"):
        settings(["clva"], budget=1, starts=["clva:layers=3-5", "clva:alpha=5"])


def test_what_a_start_does_not_name_is_as_in_the_spec():
    (clva,) = settings(["clva:beta=0"], budget=3, starts=["clva:layers=3-5"])
    assert specs_of(clva)[0] == "clva:beta=0,layers=3-5" and {part.beta for (part,) in clva.settings} == {0}
    (clva,) = settings(["clva:beta=0"], budget=3, starts=["clva:layers=3-5,beta=0"])
    assert specs_of(clva)[0] == "clva:beta=0,layers=3-5"
    (pai,) = settings(["pai:alpha=0.3"], budget=2, starts=["pai:preset=llava-1.5-7b/any"])
    assert pai.settings[0][0].alpha == 0.3 and pai.settings[0][0].layers == va.PAI.preset("llava-1.5-7b/any").layers
    (pai,) = settings(["pai:preset=llava-1.5-7b/any"], budget=2, starts=["pai:alpha=0.3"])
    assert pai.settings[0][0].layers == va.PAI.preset("llava-1.5-7b/any").layers
    with pytest.raises(BadSetting, match="beam is a decoding"):
        settings(["clva"], budget=3, starts=["clva+beam"])


def test_suggestions_go_to_the_parts_of_a_composition_and_leave_what_its_spec_fixes():
    known = {"clva": "clva:positive_layer=3,layers=5-8,beta=0", "attanchor": "attanchor:tau=0.4"}
    start, kept = start_for(both := tunable("attanchor+clva:beta=0.5"), known)
    assert (start, kept) == ("attanchor:tau=0.4+clva:positive_layer=3,layers=5-8", ["beta"])
    (with_start,) = space.with_starts([both], [start])
    assert spec_of_all(with_start.starts[0]) == "attanchor:tau=0.4+clva:beta=0.5,positive_layer=3,layers=5-8"
    assert start_for(tunable("attanchor:tau=0.3"), known) == ("", ["tau"])
    assert start_for(tunable("vcd"), known) == ("", [])


def test_a_huge_budget_is_drawn_in_time_that_grows_with_the_settings_alone():
    (clva,) = settings(["clva"], budget=5000)
    assert len(set(clva.settings)) == 5000
    (clva,) = settings(["clva:beta=0,lam=1,layers=none"], {"alpha": [1, 2], "tau": [1, 2]}, budget=10**9)
    assert 4 <= len(clva.settings) < 10**6


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
    with pytest.raises(BadSetting, match=r"Raise --limit \(limit=\), which leaves 2 questions"):
        split.split_by_image(POPE, asked, tmp_path, 0.5, 0, limit=2)


def test_rounds_double():
    parts = split.ImageSplit(tuple((str(n),) for n in range(250)), ())
    assert parts.rounds == (31, 62, 125, 250)
    assert split.ImageSplit((("a",),) * 40, ()).rounds == (40,)
