"""Kosmos-2 and 2.5, whose visual tokens a mask beside the prompt shows: CLVA's equations, tags, other readings of a prompt."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_classes
import torch
from tiny_ties import IMAGE

from vlm_anchors.errors import CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.interventions.hooks import with_features
from vlm_anchors.methods.clva import CLVA
from vlm_anchors.methods.m3id import M3ID
from vlm_anchors.methods.memvr import MemVR
from vlm_anchors.models.decoder import find_target

sys.path.append(str(Path(__file__).parent.parent / "runs"))
import family_matrix

NAMES = ["kosmos-2", "kosmos-2.5"]
START, END = 6, 7
pytestmark = pytest.mark.filterwarnings("ignore::vlm_anchors.errors.AnchorsWarning")


@pytest.fixture(scope="module", params=NAMES)
def one(request):
    return tiny_classes.tiny(request.param)


@pytest.mark.parametrize("images", [1, 2])
def test_equals_the_literal_reference(one, images):
    off, moved, near, called, _ = family_matrix.clva(one, images)
    assert not near and max(off, called) < family_matrix.EXACT < moved / 10


def test_neutral_equals_plain_bit_for_bit(one):
    assert family_matrix.neutral(one, CLVA())


def test_tags_are_known_by_the_tokenizer():
    one = tiny_classes.tiny("kosmos-2")
    spelled = {"<image>": START, "</image>": END}
    tokenizer = SimpleNamespace(convert_tokens_to_ids=spelled.get, unk_token_id=None, special_tokens_map={})
    assert find_target(one.model, tokenizer).delimiter_ids == (START, END)
    inputs, places, _ = one.prompt(1)
    ids = inputs["input_ids"]
    ids[0, places[0][-1] + 1], ids[0, places[0][0] - 1] = END, START
    processor = SimpleNamespace(tokenizer=tokenizer)
    with torch.no_grad(), attach((one.model, processor), CLVA()) as named:
        one.model(**inputs)
    with torch.no_grad(), attach(one.model, CLVA()) as bare:
        one.model(**inputs)
    counts = [handle.effects[0]["clva"]["rows_edited"] for handle in (named, bare)]
    assert counts[1] == counts[0] + 1 == len(ids[0]) - places[0][-1] - 1


def test_without_its_mask_a_prompt_has_no_image(one):
    """The ids at an image's places are ordinary words elsewhere."""
    words = torch.tensor([[1, 40, IMAGE, IMAGE, 41, 42]])
    with torch.no_grad(), attach(one.model, CLVA(tau=1)) as handle:
        found = one.model.text_model(input_ids=words).logits
    assert torch.equal(found, one.model.text_model(input_ids=words).logits)
    assert not handle.effects or not handle.effects[0]["clva"]["rows_edited"]


def test_the_words_alone_stand_where_they_would(one):
    """Positions count from behind the padding's id, in a branch as in the model."""
    inputs, places, _ = one.prompt(1)
    words = torch.tensor(
        [[token for place, token in enumerate(inputs["input_ids"][0].tolist()) if place not in places[0]]]
    )
    with torch.no_grad():
        with attach(one.model, M3ID(rate=0.5, cut=1.0)):
            found = one.model(**inputs).logits[:, -1]
        first, second = one.model(**inputs).logits[:, -1], one.model.text_model(input_ids=words).logits[:, -1]
    first, second = first.log_softmax(-1), second.log_softmax(-1)
    assert (found - (first + math.expm1(0.5) * (first - second))).abs().max() < 1e-4
    assert (first - second).abs().max() > 1e-3


def test_the_image_that_memvr_remembers_is_the_projected_one(one):
    seen = []

    class Seen(MemVR):
        def mlp(self, view, layer, inputs, output):
            seen.append(view.state.image)
            return super().mlp(view, layer, inputs, output)

    inputs, _, _ = one.prompt(1)
    with torch.no_grad(), attach(one.model, Seen(gamma=0.0)):
        features = one.model(**inputs).image_embeds
    assert seen and all(torch.equal(image, features.float()) for image in seen)


def test_embeddings_without_features_stay_as_they_are():
    embeds = torch.randn(1, 4, 8)
    assert with_features(embeds, {"image_embeds": torch.randn(1, 2, 8)}, "") is embeds
    assert with_features(embeds, {"mask": torch.ones(1, 4), "image_embeds": None}, "mask") is embeds


@pytest.mark.parametrize(("method", "reason"), [("vcd", "finished features"), ("attanchor", "learned queries")])
def test_what_cannot_act_there_says_why(one, method, reason):
    inputs, _, _ = one.prompt(1)
    built = family_matrix.METHODS.build(method)
    with torch.no_grad(), pytest.raises(CannotAct, match=reason):
        if method == "attanchor":
            built.prepare(one.model, inputs)
        with attach(one.model, built):
            one.model(**inputs)
