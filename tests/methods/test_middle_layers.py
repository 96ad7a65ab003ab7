"""Heads-guided attention against full matrices without a cache."""

import pytest
import tiny_models
import torch
from cases import CASES, STEPS
from reference_attention import Rows
from reference_clva import literal
from reference_logits import compare, whole

from vlm_anchors.errors import AnchorsWarning, BadParameter, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.middle_layers import MiddleLayers


def guided(alpha):
    def scores(z, reference, weights):
        for j in reference.visual:
            z[:, j] += alpha * sum(abs(one) for one in z[:, j].tolist()) / len(z)
        return z

    return scores


def reference(case, method):
    def logits(double, single, tokens):
        layout = case.layout(single)
        rows = Rows(
            layout.images,
            layout.text,
            range(method.layers[0], method.layers[1] + 1),
            guided(method.alpha),
            last_only=True,
        )
        with literal(double, rows, case.stack) as edited, torch.no_grad():
            return edited(**whole(case, single, tokens)).logits[0][-STEPS - 1 :]

    return logits


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("parameters", [{"layers": (2, 5)}, {"alpha": 2.0, "layers": (1, 8)}])
def test_equals_the_literal_reference(name, parameters):
    method = MiddleLayers(**parameters)
    for summary in compare(CASES[name], method, reference(CASES[name], method)):
        assert summary["middle-layers"]["rows_edited"] == STEPS + 1
        assert summary["middle-layers"]["visual_tokens"] > 0


def test_the_published_layers_are_scaled_to_the_depth():
    with attach(tiny_models.qwen2_5_vl(2), MiddleLayers()) as handle:
        assert sorted(handle.setup.attention_layers) == [2, 3, 4, 5]


def test_another_family_warns_and_a_missing_layer_is_refused():
    model = tiny_models.paligemma()
    with pytest.warns(AnchorsWarning, match="middle-layers is tested on"), attach(model, MiddleLayers()):
        pass
    with pytest.raises(CannotAct, match="layers = 99"):
        attach(tiny_models.qwen2_5_vl(2), MiddleLayers(layers=(1, 99)))


@pytest.mark.parametrize("parameters", [{"alpha": -0.1}, {"layers": (0, 2)}, {"layers": (5, 3)}])
def test_wrong_parameters_are_refused(parameters):
    with pytest.raises(BadParameter):
        MiddleLayers(**parameters)
