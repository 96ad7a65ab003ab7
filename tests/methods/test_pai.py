"""PAI: the boost of one row and the image-free branch against full matrices without a cache."""

import pytest
import tiny_models
import torch
from cases import CASES, STEPS, model_of, run
from reference_attention import Rows
from reference_clva import literal
from reference_logits import compare, cut, whole, without_image

from vlm_anchors.errors import AnchorsWarning, BadParameter
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.pai import PAI


def boosted(alpha):
    def scores(z, reference, weights):
        z[:, reference.visual] += alpha * z[:, reference.visual].abs()
        return z

    return scores


def reference(case, method):
    def logits(double, single, tokens):
        layout = case.layout(single)
        layers = range(method.layers[0], method.layers[1] + 1)
        rows = Rows(layout.images, layout.text, layers, boosted(method.alpha), last_only=True)
        if not method.boost_prompt:
            rows.last += 1
        with literal(double, rows, case.stack) as edited, torch.no_grad():
            first = edited(**whole(case, single, tokens)).logits[0][-STEPS - 1 :]
        if method.gamma == 1:
            return first
        second, _ = without_image(case, double, single, tokens, STEPS + 1)
        a, b = first.log_softmax(-1), second.log_softmax(-1)
        return cut(method.gamma * (a - b) + b, a, method.cut)

    return logits


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(
    "parameters", [{"gamma": 1.0}, {"gamma": 1.5}, {"alpha": 0.0, "cut": 0.9}, {"boost_prompt": False}]
)
def test_equals_the_literal_reference(name, parameters):
    method = PAI(**{"alpha": 0.5, "layers": (2, 8), **parameters})
    effects = compare(CASES[name], method, reference(CASES[name], method))
    for summary in effects:
        assert summary["pai"].get("branch_passes", STEPS + 1) == STEPS + 1
        assert summary["pai"]["rows_edited"] == (STEPS + method.boost_prompt if method.alpha else 0)


def test_the_cut_belongs_to_the_branch():
    model, batch = model_of("llava"), CASES["llava"].batch()
    with attach(model, PAI(gamma=1.0, cut=0.5)):
        assert torch.isfinite(run(model, batch)[0]).all()


@pytest.mark.parametrize(
    "parameters",
    [{"alpha": -0.1}, {"cut": 2}, {"gamma": -1}, {"layers": (0, 2)}, {"boost_prompt": "no"}, {"boost_prompt": 0}],
)
def test_wrong_dials_are_refused(parameters):
    with pytest.raises(BadParameter):
        PAI(**parameters)


def test_a_switch_says_what_it_may_be():
    with pytest.raises(BadParameter, match="PAI.boost_prompt must be True or False; found 'no'"):
        PAI(boost_prompt="no")


@pytest.mark.parametrize("gamma", [1.0, 1.1])
def test_an_untested_family_is_told(gamma):
    with pytest.warns(AnchorsWarning, match="pai is tested on"), attach(tiny_models.paligemma(), PAI(gamma=gamma)):
        pass
