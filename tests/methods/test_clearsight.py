"""ClearSight: scaled keys equal scaled scores, head by head and row by row."""

import pytest
import torch
from cases import CASES, in_double, model_of, run
from reference_attention import Rows
from reference_clva import literal

from vlm_anchors.engine import attach
from vlm_anchors.errors import BadDial, CannotAct
from vlm_anchors.methods.clearsight import ClearSight
from vlm_anchors.methods.parts import scaled

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


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(
    "dials", [{}, {"negative": "raised"}, {"heads": "selected"}, {"enhance": 2.0, "suppress": 0.2}]
)
def test_equals_the_literal_reference(name, dials):
    case, model = CASES[name], model_of(name)
    method = ClearSight(**{"layers": (3, 6), "enhance": 1.5, "suppress": 0.5, **dials})
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
    assert handle.acted[0]["clearsight"]["layers"] == [scaled(10, 8), scaled(15, 8)] == [3, 4]
    assert handle.acted[0]["clearsight"]["visual_tokens"] == 64


def test_published_layers_in_other_depths():
    assert [scaled(layer, 32) for layer in (1, 10, 15, 32)] == [1, 10, 15, 32]
    assert [scaled(layer, 24) for layer in (1, 10, 15, 32)] == [1, 8, 11, 24]


@pytest.mark.parametrize("dials", [{"enhance": -1}, {"layers": (3, 2)}, {"heads": "some"}, {"spare": 0.5}])
def test_wrong_dials_are_refused(dials):
    with pytest.raises(BadDial):
        ClearSight(**dials)


def test_a_layer_the_model_lacks_is_refused():
    with pytest.raises(CannotAct, match="layers 1 to 8"):
        attach(model_of("llava"), ClearSight(layers=(10, 15)))
