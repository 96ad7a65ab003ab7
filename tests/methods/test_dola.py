"""DoLa against every layer's own logits, layer by layer and token by token."""

import math

import pytest
import tiny_models
import torch
from cases import CASES, STEPS
from reference_logits import compare, cut, early, read, whole

from vlm_anchors.errors import AnchorsWarning, BadParameter
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.dola import DoLa, bucket_of


def apart(p, q):
    """Jensen-Shannon divergence of two distributions."""
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    one = sum(a * math.log(a / m) for a, m in zip(p, middle, strict=True) if a > 0)
    two = sum(b * math.log(b / m) for b, m in zip(q, middle, strict=True) if b > 0)
    return (one + two) / 2


def reference(case, method, chosen):
    def logits(double, single, tokens):
        inputs = whole(case, single, tokens)
        first, layers = read(case, double, inputs, STEPS + 1)
        words = case.stack(double).get_input_embeddings()(inputs["input_ids"][:, -STEPS - 1 :])[0].detach()
        states = {0: words, **{at + 1: out.reshape(-1, out.shape[-1])[-STEPS - 1 :] for at, out in enumerate(layers)}}
        scores = []
        for step in range(STEPS + 1):
            late = first[step].log_softmax(-1)
            found = {}
            for layer in bucket_of(method.bucket, case.depth):
                found[layer] = early(case, double, states[layer][step], method.norm).log_softmax(-1)
            best = max(found, key=lambda one: apart(late.exp().tolist(), found[one].exp().tolist()))
            scores.append(late - method.alpha * found[best])
            if step == 0:
                chosen.append(best)
        return cut(torch.stack(scores), first, method.cut)

    return logits


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("parameters", [{}, {"bucket": "high", "alpha": 0.5, "cut": 0.0}, {"norm": True, "cut": 0.5}])
def test_equals_the_literal_reference(name, parameters):
    method, chosen = DoLa(**parameters), []
    effects = compare(CASES[name], method, reference(CASES[name], method, chosen))
    assert [summary["dola"]["first_layer_chosen"] for summary in effects] == chosen
    assert {summary["dola"]["contrasted"] for summary in effects} == {STEPS + 1}


def test_buckets():
    """Llama-7B's are those of the published scripts; of a deep stack, 20 layers at either end."""
    assert bucket_of("low", 32) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert bucket_of("high", 32) == [16, 18, 20, 22, 24, 26, 28, 30]
    assert bucket_of("low", 60) == list(range(0, 20, 2)) and bucket_of("high", 60) == list(range(40, 60, 2))


def test_an_untested_family_is_warned_of():
    with pytest.warns(AnchorsWarning, match="dola is tested on"), attach(tiny_models.paligemma(), DoLa()):
        pass


@pytest.mark.parametrize("parameters", [{"alpha": -1}, {"bucket": "middle"}, {"cut": 2}, {"norm": 1}])
def test_wrong_parameters_are_refused(parameters):
    with pytest.raises(BadParameter):
        DoLa(**parameters)
