"""ViCrop against its equations: maps from full attention matrices of plain passes, the window found with plain loops."""

import copy

import pytest
import torch
from PIL import Image
from test_ask_families import TEMPLATE
from test_families import model_of
from test_family_table import PROCESSORS, noise

import vlm_anchors as va
from vlm_anchors.analysis.figures import figures_of
from vlm_anchors.analysis.study import study
from vlm_anchors.errors import BadParameter, CannotAct
from vlm_anchors.generation.generate import read_sample
from vlm_anchors.inputs.prompt_builder import prepare
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.vicrop import RATIOS, ViCrop, best_window
from vlm_anchors.scenes.draw import render
from vlm_anchors.scenes.scene import sample as scenes_of

QUESTIONS = ("Is there a fork?", "How many dogs are there in the picture?", "What is on the left?")


def window(relative, image, size):
    """The equations' window, with loops and lists."""
    rows, columns, (width, height) = len(relative), len(relative[0]), image
    found = []
    for ratio in RATIOS:
        wide = min(int(size * ratio / (width / columns)), columns)
        high = min(int(size * ratio / (height / rows)), rows)
        if wide == columns and high == rows:
            continue
        sums = {
            (x, y): sum(relative[y + j][x + i] for i in range(wide) for j in range(high))
            for x in range(columns - wide + 1)
            for y in range(rows - high + 1)
        }
        x, y = max(sums, key=sums.get)
        around = [sums[at] for at in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)) if at in sums]
        found.append(((sums[x, y] - sum(around) / len(around)) / (wide * high), ratio, x, y, wide, high))
    if not found:
        return 0, 0, width, height
    best = max(one[0] for one in found)
    _, ratio, x, y, wide, high = next(one for one in found if one[0] == best)
    half = size * ratio // 2
    middle = []
    for at, count, pixels, patches in ((x, wide, width, columns), (y, high, height, rows)):
        point = int((at + count / 2) * pixels / patches)
        middle.append(min(max(point, half), pixels - half))
    return (
        int(max(0, middle[0] - half)), int(max(0, middle[1] - half)),
        int(min(width, middle[0] + half)), int(min(height, middle[1] + half)),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("shape", "image", "size"), [((24, 24), (1000, 700), 336), ((9, 14), (400, 260), 100), ((8, 8), (128, 128), 40)]
)
def test_the_window_equals_the_literal_one(seed, shape, image, size):
    relative = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) ** 3
    assert best_window(relative, image, size) == window(relative.double().tolist(), image, size)


def test_an_image_smaller_than_the_window_is_its_own_crop():
    assert best_window(torch.rand(4, 4), (128, 96), 336) == (0, 0, 128, 96)


@pytest.fixture(scope="module")
def vlm():
    return va.load("scenes", device="cpu")


@pytest.fixture(scope="module")
def samples(vlm):
    images = [render(scene) for scene in scenes_of(3)]
    return [read_sample(image, question) for image, question in zip(images, QUESTIONS, strict=True)]


def literal_map(model, inputs, layer):
    """Attention of the last row to each patch, mean over heads, from the model's own matrices."""
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions[layer - 1][0]
    image = inputs["input_ids"][0] == model.config.image_token_id
    looks = weights[:, -1].mean(0)[image]
    side = round(len(looks) ** 0.5)
    return looks.view(side, side)


def test_boxes_equal_the_literal_ones_and_those_of_each_sample_alone(vlm, samples):
    method, layer = ViCrop(size=40, layer=5), 5
    together = method.boxes(vlm, samples)
    assert [method.boxes(vlm, [sample])[0] for sample in samples] == together
    eager = copy.deepcopy(vlm.model)
    eager.set_attn_implementation("eager")
    for sample, box in zip(samples, together, strict=True):
        own, usual = (
            literal_map(eager, prepare(vlm, [read_sample(sample.images[0], text)]).tensors, layer)
            for text in (sample.question, method.general)
        )
        assert window((own / usual).double().tolist(), sample.images[0].size, 40) == box
        assert box[2] - box[0] < sample.images[0].size[0]
    assert len(set(together)) > 1


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers' own processors
@pytest.mark.parametrize("name", ViCrop.families)
def test_real_processors_of_every_family(name):
    """Images of several shapes: each sample's map has its own grid, and a batch gives what each sample gives alone."""
    make, image = PROCESSORS[name]
    processor = make()
    processor.chat_template = TEMPLATE.replace("IMAGE", image)
    model = model_of(name)
    vlm, method = va.load((model, processor)), ViCrop(size=10, layer=3, general="w50 w51", region="whole")
    pairs = [(noise(60, 30), "w40 w41 w42"), (noise(40, 40), "w43 w44"), (noise(30, 50), "w45 w46 w47")]
    single = [va.ask(vlm, *pair, method=method, max_new_tokens=3) for pair in pairs]
    batched = list(va.ask_many(vlm, pairs, method=method, max_new_tokens=3, batch_size=3))
    assert [answer.effects for answer in single] == [answer.effects for answer in batched]
    assert [answer.tokens for answer in single] == [answer.tokens for answer in batched]
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    for (picture, question), answer in zip(pairs, single, strict=True):
        maps = []
        for text in (question, method.general):
            inputs = prepare(vlm, [read_sample(picture, text)]).tensors
            with torch.no_grad():
                weights = eager(**inputs, output_attentions=True).attentions[2][0]
            looks = weights[:, -1].mean(0)[inputs["input_ids"][0] == model.config.image_token_id]
            grid = inputs.get("image_grid_thw")
            rows = round(len(looks) ** 0.5) if grid is None else int(grid[0, 1]) // 2
            maps.append(looks.view(rows, -1))
        wanted = window((maps[0] / maps[1]).double().tolist(), picture.size, 10)
        assert answer.effects["vicrop"]["crop"] == list(wanted)


