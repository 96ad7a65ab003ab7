"""Questions and answers agree with the scene."""

import random
import re
from collections import Counter

import pytest
from named import mentions

from tools.scenes_model.measure import captions, repeated
from vlm_anchors.scenes import pope, sample
from vlm_anchors.scenes import questions as q


@pytest.fixture(scope="module")
def scenes():
    return sample(250, seed=5, split="val")


@pytest.fixture(scope="module")
def asked(scenes):
    rng = random.Random(0)
    return [(scene, qa) for scene in scenes for qa in q.training_set(rng, scene)]


def test_eight_questions_and_a_caption_each(scenes, asked):
    assert len(asked) == 9 * len(scenes)
    assert Counter(qa.kind in ("short", "detail") for _, qa in asked)[True] == len(scenes)


def test_existence_is_true(asked):
    answers = Counter()
    for scene, qa in asked:
        if qa.kind == "existence":
            (name,) = set(mentions(qa.question.split("Please")[0])) or {None}
            assert (name in scene.present) == (qa.answer == "Yes"), qa
            answers[qa.answer] += 1
    assert 0.45 < answers["Yes"] / answers.total() < 0.55


def test_counts_colours_and_positions_are_true(asked):
    for scene, qa in asked:
        names = mentions(qa.question)
        if qa.kind == "count":
            assert qa.answer == q.NUMBERS[scene.counts[names[0]]].capitalize()
        if qa.kind == "colour":
            assert [thing.colour for thing in scene.of(names[0])] == [qa.answer.lower()]
        if qa.kind == "position":
            assert [thing.position for thing in scene.of(names[0])] == [qa.answer.lower()]


def test_counts_are_balanced(asked):
    counts = Counter(qa.answer for _, qa in asked if qa.kind == "count")
    assert set(counts) == {"One", "Two", "Three", "Four"}
    assert max(counts.values()) < 0.45 * counts.total()


@pytest.mark.parametrize("true", [True, False])
def test_mme_questions_are_true(scenes, true):
    rng = random.Random(1)
    for scene in scenes:
        made = q.yesno_colour(rng, scene, true)
        if made:
            said, name = (
                next(c for c in q.COLOURS if c in made[0].split() or f"{c}?" in made[0].split()),
                mentions(made[0])[0],
            )
            assert (said in {thing.colour for thing in scene.of(name)}) == true
        made = q.yesno_count(rng, scene, true)
        if made:
            said = next(i for i, word in enumerate(q.NUMBERS) if word in made[0].split())
            assert (scene.counts[mentions(made[0])[0]] == said) == true
        made = q.yesno_side(rng, scene, true)
        if made:
            side = next(word for word in ("left", "right", "top", "bottom") if word in made[0].split())
            assert (side in scene.of(mentions(made[0])[0])[0].position.split()) == true
        made = q.yesno_relation(rng, scene, true)
        if made:
            one, other = (scene.of(name)[0].box for name in mentions(made[0]))
            dx, dy = one[0] + one[2] - other[0] - other[2], one[1] + one[3] - other[1] - other[3]
            holds = {"left": dx < 0, "right": dx > 0, "above": dy < 0, "below": dy > 0}
            assert next(v for k, v in holds.items() if k in made[0].split()) == true


def test_captions_name_what_is_there_and_nothing_else(scenes):
    words = []
    for scene in scenes:
        for text in (q.detailed_caption(scene), q.short_caption(scene)):
            assert Counter(mentions(text)) == Counter(scene.counts.keys())
            assert re.fullmatch(r"([A-Z][a-z ,]+\.)( [A-Z][a-z ,]+\.)*", text), text
            assert not repeated(text)
        if len(scene.present) >= 3:
            words.append(len(q.detailed_caption(scene).split()))
    assert sorted(words)[len(words) // 2] >= 20


def test_the_packages_chair_counts_what_captions_name(scenes):
    texts = [q.detailed_caption(scene) for scene in scenes]
    table = captions(scenes, texts)
    assert table["mentions"].tolist() == [len(mentions(text)) for text in texts]
    assert not table["absent"].any() and table["recalled"].tolist() == table["present"].tolist()
    told = captions(scenes[:1], [f"{texts[0]} There are two {q.plural(q.absent(random.Random(0), scenes[0]))}."])
    assert (told["absent"].item(), told["captions_absent"].item()) == (1, 1)


def test_the_benchmarks_own_phrasings_are_among_the_questions(asked):
    texts = [qa.question for _, qa in asked]
    for start, end in (
        ("Is there a", "in the image?"),
        ("Is there a", "Please answer yes or no."),
        ("Is there a", "Please answer this question with one word."),
        ("Is there a", "\nAnswer the question using a single word or phrase."),
        ("Are there", "in this image? Please answer yes or no."),
        ("Please describe this image in detail.", ""),
        ("Please help me describe the image in detail.", ""),
    ):
        assert any(text.startswith(start) and text.endswith(end) for text in texts), (start, end)


def test_hard_negatives_are_likelier_company(scenes):
    """With hard=1 the absent objects asked for are more frequent in COCO than with hard=0."""
    rng, single = random.Random(2), dict(zip(q.coco.CATEGORIES, q.coco.counts()["single"], strict=True))
    mean = {hard: sum(single[q.absent(rng, scene, hard)] for scene in scenes) for hard in (0.0, 1.0)}
    assert mean[1.0] > 2 * mean[0.0]
    assert all(q.absent(rng, scene, 1.0) not in scene.present for scene in scenes)


@pytest.mark.parametrize(
    ("name", "n", "said"),
    [
        ("cup", 1, "a red cup"), ("umbrella", 1, "a red umbrella"), ("knife", 3, "three red knives"),
        ("skis", 1, "a pair of red skis"), ("scissors", 2, "two pairs of red scissors"), ("person", 4, "four red people"),
        ("bus", 2, "two red buses"), ("sheep", 2, "two red sheep"),
    ],
)  # fmt: skip
def test_phrases(name, n, said):
    assert q.phrase(name, n, "red") == said
    assert q.phrase(name, n) == said.replace("red ", "").replace("a umbrella", "an umbrella")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pope_of_very_few_scenes(count):
    """One scene alone shows no category that it lacks: those that occur nowhere are asked about."""
    scenes = sample(count, 0, split="test")
    for rows in pope.questions(scenes, 0).values():
        assert len(rows) == len(set(rows)) >= 2 * sum(min(3, len(scene.counts)) for scene in scenes)
        assert all(there == (name in scene.present) for scene, name, there in rows)
