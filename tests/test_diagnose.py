"""`vlm-anchors diagnose`: verdicts follow from numbers either way, boxes are where scenes say, bad input is a sentence."""

import json
import random

import pytest
import torch
from PIL import Image

from vlm_anchors import scenes
from vlm_anchors.analysis import premises, samples, verdicts
from vlm_anchors.analysis.measures import middle_layer
from vlm_anchors.analysis.premises import Observed
from vlm_anchors.scenes.draw import objects_in, render, save

DEPTH = 12


def observed(fade=1.0, turn=0.0, first=0.05, empty=False, anchors=3, on_asked=0.5, negative=0.2):
    """Two questions on a made-up model: its last third looks `fade` times as much, and turns to the negative map."""
    seen = Observed(DEPTH, 4)
    for _ in range(2):
        deep = {layer: layer > 8 for layer in range(1, DEPTH + 1)}
        plain = {"system": 0.1, "words": 0.4, "first": first, "counting": 0.8}
        image_mass = {layer: 0.5 * (fade if deep[layer] else 1) for layer in deep}
        seen.shares.append([{"layer": layer, "visual": visual, **plain} for layer, visual in image_mass.items()])
        seen.drift.append(
            [{"layer": layer, "to_negative": turn if deep[layer] else 0.0, "to_positive": 0.1} for layer in deep]
        )
        seen.entropy.append(
            [{"layer": layer, "heads": "sensitive", "entropy": 1.0, "entropy_normalised": 3.0} for layer in deep]
        )
        seen.no_sensitive.append(dict.fromkeys(seen.candidates, empty))
        seen.no_insensitive.append(False)
        seen.positive.append(dict.fromkeys(seen.candidates, anchors))
        seen.negative.append(3)
        seen.on_asked.append(
            [{"layer": layer, "on_asked": on_asked + 0.01 * (layer == 6), "chance": 0.1} for layer in deep]
        )
        seen.negative_on_objects.append((negative, 0.3))
        seen.word_on_asked.append((1.0, 0.1))
        seen.cosines.append((0.6, 0.05))
    return seen


def holds(seen, tau=0.2, concern=""):
    return {one.premise.split(" (")[0]: one.holds for one in verdicts.verdicts(seen, tau, concern)}


def test_a_model_that_meets_every_premise():
    seen = observed(fade=0.5, turn=0.6, first=0.4)
    assert all(holds(seen).values())
    assert verdicts.has_drift(seen)
    assert "but attention on the image fades" in verdicts.suggestion(observed(fade=0.5), 0.2)["clva_why"]
    summary = verdicts.suggestion(seen, 0.2)
    assert summary["clva"] == "clva:positive_layer=6,layers=9-12"
    assert "absent" not in summary["clva_why"]
    assert summary["attanchor"] == "attanchor:tau=0.2"


@pytest.mark.parametrize(
    ("change", "premise"),
    [
        ({"fade": 1.0}, "deep layers look away from the image"),
        ({"first": 0.01}, "the first token is a sink"),
        ({"empty": True}, "heads stand out"),
        ({"anchors": 0}, "anchors are found"),
        ({"on_asked": 0.05}, "positive anchors lie on the asked object"),
        ({"negative": 0.9}, "negative anchors lie off the objects"),
    ],
)
def test_each_premise_can_fail(change, premise):
    summary = holds(observed(**{"fade": 0.5, "turn": 0.6, "first": 0.4, **change}))
    assert [name for name, held in summary.items() if not held] == [premise]


def curve(*values):
    """A curve over depth, straight between values given at equal distances from the first layer to the last."""

    def at(layer, depth):
        place = (layer - 1) / (depth - 1) * (len(values) - 1)
        left = min(int(place), len(values) - 2)
        return values[left] + (place - left) * (values[left + 1] - values[left])

    return at


