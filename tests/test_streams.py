"""Decoders with several streams of hidden states: a layer's output is read as the model reads its last layer's."""

import pytest
import tiny_classes
import torch

from vlm_anchors.errors import CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.interventions.hooks import find_head, layers_of
from vlm_anchors.interventions.streams import join_of
from vlm_anchors.methods.deco import DeCo
from vlm_anchors.models.decoder import find_target

pytestmark = pytest.mark.filterwarnings("ignore::vlm_anchors.errors.AnchorsWarning")
NAMES = ["gemma3n", "glm5_next", "qwen4_exp"]


@pytest.fixture(scope="module", params=NAMES)
def one(request):
    return tiny_classes.tiny(request.param)


def test_the_last_layer_read_early_says_what_the_model_says(one):
    target, seen, inputs = find_target(one.model), [], one.prompt(1)[0]
    head = find_head(target, DeCo())
    hook = layers_of(target)[-1].register_forward_hook(lambda *call: seen.append(call[-1]))
    with torch.no_grad():
        whole = one.model(**inputs).logits[:, -1]
        hook.remove()
        streams = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
        joined = join_of(target, DeCo())(streams)
        early = head.out(head.norm(joined[:, -1]))
    cap = getattr(target.config, "final_logit_softcapping", None)
    early = early if cap is None else cap * torch.tanh(early / cap)
    assert joined.shape == (1, inputs["input_ids"].shape[1], target.config.hidden_size)
    assert (early - whole).abs().max() < 1e-5


def test_deco_adds_what_a_layer_says(one):
    """Each candidate's logit grows by the surest layer's, times that layer's certainty; others stay."""
    inputs = one.prompt(1)[0]
    with torch.no_grad():
        plain = one.model(**inputs).logits[0, -1]
        with attach(one.model, DeCo(alpha=0.6, layers=(5, 6), outside="kept")) as handle:
            found = one.model(**inputs).logits[0, -1]
    assert handle.effects[0]["deco"]["corrected"] == 1
    moved = (found - plain).abs()
    assert 0 < int((moved > 1e-7).sum()) <= 20 and moved.max() > 1e-6


@pytest.mark.parametrize("name", ["glm5_next", "qwen4_exp"])
def test_a_join_that_is_not_known_is_refused(name, monkeypatch):
    monkeypatch.setattr("vlm_anchors.interventions.streams.MODULES", ())
    with pytest.raises(CannotAct, match="how they are joined is not known"):
        attach(tiny_classes.build(name), DeCo())
