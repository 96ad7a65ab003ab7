"""The promises on every other decoder family, where a method runs with a warning or is refused at once. A minute long."""

import dataclasses
import warnings

import pytest
import tiny_families as tiny
import torch
from test_clva import steps_of
from test_contract import BOUND, IN_MODEL, method_of
from test_families import FAMILIES, model_of
from tiny_processors import stand_in

from vlm_anchors.errors import AnchorsWarning, CannotAct
from vlm_anchors.interventions.attachment import attach

pytestmark = pytest.mark.slow

ONE_READING = "pai, no branch"
METHODS = [*(name for name in IN_MODEL if name != "clva"), ONE_READING]
"""CLVA is compared with its reference on every family elsewhere."""
WORDS = {"qwen3-vl", "gemma3", "paligemma", "paligemma2"}  # the decoder is told of the image by more than embeddings
ELSEWHERE = {
    "icd": WORDS, "vista": WORDS,
    "imccd": set(FAMILIES) - {"llava", "qwen2.5-vl"},
    "sid": WORDS, "avisc": WORDS, "only": {"glm-4v", "gemma3", "paligemma", "paligemma2"},
}  # fmt: skip
REFUSED = {(name, family) for name, families in ELSEWHERE.items() for family in families}
"""What does not run, and is told so when it is attached. Everything else must run to the end."""


# The tiny Gemma 3's tokens do not depend on its pixels, so there VCD has nothing to take off.


def elsewhere(name):
    return type(method_of(name)).elsewhere


def built(name, family):
    if name == ONE_READING:
        return dataclasses.replace(method_of("pai", family), gamma=1.0)
    return method_of(name, family)


def steered(family, method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnchorsWarning)
        return attach((model_of(family), stand_in(family)), method)


def test_the_table_of_refusals_speaks_of_methods_and_families_there_are():
    assert {name for name, _ in REFUSED} <= set(METHODS) and {family for _, family in REFUSED} < set(FAMILIES)
    assert {name for name, _ in REFUSED} == {
        one for one in METHODS if one != ONE_READING and elsewhere(one) == "refused"
    }


@pytest.mark.parametrize(("name", "family"), sorted(REFUSED))
def test_is_refused_when_it_is_attached(name, family):
    model = model_of(family)
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]
    with pytest.raises(
        CannotAct, match=f"{name} (reads the prompt twice|makes its extra .*), which is tested on llava, .* it is not"
    ):
        steered(family, built(name, family))
    assert hooks == [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]


@pytest.mark.parametrize(
    ("name", "family"), [(name, family) for name in METHODS for family in FAMILIES if (name, family) not in REFUSED]
)
def test_runs_as_promised(name, family):
    model = model_of(family)
    prompts = tiny.prompts(tiny.FAMILIES[family], [".i.", "..i.", "i."], 0)
    batch = tiny.batch(tiny.FAMILIES[family], prompts)
    plain, tokens = steps_of(model, batch)
    with steered(family, built(name, family).disabled()):
        same, _ = steps_of(model, batch)
    assert torch.equal(plain, same)
    with steered(family, built(name, family)):
        together, tokens = steps_of(model, batch)
        for sample, prompt in enumerate(prompts):
            alone, _ = steps_of(model, tiny.batch(tiny.FAMILIES[family], [prompt]), tokens[sample : sample + 1])
            seen = torch.isfinite(alone[:, 0])
            assert torch.equal(torch.isfinite(together[:, sample]), seen)
            assert (together[:, sample] - alone[:, 0])[seen].abs().max() < BOUND
            changed = (together[0, sample] - plain[0, sample])[seen[0]].abs().max() > 10 * BOUND
            assert changed or (name, family) == ("vcd", "gemma3"), "nothing was changed"
    after, _ = steps_of(model, batch)
    assert torch.equal(plain, after)