PAPER, LEAVES = curve(0.9, 0.4, 0.1, 0.4, 0.6), curve(0.2, 0.8, 0.7, 0.3, 0.2)
"""Fig. 2b: to the negative anchor down and up again, to the positive up and down again."""
CURVES = {
    "as in the paper": (PAPER, LEAVES, True, True),
    "back from a low after the middle layer": (curve(0.9, 0.8, 0.6, 0.1, 0.6, 0.7), curve(0.2, 0.7, 0.8, 0.6, 0.2), True, True),
    "away from both": (curve(0.9, 0.3, 0.1, 0.1, 0.1), curve(0.2, 0.8, 0.6, -0.1, -0.1), True, False),
    "still nearer to the middle": (curve(0.9, 0.3, 0.1, 0.3, 0.4), curve(0.2, 0.8, 0.9, 0.8, 0.8), False, True),
    "never away from the first": (curve(0.9, 0.8, 0.7, 0.8, 0.9), curve(0.1, 0.3, 0.3, 0.2, 0.1), False, True),
    "holding": (curve(0.9, 0.3, 0.1, 0.0, 0.0), curve(0.2, 0.8, 0.9, 0.9, 0.8), False, False),
    "flat": (curve(0.3, 0.3), curve(0.3, 0.3), False, False),
    "flat, one above": (curve(0.9, 0.9), curve(0.8, 0.8), False, False),
    "sure but tiny": (curve(0.9, 0.3, 0.30, 0.34, 0.34), curve(0.2, 0.8, 0.31, 0.31, 0.31), False, False),
}  # fmt: skip


def drawn(negative, positive, depth, questions=40, noise=0.0, seed=0):
    """A model with these drift curves, and noise of that deviation in each question and layer."""
    draw, seen = random.Random(seed), Observed(depth, middle_layer(depth))
    for _ in range(questions):
        seen.shares.append([{"layer": layer, "visual": 0.5, "counting": 0.8} for layer in range(1, depth + 1)])
        seen.drift.append(
            [
                {
                    "layer": layer,
                    "to_negative": draw.gauss(negative(layer, depth), noise),
                    "to_positive": draw.gauss(positive(layer, depth), noise),
                }
                for layer in range(1, depth + 1)
            ]
        )
    return seen


@pytest.mark.parametrize("depth", [12, 32])
@pytest.mark.parametrize("name", CURVES)
def test_drift_is_what_the_paper_draws_and_nothing_else(name, depth):
    """Curves that cross and turn; each of the two can be there without the other."""
    negative, positive, crosses, turns = CURVES[name]
    for noise in (0.0, 0.1):
        seen = drawn(negative, positive, depth, noise=noise)
        assert (verdicts._crosses(seen).holds, verdicts._turns(seen).holds) == (crosses, turns)
        assert verdicts.has_drift(seen) == (crosses and turns)


@pytest.mark.grid
@pytest.mark.parametrize("questions", [2, 5, 40])
@pytest.mark.parametrize("name", ["flat", "flat, one above"])
def test_noise_is_seldom_called_drift(name, questions):
    negative, positive, *_ = CURVES[name]
    called = [verdicts.has_drift(drawn(negative, positive, 12, questions, 0.3, seed)) for seed in range(200)]
    assert sum(called) <= 10, "at most one in twenty"


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_drift_is_found_in_noise(noise):
    assert all(verdicts.has_drift(drawn(PAPER, LEAVES, 12, 40, noise, seed)) for seed in range(50))


@pytest.mark.parametrize(
    ("values", "fades"),
    [
        ((0.6, 0.6, 0.6, 0.3, 0.2), True),
        ((0.9, 0.5, 0.5, 0.5, 0.5), False),
        ((0.5, 0.5), False),
        ((0.2, 0.4, 0.6), False),
    ],
)
def test_fading_is_told_against_the_intermediate_layers(values, fades):
    """Attention that is high in the first layer alone, as it is where all tokens are alike, does not fade with depth."""
    seen = drawn(*CURVES["holding"][:2], 12)
    for table in seen.shares:
        for row in table:
            row["visual"] = curve(*values)(row["layer"], 12)
    assert verdicts._fades(seen).holds == fades
    assert not verdicts.has_drift(seen), "fading is no drift"


def test_words_that_do_not_find_their_patches():
    seen = observed()
    seen.word_on_asked = [(0.0, 0.1), (0.0, 0.1)]
    assert holds(seen)["words resemble their patches"] is False
    seen.word_on_asked = [(0.0, 0.1), (1.0, 0.1)]
    assert holds(seen)["words resemble their patches"] is None, "two questions that disagree"


def test_a_tau_that_cannot_be_relied_on_is_not_suggested():
    """The asked words find their patches, yet a template's word anchors before them."""
    found = holds(observed(), concern="The cosine separates nothing.")
    assert found["words resemble their patches"] and found["a tau can be chosen by a tenth of the words"] is False
    summary = verdicts.suggestion(observed(), 0.965, "The cosine separates nothing.")
    assert (summary["attanchor"], summary["attanchor_why"]) == (None, "The cosine separates nothing.")


