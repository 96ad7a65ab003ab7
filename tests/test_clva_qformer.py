"""CLVA in the Q-Former's cross-attention (Eq. 14) against the literal reference, and in the language model on request."""

import pytest
import tiny_qformer as tiny
import torch
from reference_clva import Literal, literal

from vlm_anchors.errors import CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.interventions.recorders import Shares
from vlm_anchors.methods.clva import CLVA

PATCHES = 64
BOUND = 2e-6


def reference(model, **parameters):
    blocks = [layer for layer in model.qformer.encoder.layer if layer.has_cross_attention]
    ref = Literal([list(range(1, PATCHES + 1))], [], 0, len(blocks), **{"latents": "mean", **parameters})
    return ref, blocks


def qformer_of(ref):
    def stack(double):
        blocks = [layer for layer in double.qformer.encoder.layer if layer.has_cross_attention]
        ref.layers = {id(block.crossattention.attention): n for n, block in enumerate(blocks, 1)}
        return double.qformer

    return stack


def prefill(model, inputs):
    out = model.generate(
        **inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    return torch.stack(out.logits), out.sequences


def agrees(model, inputs, fast, **parameters):
    """Compares each sample's first logits with the literal reference; how many were clear of every threshold."""
    clear = 0
    for sample in range(3):
        single = tiny.split(inputs, sample)
        ref, _ = reference(model, **parameters)
        with literal(model, ref, qformer_of(ref)) as double:
            single["pixel_values"] = single["pixel_values"].double()
            slow, _ = prefill(double, single)
        if not ref.near:
            clear += 1
            assert (fast[0, sample].double() - slow[0, 0].double()).abs().max() < BOUND
    return clear


@pytest.mark.grid
@pytest.mark.parametrize("name", list(tiny.FAMILIES))
def test_equals_the_literal_reference(name):
    model, clear = tiny.FAMILIES[name](), 0
    for seed in range(2):
        inputs = tiny.batch(name, seed=seed)
        plain, _ = prefill(model, inputs)
        with attach(model, CLVA()) as handle:
            fast, _ = prefill(model, inputs)
        for sign in ("positive", "negative"):
            assert any(summary["clva"]["anchors"][sign][0] for summary in handle.effects)
        assert (fast[0] - plain[0]).abs().max() > 1e-3
        clear += agrees(model, inputs, fast)
    assert clear >= 5


@pytest.mark.parametrize("name", list(tiny.FAMILIES))
def test_the_promises(name):
    """Zero equals plain; batch equals one by one; no trace is left."""
    model, inputs = tiny.FAMILIES[name](), tiny.batch(name)
    plain, tokens = prefill(model, inputs)
    with attach(model, CLVA(alpha=0.0, beta=0.0)):
        zero, same = prefill(model, inputs)
    assert torch.equal(plain, zero) and torch.equal(tokens, same)
    with attach(model, CLVA()):
        together, _ = prefill(model, inputs)
        for sample in range(3):
            alone, _ = prefill(model, tiny.split(inputs, sample))
            assert (together[0, sample] - alone[0, 0]).abs().max() < BOUND
    again, _ = prefill(model, inputs)
    assert torch.equal(plain, again)


def test_forward_and_generate_agree():
    model, inputs = tiny.instructblip(), tiny.batch("instructblip")
    with attach(model, CLVA()), torch.no_grad():
        assert (model(**inputs).logits[:, -1] - prefill(model, inputs)[0][0]).abs().max() < BOUND


OTHER = {"latents": "last", "heads": "concentration", "gain": "average", "normalise": "visual"}


@pytest.mark.grid
@pytest.mark.parametrize("parameter", OTHER)
def test_other_choices_equal_the_literal_reference(parameter):
    parameters = {parameter: OTHER[parameter]}
    model, inputs = tiny.instructblip(), tiny.batch("instructblip")
    with attach(model, CLVA()):
        default, _ = prefill(model, inputs)
    with attach(model, CLVA(**parameters)):
        other, _ = prefill(model, inputs)
    assert (default - other).abs().max() > 1e-5
    assert agrees(model, inputs, other, **parameters) >= 2


@pytest.mark.parametrize("name", ["instructblip", "blip-2"])
def test_site_decoder_edits_the_language_model(name):
    model, inputs = tiny.FAMILIES[name](), tiny.batch(name)
    plain, _ = prefill(model, inputs)
    method, shares = CLVA(target="decoder", tau=1.0), Shares()
    with attach(model, method, recorder=shares) as handle:
        edited, _ = prefill(model, inputs)
        for sample in range(3):
            alone, _ = prefill(model, tiny.split(inputs, sample))
            assert (edited[0, sample] - alone[0, 0]).abs().max() < BOUND
    assert all(summary["clva"]["rows_edited"] > 3 for summary in handle.effects)
    assert (edited - plain).abs().max() > 1e-3
    assert [row["layer"] for row in shares.table()] == list(range(1, 9))


def test_site_decoder_of_t5_is_refused():
    with pytest.raises(CannotAct, match="decoder-only"):
        attach(tiny.instructblip("t5"), CLVA(target="decoder"))
