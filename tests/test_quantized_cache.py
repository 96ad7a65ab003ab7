"""Caches that hold keys and values in fewer bits: methods act on what the cache gives back, as their equations say.

transformers' own float8 cache, and its group-wise one with a stand-in for the packages that quantise (optimum-quanto, hqq).
"""

import copy

import pytest
import tiny_classes
import torch
from cases import forced
from reference_clva import Literal, literal
from transformers import Cache
from transformers.cache_utils import QuantizedCache, QuantizedLayer

from vlm_anchors.interventions.attachment import attach

STEPS = {
    "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True,
}  # fmt: skip


class Rounded(QuantizedLayer):
    """Keys and values in steps of 1/8. The newest four are kept as they are."""

    def __init__(self):
        super().__init__(residual_length=4)

    def _quantize(self, tensor, axis):
        return (tensor * 8).round().to(torch.int16)

    def _dequantize(self, q_tensor):
        return q_tensor.to(self.dtype) / 8


def grouped(model):
    return Cache(layers=[Rounded() for _ in range(model.config.get_text_config().num_hidden_layers)])


def float8(model):
    return QuantizedCache("fp8", model.config.get_text_config())


CACHES = pytest.mark.parametrize("cache", [grouped, float8])


@pytest.fixture(scope="module")
def one():
    return tiny_classes.tiny("llava")


def answer(model, inputs, cache=None, tokens=None, **how):
    more = {} if tokens is None else {"logits_processor": [forced(tokens)]}
    inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad():
        out = model.generate(**inputs, **STEPS | how, **more, past_key_values=None if cache is None else cache(model))
    return torch.stack(out.logits), out.sequences[:, inputs["input_ids"].shape[1] :]


@CACHES
def test_clva_is_the_literal_reference_on_the_same_cache(one, cache):
    inputs, places, text = one.prompt(after=8)
    _, tokens = answer(one.model, inputs, cache)
    depth = one.model.config.get_text_config().num_hidden_layers
    reference = Literal(places, text, text[-1], depth, tau=1.0)
    with literal(one.model, reference) as slow:
        wanted, _ = answer(slow, inputs, cache, tokens)
    assert not reference.near
    exact = copy.deepcopy(one.model).double()
    plain, _ = answer(exact, inputs, cache, tokens)
    with attach(exact, "clva:tau=1") as handle:
        found, _ = answer(exact, inputs, cache, tokens)
        whole, _ = answer(exact, inputs, None, tokens)
        assert handle.effects[0]["clva"]["rows_edited"] == len(text) + 5
    assert (found - wanted).abs().max() < 1e-4 < 1e-2 < (found - plain).abs().max()
    assert (found - whole)[1:].abs().max() > 1e-4, "the cache must round"


@pytest.mark.grid
@CACHES
@pytest.mark.parametrize("method", ["clva", "vcd", "pai:alpha=0.5", "clearsight:enhance=2", "deco", "memvr:gamma=0"])
def test_methods_act_and_are_off_at_zero(one, cache, method):
    from vlm_anchors.methods import METHODS

    inputs, _, _ = one.prompt(after=8)
    plain, tokens = answer(one.model, inputs, cache)
    with attach(one.model, METHODS.build(method).disabled()):
        off, same = answer(one.model, inputs, cache)
    assert torch.equal(plain, off) and torch.equal(tokens, same)
    with attach(one.model, method):
        moved, _ = answer(one.model, inputs, cache, tokens)
    # The prompt's own pass has exact keys; the steps read them from the cache.
    assert all((moved - plain).nan_to_num(neginf=0)[step].abs().max() > 1e-6 for step in (0, -1))


def test_by_name_in_generate(one):
    inputs, _, _ = one.prompt(after=8)
    how = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
    with attach(one.model, "clva:tau=1"):
        named, _ = answer(one.model, inputs, None, **how)
        given, _ = answer(one.model, inputs, float8)
    assert torch.equal(named, given)
