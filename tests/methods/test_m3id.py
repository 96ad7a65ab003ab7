"""M3ID against two readings without a cache, the second without its image, mixed token by token."""

import math

import pytest
import tiny_classes
import torch
from cases import CASES, STEPS
from reference_logits import compare, cut, read, whole, without_image

from vlm_anchors.errors import AnchorsWarning, BadParameter
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.m3id import M3ID
from vlm_anchors.models.decoder import find_target


def reference(case, method):
    def logits(double, single, tokens):
        first, _ = read(case, double, whole(case, single, tokens), STEPS + 1)
        if not method.rate:
            return cut(first.clone(), first, method.beta)
        second, _ = without_image(case, double, single, tokens, STEPS + 1)
        seen, unseen = first.log_softmax(-1), second.log_softmax(-1)
        mixed = seen.clone()
        for step in range(STEPS + 1):
            left = math.exp(-method.rate * (step + 1 + method.offset))
            if seen[step].exp().max() < method.cut:
                mixed[step] = seen[step] + (1 - left) / left * (seen[step] - unseen[step])
        return cut(mixed, first, method.beta)

    return logits


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(
    "parameters",
    [{"cut": 1.0}, {"rate": 0.4, "cut": 0.2}, {"offset": 10, "cut": 1.0, "beta": 0.1}, {"rate": 0.0, "beta": 0.9}],
)
def test_equals_the_literal_reference(name, parameters):
    method = M3ID(**parameters)
    effects = compare(CASES[name], method, reference(CASES[name], method), moved=20 if method.rate else 0)
    for summary in effects:
        assert summary["m3id"]["branch_passes"] == (STEPS + 1 if method.rate else 0)
        assert summary["m3id"].get("corrected", 0) <= STEPS + 1
        if method.cut == 1 and method.rate:
            assert summary["m3id"]["corrected"] == STEPS + 1


def test_a_token_the_model_is_sure_of_is_left_alone():
    """Of the same steps, those under the cut are corrected and counted, the others are the plain model's."""
    from cases import model_of, run

    model, batch = model_of("llava"), CASES["llava"].batch()
    plain, tokens = run(model, batch)
    highest = plain.softmax(-1).amax(-1)
    cutoff = float(highest.flatten().sort().values[7:9].mean())
    with attach(model, M3ID(rate=0.5, cut=cutoff)) as handle:
        mixed, _ = run(model, batch, tokens)
        corrected = [summary["m3id"]["corrected"] for summary in handle.effects]
    unsure = highest < cutoff
    assert corrected == unsure.sum(0).tolist() and 0 < sum(corrected) < unsure.numel()
    moved = (mixed.log_softmax(-1) - plain.log_softmax(-1)).abs().amax(-1)
    assert torch.equal(moved > 1e-4, unsure)


@pytest.mark.parametrize("name", ["cohere2_vision", "qwen2_5_omni_thinker", "gemma3n"])
def test_the_whole_model_reads_the_words_alone(name):
    """Scaled logits; positions of three parts; embeddings per layer, looked up by id."""
    one = tiny_classes.tiny(name)
    inputs, places, _ = one.prompt(1)
    tags = set(find_target(one.model).delimiter_ids)
    rest = [token for place, token in enumerate(inputs["input_ids"][0].tolist()) if place not in places[0]]
    words = torch.tensor([[token for token in rest if token not in tags]])
    with torch.no_grad():
        with pytest.warns(AnchorsWarning, match="m3id is tested on"), attach(one.model, M3ID(rate=0.5, cut=1.0)):
            found = one.model(**inputs).logits[:, -1]
        first, second = one.model(**inputs).logits[:, -1], one.model(input_ids=words).logits[:, -1]
    first, second = first.log_softmax(-1), second.log_softmax(-1)
    assert (found - (first + math.expm1(0.5) * (first - second))).abs().max() < 1e-4
    assert (first - second).abs().max() > 1e-2


@pytest.mark.parametrize("parameters", [{"rate": -1}, {"cut": 1.5}, {"offset": 0.5}, {"offset": -1}, {"beta": 2}])
def test_wrong_parameters_are_refused(parameters):
    with pytest.raises(BadParameter):
        M3ID(**parameters)