def test_a_difference_that_is_none_is_called_undecided():
    seen = observed()
    for table, sign in zip(seen.on_asked, (1, -1), strict=True):
        for row in table:
            row["on_asked"] = 0.1 + 0.05 * sign
    seen.negative_on_objects = [(0.2, 0.3), (0.4, 0.3)]
    found = holds(seen)
    assert found["positive anchors lie on the asked object"] is None
    assert found["negative anchors lie off the objects"] is None
    assert "beta" not in verdicts.suggestion(seen, None)["clva"]


def test_heads_and_anchors_are_those_of_the_chosen_layer():
    seen = observed()
    seen.positive_layer = 7
    for each in seen.positive:
        each[7] = 0
    for flags in seen.no_sensitive:
        flags[7] = True
    found = holds(seen)
    assert not found["anchors are found"] and not found["heads stand out"]


def test_a_layer_with_anchors_in_few_questions_is_not_chosen():
    seen = Observed(DEPTH, 4)
    for number in range(2 * premises.ENOUGH):
        rows = [{"layer": 5, "on_asked": 0.05, "chance": 0.1}]
        seen.on_asked.append([*rows, {"layer": 6, "on_asked": 1.0, "chance": 0.1}] if number < 4 else rows)
    premises._choose_positive_layer(seen, [{layer: [] for layer in seen.candidates}] * (2 * premises.ENOUGH))
    assert seen.positive_layer == 5, "layer 6 has anchors in an eighth of the questions, others in none"


def test_a_rise_from_below_zero_to_nothing_is_no_return():
    seen = drawn(curve(0.5, 0.0, -0.3, -0.1, 0.0), curve(0.2, 0.8, 0.9, 0.8, 0.6), 30)
    assert not verdicts._turns(seen).holds


def test_the_positive_layer_alone_is_no_comparison():
    """Chosen right before the deep layers, its own map would stand for all that comes before them."""
    seen = drawn(PAPER, LEAVES, 30)
    seen.positive_layer = 20
    assert verdicts._between(seen) == range(16, 21)


def test_separation_and_entropy_of_cosines_by_hand():
    seen = observed()
    assert verdicts.cosines(seen) is None
    seen.cosines, seen.word_entropy = [(0.6, 0.1), (0.2, 0.3)], [0.4, 0.8]
    told = verdicts.cosines(seen)
    assert told["separation"] == 0.75 and abs(told["entropy"] - 0.6) < 1e-9 and abs(told["spread"] - 0.2) < 1e-9
    assert "separation 0.75, entropy over patches 0.60" in verdicts._words(seen).number


def test_without_drift_it_says_so_and_beta_is_left_out():
    seen = observed(negative=0.9)
    summary = verdicts.as_dict(seen, None, "")
    assert summary["drift"] is False
    assert summary["suggestion"]["clva"] == "clva:positive_layer=6,layers=7-12,beta=0"
    assert "The drift it repairs is absent here" in summary["suggestion"]["clva_why"]
    json.dumps(summary)


def test_without_boxes_nothing_is_said_of_objects():
    seen = observed()
    seen.on_asked, seen.negative_on_objects, seen.word_on_asked, seen.cosines = [], [], [], []
    assert not any("object" in name for name in holds(seen))
    assert verdicts.suggestion(seen, None)["clva"].startswith("clva:positive_layer=2,")


def test_cells_on_a_box():
    """A box of 32 x 16 pixels in an image of 64, in patches of 16; and a tiny one, which has the patch it stands in."""
    on = samples.cells_on([(16, 32, 48, 48)], (64, 64), 4, 4)
    assert on.nonzero()[:, 0].tolist() == [9, 10]
    assert samples.cells_on([(60, 60, 63, 63)], (64, 64), 4, 4).nonzero()[:, 0].tolist() == [15]
    assert not samples.cells_on([], (64, 64), 4, 4).any()


def test_a_saved_scene_knows_what_is_where(tmp_path):
    scene = scenes.from_objects(["cup", "fork"])
    save(scene, tmp_path / "a.png")
    assert objects_in(tmp_path / "a.png") == [(thing.name, thing.box, thing.visibility) for thing in scene.objects]
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    assert objects_in(tmp_path / "b.png") is None
    cup, photo = samples.from_folder([tmp_path / "a.png", tmp_path / "b.png"])
    assert cup.asked in ("cup", "fork") and cup.question.startswith("Is there a ")
    assert len(cup.boxes()) == 1 and len(cup.boxes(every=True)) == 2
    assert photo.question == samples.DEFAULT_QUESTION and photo.asked == ""


