"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and InternVL inside vLLM: tokens and logits of our transformers path, in float32."""

from contextlib import nullcontext

import numpy as np
import pytest
import tiny_vision
import torch
from engines import CLOSE, difference, engine, params
from PIL import Image

from vlm_anchors.integrations.vllm.prompt_map import FAMILIES
from vlm_anchors.interventions.attachment import attach

METHODS = ["none", "clva:tau=1", "clva:tau=1,rows=all", "clearsight:enhance=2", "pai:gamma=1", "middle-layers"]
TOKENS = 8
pytestmark = pytest.mark.filterwarnings("ignore::vlm_anchors.errors.AnchorsWarning")


def noise(width, height):
    values = np.random.default_rng((width, height)).integers(0, 255, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


IMAGES = [noise(24, 40), noise(30, 30)]


class Loaded:
    """One family in both engines."""

    def __init__(self, name, folder, llm, model, processor):
        self.name, self.llm, self.model, self.processor = name, llm, model, processor
        self.tag = tiny_vision.FAMILIES[name][2]

    def prompt(self, images, words):
        return f"w20 w21 {' w30 '.join([self.tag] * images)} {words}"

    def ours(self, method, images, words):
        inputs = self.processor(text=self.prompt(len(images), words), images=images, return_tensors="pt")
        on = nullcontext() if method == "none" else attach((self.model, self.processor), method)
        with on, torch.no_grad():
            made = self.model.generate(
                **inputs, max_new_tokens=TOKENS, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        return made.sequences[0, inputs["input_ids"].shape[1] :].tolist(), torch.stack([one[0] for one in made.logits])

    def theirs(self, methods, images, words):
        requests = [
            {"prompt": self.prompt(len(one), said), "multi_modal_data": {"image": one}}
            for one, said in zip(images, words, strict=True)
        ]
        wanted = [params(method, TOKENS) for method in methods]
        return [one.outputs[0] for one in self.llm.generate(requests, wanted, use_tqdm=False)]


@pytest.fixture(scope="module", params=tiny_vision.FAMILIES)
def loaded(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    model, processor = tiny_vision.save(request.param, folder)
    with engine(folder, max_num_seqs=16, limit_mm_per_prompt={"image": 2, "video": 0}) as llm:
        yield Loaded(request.param, folder, llm, model, processor)


@pytest.mark.parametrize("count", [1, 2])
def test_equal_to_transformers(loaded, count):
    plain = loaded.ours("none", IMAGES[:count], "w22 w23 w24 w25")[1][0]
    for method in METHODS:
        expected = loaded.ours(method, IMAGES[:count], "w22 w23 w24 w25")
        (found,) = loaded.theirs([method], [IMAGES[:count]], ["w22 w23 w24 w25"])
        assert difference(found, expected) < CLOSE
        assert method == "none" or (expected[1][0] - plain).abs().max() > 100 * CLOSE


def test_different_methods_and_lengths_in_one_batch(loaded):
    images = [IMAGES[:1], IMAGES, IMAGES[1:], IMAGES[:1], IMAGES, IMAGES[1:]]
    words = ["w22 w23", "w22 w23 w24 w25 w26", "w40", "w41 w42 w43 w44 w45 w46 w47", "w48 w49", "w50 w51 w52"]
    for found, method, image, said in zip(loaded.theirs(METHODS, images, words), METHODS, images, words, strict=True):
        assert difference(found, loaded.ours(method, image, said)) < CLOSE


def test_a_second_question_about_the_same_image(loaded):
    for words in ("w60 w61 w62", "w60 w61 w63 w64", "w65"):
        for method in ("clva:tau=1", "none"):
            (found,) = loaded.theirs([method], [IMAGES[:1]], [words])
            assert difference(found, loaded.ours(method, IMAGES[:1], words)) < CLOSE


def test_every_family_that_the_plug_in_takes_is_tested():
    assert {*FAMILIES} == {"llava", *tiny_vision.FAMILIES}
