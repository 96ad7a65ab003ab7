"""Scenes: the same from a seed, and drawn as they say."""

import hashlib
import itertools
import json

import numpy as np
import PIL
import pytest

from vlm_anchors.scenes import CATEGORIES, Scene, draw, from_objects, render, sample
from vlm_anchors.scenes.scene import POSITIONS, SIZE, SPLITS, numbers

PINNED_FIRST = [
    ("sports ball", (81, 3, 108, 30), None),
    ("chair", (47, 34, 72, 72), "green"),
    ("baseball bat", (10, 88, 51, 122), None),
    ("baseball bat", (72, 66, 109, 88), None),
    ("baseball glove", (53, 7, 79, 34), "black"),
    ("baseball glove", (14, 11, 47, 47), "black"),
    ("baseball glove", (9, 56, 37, 85), "black"),
    ("person", (61, 94, 83, 123), "pink"),
]
PINNED_SCENES = "1a88d9987f1e9518"
PINNED_LISTS = "29f89c6b86d60ba1"
PINNED_PIXELS = "10e90b2a7f1f833d"


@pytest.fixture(scope="module")
def scenes():
    return sample(150, seed=3, split="val")


def digest(scenes):
    return hashlib.sha256(json.dumps([scene.to_dict() for scene in scenes], sort_keys=True).encode()).hexdigest()[:16]


def test_objects_boxes_and_colours_are_the_same_on_every_machine(scenes):
    first = scenes[0]
    assert [(thing.name, thing.box, thing.colour) for thing in first.objects] == PINNED_FIRST
    assert digest(scenes) == PINNED_SCENES
    assert digest([from_objects(["cup", "fork", "cup"], seed=s) for s in range(5)]) == PINNED_LISTS


@pytest.mark.skipif(
    (PIL.__version__, np.__version__) != ("12.3.0", "2.4.6"), reason="pixels are pinned for one Pillow and NumPy"
)
def test_pixels_are_the_same_at_pinned_versions(scenes):
    pixels = b"".join(render(scene).tobytes() for scene in scenes[:10])
    assert hashlib.sha256(pixels).hexdigest()[:16] == PINNED_PIXELS


def test_splits_share_no_scene():
    bounds = sorted((numbers(1, 0, split)[0], numbers(1_000_000, 999, split)[-1]) for split in SPLITS)
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(bounds))
    assert sample(1, split="test") != sample(1, split="train")


def test_a_sample_is_the_head_of_a_longer_one():
    assert sample(5, seed=1) == sample(12, seed=1)[:5]
    assert sample(3, seed=1) != sample(3, seed=2)


def test_json_round_trip(scenes):
    for scene in scenes[:20]:
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_boxes_lie_inside_and_positions_follow_from_them(scenes):
    for scene in scenes:
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= SIZE
            assert 0 <= y0 < y1 <= SIZE
            column, row = int((x0 + x1) / 2 / SIZE * 3), int((y0 + y1) / 2 / SIZE * 3)
            assert thing.position == POSITIONS[3 * row + column]
            assert 0 <= thing.visibility <= 1


def test_what_is_drawn_fills_its_box(scenes):
    checked = 0
    for scene in scenes[:60]:
        owner = draw.drawn(scene)[1]
        for i, thing in enumerate(scene.objects):
            if thing.visibility < thing.opacity / 100 or thing.opacity < 100:
                continue
            ys, xs = (owner == i + 1).nonzero()
            found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            assert abs(found - np.array(thing.box)).max() <= 2, (scene.seed, thing)
            checked += 1
    assert checked > 100


def test_nothing_is_drawn_outside_the_boxes(scenes):
    for scene in scenes[:40]:
        owner = draw.drawn(scene)[1]
        for i, thing in enumerate(scene.objects):
            x0, y0, x1, y1 = thing.box
            inside = (owner[y0:y1, x0:x1] == i + 1).sum()
            assert inside == (owner == i + 1).sum()


@pytest.mark.parametrize("name", CATEGORIES)
def test_every_category_can_be_drawn(name):
    scene = from_objects([name])
    assert scene.counts == {name: 1}
    assert (draw.drawn(scene)[1] == 1).sum() > 20


def test_tint_shows_in_the_pixels():
    strong = {"red": 0, "green": 1, "blue": 2}
    seen = set()
    for scene in sample(400, seed=9, split="val"):
        pixels, owner = draw.drawn(scene)
        for i, thing in enumerate(scene.objects):
            if thing.colour in strong and thing.opacity == 100 and (owner == i + 1).sum() > 200:
                mean = pixels[owner == i + 1].mean(0)
                assert mean.argmax() == strong[thing.colour], (scene.seed, thing)
                seen.add(thing.colour)
    assert seen == set(strong)


def test_mirroring_twice_is_nothing(scenes):
    for scene in scenes[:20]:
        other = scene.mirror()
        assert other.mirror() == scene
        for thing, turned in zip(scene.objects, other.objects, strict=True):
            other_way = {"left": "right", "right": "left"}
            assert turned.position == " ".join(other_way.get(word, word) for word in thing.position.split())


def test_given_lists_are_drawn_as_given():
    scene = from_objects(["cup", "cup", "dining table", "zebra"], seed=4)
    assert scene.counts == {"cup": 2, "dining table": 1, "zebra": 1}
    assert scene != from_objects(["cup", "cup", "dining table", "zebra"], seed=5)
    assert len(from_objects(list(CATEGORIES[:12])).objects) == 12


def test_a_rendered_scene_says_so(tmp_path):
    from PIL import Image

    scene = from_objects(["dog"])
    assert render(scene).info[draw.KEY] == str(scene.seed)
    draw.save(scene, tmp_path / "dog.png")
    with Image.open(tmp_path / "dog.png") as again:
        assert again.info[draw.KEY] == str(scene.seed)
        assert again.mode == "RGB"
        assert np.array_equal(np.asarray(again), np.asarray(render(scene)))


UNDRAWABLE = [([], "found 0"), (["zz"], "no object that can be drawn"), (["cup"] * 10_000, "found 10000")]


@pytest.mark.parametrize(("names", "words"), UNDRAWABLE, ids=["none", "unknown", "many"])
def test_lists_that_cannot_be_drawn_are_refused(names, words):
    from vlm_anchors.errors import BadParameter
    from vlm_anchors.scenes import from_objects

    with pytest.raises(BadParameter, match=words):
        from_objects(names)