def test_the_named_object_is_the_asked_one():
    scene = scenes.from_objects(["dog", "hot dog"])
    things = tuple((thing.name, thing.box, thing.visibility) for thing in scene.objects)
    (probe,) = samples.probes_of(render(scene), things, ["Where is the hot dog?"])
    assert probe.asked == "hot dog"
    (probe,) = samples.probes_of(render(scene), things, ["Where is the hotdog stand?"])
    assert probe.asked == ""


@pytest.fixture(scope="module")
def seen(tiny):
    return premises.observe(tiny, samples.from_scenes(3))


def test_observing_a_model(seen):
    assert seen.depth == 4
    assert len(seen.shares) == len(seen.drift) == len(seen.on_asked) == 3
    row = verdicts.layer_table(seen)[0]
    assert {"visual", "counting", "first", "to_negative", "entropy_normalised", "n"} <= set(row)
    assert 0.5 < row["counting"] < 1


def test_a_batch_is_measured_as_its_samples_alone(tiny):
    probes = samples.from_scenes(2, ["cup?", "Is there a very small dog in the image?"])
    together = premises.observe(tiny, probes)
    for at, probe in enumerate(probes):
        alone = premises.observe(tiny, [probe, probe])
        for name in ("visual", "counting", "first"):
            ours = torch.tensor([row[name] for row in together.shares[at]])
            assert torch.allclose(ours, torch.tensor([row[name] for row in alone.shares[0]]), atol=1e-5)


def test_a_broken_list_of_objects(tmp_path):
    from PIL import PngImagePlugin

    from vlm_anchors.errors import BadImage
    from vlm_anchors.scenes.draw import OBJECTS

    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(OBJECTS, "[[")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=chunks)
    with pytest.raises(BadImage, match=r"The list of objects in .*a.png is broken. Render the scene again"):
        samples.from_folder([tmp_path / "a.png"])


def test_a_model_too_shallow_is_refused(tmp_path_factory):
    from types import SimpleNamespace

    import tiny as built

    from vlm_anchors.errors import CannotAct

    vlm = SimpleNamespace(model=built.llava(layers=3), processor=SimpleNamespace(tokenizer=None), name="small")
    with pytest.raises(CannotAct, match="small has 3 decoder layers; diagnose reads decoders of 4 layers or more"):
        premises.observe(vlm, samples.from_scenes(2))


def test_every_second_question_chooses_the_positive_layer_and_the_others_judge_it():
    seen, drifts = Observed(DEPTH, 4), []
    for number in range(2 * premises.ENOUGH):
        best = 7 if number % 2 == 0 else 3  # those that judge would choose another layer
        seen.on_asked.append(
            [
                {"layer": layer, "on_asked": 0.9 if layer == best else 0.2, "chance": 0.1}
                for layer in range(1, DEPTH + 1)
            ]
        )
        drifts.append({layer: [{"layer": 1, "number": number, "from": layer}] for layer in seen.candidates})
    premises._choose_positive_layer(seen, drifts)
    assert (seen.positive_layer, seen.middle, seen.chosen_on) == (7, 4, premises.ENOUGH)
    assert len(seen.on_asked) == premises.ENOUGH
    assert [table[0]["number"] for table in seen.drift] == list(range(1, 2 * premises.ENOUGH, 2))
    assert {table[0]["from"] for table in seen.drift} == {7}


def test_few_questions_or_unknown_boxes_leave_the_papers_layer():
    for boxes, questions in ((premises.ENOUGH - 1, premises.ENOUGH - 1), (premises.ENOUGH, premises.ENOUGH + 1)):
        seen = Observed(DEPTH, 4)
        seen.on_asked = [[{"layer": 7, "on_asked": 1.0, "chance": 0.0}] for _ in range(boxes)]
        premises._choose_positive_layer(seen, [{} for _ in range(questions)])
        assert (seen.positive_layer, seen.chosen_on) == (4, 0)


def test_curves_that_cross_only_from_the_chosen_layer_are_a_drift():
    """The maps leave the first layer's only behind the paper's layer, 13, and come back."""
    seen = drawn(curve(0.9, 0.9, 0.9, 0.1, 0.6, 0.6), curve(0.1, 0.1, 0.1, 0.5, 0.2, 0.2), 30)
    assert not verdicts.has_drift(seen)
    seen.positive_layer = 17
    assert verdicts.has_drift(seen)
