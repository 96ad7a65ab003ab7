"""ClearSight: scaled keys equal scaled scores, head by head and row by row."""

import warnings

import pytest
import torch
from cases import CASES, in_double, model_of, run
from reference_attention import Rows
from reference_clva import literal

from vlm_anchors.errors import AnchorsWarning, BadParameter, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.clearsight import ClearSight
from vlm_anchors.methods.shared import scaled

BOUND = 1e-5


def vaf(enhance, suppress, raised=False, spare=None, heads=4, seen=None):
    """The edit of one row's scores; `seen` collects each layer's mass on the image before the edit."""

    def scores(z, reference, weights):
        size = z.abs() if raised else z
        new = z.clone()
        new[:, reference.visual] += (enhance - 1) * size[:, reference.visual]
        new[:, : reference.first] += (suppress - 1) * size[:, : reference.first]
        if spare is None:
            return new
        rows = sorted(reference.text)
        at = weights.shape[1]
        mass = torch.zeros(heads) if at == 1 else weights[:, rows][:, :, reference.visual].sum(-1).mean(1)
        if at == 1:
            mass = weights[:, 0, reference.visual].sum(-1)
        kept = set(mass.argsort().tolist()[spare : heads - spare])
        return torch.stack([new[h] if h in kept else z[h] for h in range(heads)])

    return scores


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(
    "parameters", [{}, {"negative": "raised"}, {"heads": "selected"}, {"enhance": 2.0, "suppress": 0.2}]
)
def test_equals_the_literal_reference(name, parameters):
    case, model = CASES[name], model_of(name)
    method = ClearSight(**{"layers": (3, 6), "enhance": 1.5, "suppress": 0.5, **parameters})
    batch = case.batch()
    with attach(model, method):
        fast, tokens = run(model, batch)
    plain, _ = run(model, batch, tokens)
    for sample in range(3):
        single = case.split(batch, sample)
        layout = case.layout(single)
        edit = vaf(
            method.enhance, method.suppress, method.negative == "raised", 1 if method.heads == "selected" else None
        )
        reference = Rows(layout.images, layout.text, range(3, 7), edit)
        with literal(model, reference, case.stack) as double:
            slow, _ = run(double, in_double(single), tokens[sample : sample + 1])
        worst = float((fast[:, sample].double() - slow[:, 0]).abs().max())
        assert worst < BOUND
        assert (fast[:, sample] - plain[:, sample]).abs().max() > 20 * worst


def test_acted_names_the_layers():
    model, batch = model_of("llava"), CASES["llava"].batch()
    with attach(model, ClearSight()) as handle:
        run(model, batch)
    assert handle.effects[0]["clearsight"]["layers"] == [scaled(10, 8), scaled(15, 8)] == [3, 4]
    assert handle.effects[0]["clearsight"]["visual_tokens"] == 64


def test_published_layers_in_other_depths():
    assert [scaled(layer, 32) for layer in (1, 10, 15, 32)] == [1, 10, 15, 32]
    assert [scaled(layer, 24) for layer in (1, 10, 15, 32)] == [1, 8, 11, 24]


@pytest.mark.parametrize(
    "parameters", [{"enhance": -1}, {"layers": (3, 2)}, {"heads": "some"}, {"heads": "selected", "spare": 0.5}]
)
def test_wrong_dials_are_refused(parameters):
    with pytest.raises(BadParameter):
        ClearSight(**parameters)


def test_spare_without_selected_heads_is_refused():
    with pytest.raises(BadParameter, match="heads='all' edits every one; found 0.3. Set heads='selected' as well"):
        ClearSight(spare=0.3)
    assert ClearSight(heads="selected", spare=0.3).disabled().disabled().spare == 0.3


@pytest.mark.parametrize("spare", [0.0, 0.24])
def test_selected_heads_of_which_none_is_left_out_are_refused(spare):
    """The tiny model has four heads."""
    method = ClearSight(heads="selected", spare=spare)
    with pytest.raises(
        CannotAct, match=f"leaves out no head of this model: spare = {spare:g} of 4 heads .* Set spare to 1/4"
    ):
        attach(model_of("llava"), method)
    with attach(model_of("llava"), method.disabled()):
        pass
    with attach(model_of("llava"), ClearSight(heads="selected", spare=0.25)):
        pass


def summary(name, method, batch=None):
    """What a run with the method warns of."""
    with warnings.catch_warnings(record=True) as caught, attach(model_of(name), method):
        warnings.simplefilter("always")
        run(model_of(name), CASES[name].batch() if batch is None else batch)
    return [str(one.message) for one in caught if issubclass(one.category, AnchorsWarning)]


def test_a_prompt_that_begins_with_its_image_has_nothing_to_suppress():
    """InstructBLIP's: only padding stands before the image, in the shorter prompts of a batch."""
    (found,) = summary("instructblip", ClearSight())
    assert found.startswith(
        "A prompt begins with its image, so clearsight's suppress = 0.95 finds no key before it. Put a"
    )
    (found,) = summary("instructblip", ClearSight(enhance=1.0, suppress=0.5))
    assert (
        "finds no key before it, and nothing is changed, as enhance is 1. Put a system prompt before the image" in found
    )
    assert not summary("instructblip", ClearSight(suppress=1.0))
    assert not summary("llava", ClearSight()) and not summary("qwen2.5-vl", ClearSight())


def test_such_a_prompt_is_indeed_not_changed():
    model, batch = model_of("instructblip"), CASES["instructblip"].batch()
    plain, tokens = run(model, batch)
    with attach(model, ClearSight(enhance=1.0, suppress=0.5)), pytest.warns(AnchorsWarning, match="nothing is changed"):
        steered, _ = run(model, batch, tokens)
    assert (plain - steered).abs().max() < BOUND


def test_a_layer_the_model_lacks_is_refused():
    with pytest.raises(CannotAct, match="layers 1 to 8"):
        attach(model_of("llava"), ClearSight(layers=(10, 15)))
