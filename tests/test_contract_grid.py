"""The promises on every other decoder family, where a method runs with a warning or refuses with a reason. Minutes long."""

import contextlib
import warnings

import pytest
import tiny_families as tiny
import torch
from test_clva import steps_of
from test_contract import BOUND, IN_MODEL, method_of
from test_families import FAMILIES, model_of
from tiny_processors import stand_in

from vlm_anchors.engine import attach
from vlm_anchors.errors import AnchorsWarning, CannotAct

METHODS = [name for name in IN_MODEL if name != "clva"]
"""CLVA is compared with its reference on every family elsewhere."""


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_runs_as_promised_or_says_why_not(name, family):
    built, model = tiny.FAMILIES[family], model_of(family)
    prompts = tiny.prompts(built, [".i.", "..i.", "i."], 0)
    batch = tiny.batch(built, prompts)
    plain, tokens = steps_of(model, batch)

    def steered(method):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AnchorsWarning)
            return attach((model, stand_in(family)), method)

    with contextlib.suppress(CannotAct):  # with a reason: those sentences have tests of their own
        with steered(method_of(name).neutral()):
            same, _ = steps_of(model, batch)
        assert torch.equal(plain, same)
        with steered(method_of(name, family)):
            together, tokens = steps_of(model, batch)
            for sample, prompt in enumerate(prompts):
                alone, _ = steps_of(model, tiny.batch(built, [prompt]), tokens[sample : sample + 1])
                seen = torch.isfinite(alone[:, 0])
                assert torch.equal(torch.isfinite(together[:, sample]), seen)
                assert (together[:, sample] - alone[:, 0])[seen].abs().max() < BOUND
    after, _ = steps_of(model, batch)
    assert torch.equal(plain, after)
