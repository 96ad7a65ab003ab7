"""Questions of one image share its prefix and its encoding, and answers stay the same."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import vlm_anchors as va
from vlm_anchors.evaluation.runner import answer
from vlm_anchors.generation.plan import GenerationPlan
from vlm_anchors.inputs.prompt_builder import Sample
from vlm_anchors.interventions.branch.image_cache import images_once
from vlm_anchors.scenes import from_objects, render

SHARING = ["none", "clva", "clearsight", "clearsight:heads=selected", "deco", "pai", "vcd", "icd"]
ASKED = ["Is there a cup?", "How many forks are there in the image?", "Describe.", "What color is the cup?"]


@pytest.fixture(scope="module")
def double(tiny_folder):
    """In float64 rounding neither hides a difference nor makes one."""
    return va.load(str(tiny_folder), dtype=torch.float64)


def asked_both_ways(vlm, method, decoding):
    """Answers to questions about two images: each from its beginning, and with system and image prefilled once."""
    images = [render(from_objects(objects)) for objects in (["cup", "fork"], ["dog"])]
    samples = [Sample((images[n == 1],), text, str(n)) for n, text in enumerate(ASKED)]
    how = GenerationPlan.of(vlm, method, decoding, 6)
    assert answer.can_reuse(how)
    return [answer.answer_batch(how, [sample], False)[0] for sample in samples], answer.answer_batch(how, samples, True)


@pytest.mark.grid
@pytest.mark.parametrize("method", SHARING)
@pytest.mark.parametrize("decoding", ["greedy", "beam:num_beams=3", "nucleus"])
def test_a_reused_prefix_changes_nothing(double, method, decoding):
    for alone, shared in zip(*asked_both_ways(double, method, decoding), strict=True):
        assert (shared.tokens, shared.prompt, shared.effects) == (alone.tokens, alone.prompt, alone.effects)
        assert shared.yes_no == pytest.approx(alone.yes_no, abs=1e-6)


@pytest.mark.parametrize("method", ["vista", "memvr", "imccd", "attanchor", "clva:rows=all"])
def test_methods_that_touch_the_prefix_read_every_prompt_whole(tiny, method):
    assert not answer.can_reuse(GenerationPlan.of(tiny, method, None, 4))


@pytest.mark.grid
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
