"""The parts of an edit that stand for one another: values or outputs replaced, scores shifted by a bias's amount."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from cases import CASES, model_of, run

from vlm_anchors.errors import CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.interventions.attention_view import AttentionEdit
from vlm_anchors.interventions.method import Method


@dataclass(frozen=True)
class Try(Method):
    """An edit of layer 3 by name."""

    hooks: ClassVar[frozenset] = frozenset({"attention"})
    target: ClassVar[str] = "decoder"
    part: str = "none"

    def disabled(self):
        return Try()

    def attention_layers(self, target):
        return frozenset() if self.part == "none" else frozenset({3})

    def attention(self, view):
        weights = view.weights()
        visual = view.visual_of(view.value)
        if self.part == "value":
            return AttentionEdit(value=view.with_visual(view.value, torch.zeros_like(visual)))
        if self.part == "output":
            unseen = view.scores().softmax(-1).masked_fill(view.visual_keys()[:, None, None], 0)
            return AttentionEdit(output=view.weighted(unseen))
        if self.part == "bias":
            return AttentionEdit(bias=torch.full_like(weights, 2.0))
        if self.part == "shift":
            return AttentionEdit(shift=2.0 * view.visual_keys()[:, None, None].to(view.dtype))
        return AttentionEdit(key=view.key.clone())


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(("one", "two"), [("value", "output"), ("bias", "shift"), ("key", "none")])
def test_two_ways_of_one_edit(name, one, two):
    model, batch = model_of(name), CASES[name].batch()
    with attach(model, Try(one)):
        first, tokens = run(model, batch)
    with attach(model, Try(two)):
        second, _ = run(model, batch, tokens)
    plain, _ = run(model, batch, tokens)
    assert (first - second).abs().max() < 1e-5
    if two != "none":
        assert (first - plain).abs().max() > 1e-4


def test_the_literal_form_is_one_of_biases_only():
    with attach(model_of("llava"), Try("shift"), literal=True), pytest.raises(CannotAct, match="literal=True"):
        run(model_of("llava"), CASES["llava"].batch())