def test_other_families_are_refused():
    make, image = PROCESSORS["internvl"]
    processor = make()
    processor.chat_template = TEMPLATE.replace("IMAGE", image)
    with pytest.raises(CannotAct, match="vicrop lays attention over the image as one grid of patches, .* InternVL"):
        va.ask(va.load((model_of("internvl"), processor)), noise(40, 20), "w40", method="vicrop", max_new_tokens=2)


def test_an_answer_is_to_the_image_the_crop_and_the_question(vlm, samples):
    method, sample = ViCrop(size=40), samples[0]
    answer = va.ask(vlm, sample.images[0], sample.question, method=method, max_new_tokens=6)
    box = answer.effects["vicrop"]["crop"]
    assert answer.effects["vicrop"]["images_added"] == 1 and tuple(box) == method.boxes(vlm, [sample])[0]
    plain = va.ask(vlm, [sample.images[0], sample.images[0].crop(box)], sample.question, max_new_tokens=6)
    assert answer.tokens == plain.tokens
    many = list(va.ask_many(vlm, [(one.images[0], one.question) for one in samples], method=method, max_new_tokens=6))
    assert many[0].tokens == answer.tokens and many[0].effects["vicrop"] == answer.effects["vicrop"]


def test_off_is_plain_and_several_images_are_left_alone(vlm, samples):
    sample = samples[0]
    plain = va.ask(vlm, sample.images[0], sample.question, max_new_tokens=4)
    off = va.ask(vlm, sample.images[0], sample.question, method=ViCrop().disabled(), max_new_tokens=4)
    assert off.tokens == plain.tokens and off.effects["vicrop"] == {"images_added": 0}
    two = [sample.images[0], samples[1].images[0]]
    left = va.ask(vlm, two, sample.question, method="vicrop:size=40", max_new_tokens=4)
    assert left.tokens == va.ask(vlm, two, sample.question, max_new_tokens=4).tokens
    assert left.effects["vicrop"] == {"images_added": 0}


def test_it_composes_with_a_method_inside_the_model(vlm, samples):
    sample = samples[0]
    both = va.ask(vlm, sample.images[0], sample.question, method="vicrop:size=40+clva", max_new_tokens=4)
    assert both.effects["vicrop"]["images_added"] == 1 and both.effects["clva"]["rows_edited"] > 0
    with pytest.raises(CannotAct, match="cannot run together"):
        va.ask(vlm, sample.images[0], sample.question, method="vicrop+attanchor")


def test_look_draws_the_crop(vlm, samples):
    seen = study(vlm, samples[0].images[0], samples[0].question, ["none", "vicrop:size=40"], max_new_tokens=2)
    assert [drawn.name for drawn in figures_of(seen) if drawn.name.startswith("crop-")] == ["crop-vicrop-size=40"]


def test_a_wide_image_is_mapped_to_the_part_that_the_processor_keeps(vlm):
    class Processor:
        do_center_crop = True

    class Cropping:
        processor = type("P", (), {"image_processor": Processor()})()

    wide = Image.new("RGB", (300, 100))
    assert ViCrop()._region(Cropping(), wide) == (100, 0, 200, 100)
    assert ViCrop(region="whole")._region(Cropping(), wide) == (0, 0, 300, 100)


def test_a_model_alone_cannot_be_given_a_crop(vlm, samples):
    with pytest.raises(CannotAct, match="vicrop needs the images themselves, .* Use ask, ask_many or eval"):
        attach(vlm, "vicrop")
    inputs = prepare(vlm, samples).tensors
    with pytest.raises(CannotAct, match="pass samples= to prepare"):
        ViCrop().prepare(vlm, inputs)
    anchored = ViCrop(size=40).prepare(vlm, inputs, samples=samples)
    assert len(anchored["pixel_values"]) == 6 and [one["vicrop"]["images_added"] for one in anchored.effects] == [1] * 3


@pytest.mark.parametrize("parameters", [{"crop": 1}, {"layer": 0}, {"size": 0}, {"general": " "}, {"region": "all"}])
def test_wrong_parameters_are_refused(parameters):
    with pytest.raises(BadParameter):
        ViCrop(**parameters)
