"""Methods in a list: each acts as it does alone where the other leaves off, and two that share a door are refused."""

import pytest
import torch
from cases import CASES, model_of, run, tokens_of
from stand_ins import Processor

from vlm_anchors.engine import attach
from vlm_anchors.errors import CannotAct
from vlm_anchors.methods.clearsight import ClearSight
from vlm_anchors.methods.clva import CLVA
from vlm_anchors.methods.deco import DeCo
from vlm_anchors.methods.memvr import MemVR
from vlm_anchors.methods.pai import PAI
from vlm_anchors.methods.parts import contrast
from vlm_anchors.methods.vcd import VCD

PAIRS = [
    [CLVA(tau=1.0), VCD()],
    [ClearSight(), DeCo(alpha=5.0)],
    [CLVA(tau=1.0), MemVR(gamma=0.5)],
    [PAI(gamma=1.0), VCD()],
]


def test_the_second_branch_runs_without_the_first_method():
    """CLVA + VCD: CLVA's logits in the first branch, the plain model's of the noised image in the second."""
    model, batch, vcd = model_of("llava"), CASES["llava"].batch(), VCD(beta=0.0)
    with attach(model, [CLVA(tau=1.0), vcd]) as handle:
        both, tokens = run(model, batch)
        assert [set(told) for told in handle.acted] == [{"clva", "vcd"}] * 3
        assert all(told["vcd"]["branch_passes"] == 5 and told["clva"]["rows_edited"] > 5 for told in handle.acted)
    with attach(model, CLVA(tau=1.0)):
        first, _ = run(model, batch, tokens)
    plain, _ = run(model, batch, tokens)
    with attach(model, vcd):
        alone, _ = run(model, batch, tokens)
    noised = 2 * plain - alone
    wanted = torch.stack([contrast(a, b, 1.0, 0.0) for a, b in zip(first, noised, strict=True)])
    assert (both - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("methods", PAIRS, ids=lambda pair: "+".join(type(one).__name__ for one in pair))
def test_pairs_keep_the_promises(methods):
    model, case = model_of("llava"), CASES["llava"]
    batch = case.batch()
    plain, _ = run(model, batch)
    with attach(model, methods):
        together, tokens = run(model, batch)
        beams = tokens_of(model, batch, num_beams=3)
        for sample in range(3):
            single = case.split(batch, sample)
            alone, _ = run(model, single, tokens[sample : sample + 1])
            seen = torch.isfinite(alone[:, 0])
            assert (together[:, sample] - alone[:, 0])[seen].abs().max() < 1e-5
            assert torch.equal(tokens_of(model, single, num_beams=3)[0], beams[sample])
    for method in methods:
        with attach(model, method):
            assert not torch.equal(run(model, batch, tokens)[0], together)
    with attach(model, [method.neutral() for method in methods]):
        assert torch.equal(run(model, batch)[0], plain)


@pytest.mark.parametrize("pair", [[CLVA(), ClearSight()], [VCD(), DeCo()], [CLVA(), PAI()]])
def test_one_door_is_opened_once(pair):
    with pytest.raises(CannotAct, match="cannot run together"):
        attach((model_of("llava"), Processor()), pair)


def test_two_places_of_one_model_are_refused():
    with pytest.raises(CannotAct, match="site='decoder'"):
        attach(model_of("instructblip"), [CLVA(), VCD()])
    with attach(model_of("instructblip"), [CLVA(site="decoder", tau=1.0), VCD()]) as handle:
        run(model_of("instructblip"), CASES["instructblip"].batch())
    assert set(handle.acted[0]) == {"clva", "vcd"}
