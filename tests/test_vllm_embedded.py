"""Prompts of embeddings for vLLM, seen from transformers: the same logits, and what cannot be embedded says so."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import tiny_classes
import torch

import vlm_anchors as va
from vlm_anchors import scenes
from vlm_anchors.errors import CannotAct
from vlm_anchors.generation.sampling import YesNo
from vlm_anchors.integrations.vllm import embedded_prompt
from vlm_anchors.models.families import family_of
from vlm_anchors.models.vlm import Vlm

QUESTION = "Is there a cup in the image?"
IMAGE = scenes.render(next(scene for scene in scenes.sample(20) if len(scene.present) > 2))


@dataclass(frozen=True)
class Gaps(va.Method):
    """Every second position."""

    hooks: ClassVar[frozenset[str]] = frozenset({"prepare"})

    def disabled(self):
        return self

    def prepare(self, vlm, inputs, **options):
        return {**inputs, "position_ids": torch.arange(inputs["input_ids"].shape[1])[None] * 2}


@pytest.fixture(scope="module")
def bundled():
    return va.load("scenes", device="cpu", dtype="float32")


@pytest.mark.parametrize(
    "method", ["attanchor:tau=0.1", "attanchor:tau=0,tokens=all", "attanchor-i2t", "prune:by=random,share=0.5"]
)
def test_the_embeddings_say_what_the_model_says(bundled, method):
    made = embedded_prompt(bundled, IMAGE, QUESTION, method)["prompt_embeds"]
    plain = va.ask(bundled, IMAGE, QUESTION, max_new_tokens=1)
    expected = va.ask(bundled, IMAGE, QUESTION, method=method, max_new_tokens=1)
    with torch.no_grad():
        logits = bundled.model(inputs_embeds=made[None]).logits[0, -1]
    words = YesNo(bundled.processor.tokenizer)
    found = tuple(max(float(logits[one]) for one in ids) for ids in (words.yes, words.no))
    assert found == pytest.approx(expected.yes_no, abs=1e-3)
    assert made.dtype == torch.float32 and expected.yes_no != plain.yes_no


@pytest.mark.parametrize("method", ["clva", "attanchor+clva", "none", "vcd"])
def test_what_acts_inside_the_model_cannot_be_embedded(bundled, method):
    with pytest.raises(CannotAct, match="only inserts tokens"):
        embedded_prompt(bundled, IMAGE, QUESTION, method)


def test_gaps_between_positions_cannot_be_embedded(bundled):
    with pytest.raises(CannotAct, match="leaves gaps between positions"):
        embedded_prompt(bundled, IMAGE, QUESTION, Gaps())


def test_positions_of_three_parts_cannot_be_embedded(bundled):
    model = tiny_classes.build("qwen2_5_vl")
    qwen = Vlm(model, bundled.processor, family_of(model.config), "qwen")
    with pytest.raises(CannotAct, match="places an image's patches otherwise"):
        embedded_prompt(qwen, IMAGE, QUESTION)


def test_the_model_is_left_as_it_was(bundled):
    before = va.ask(bundled, IMAGE, QUESTION, max_new_tokens=2).yes_no
    embedded_prompt(bundled, IMAGE, QUESTION)
    assert va.ask(bundled, IMAGE, QUESTION, max_new_tokens=2).yes_no == before
