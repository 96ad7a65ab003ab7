"""What docs/comparison.md says of this package is counted here."""

import re
from pathlib import Path

import pytest
import tiny
import torch
from stand_ins import Processor
from test_contract import IN_MODEL
from test_cost import split

from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods import METHODS
from vlm_anchors.models.families import FAMILIES

PAGE = (Path(__file__).parents[1] / "docs" / "comparison.md").read_text("utf-8")
ONE, TWO = (
    re.findall(r"`([a-z0-9=:-]+)`", part)
    for part in re.search(r"A decoding step of (.*?) is one .*?; one of (.*?) is two", PAGE, re.S).groups()
)


def row(name):
    return re.search(rf"^\| {name} \| (.*?) \|", PAGE, re.M)[1]


def test_methods_and_families_are_counted():
    assert int(row("methods")) == len(METHODS.names()) - 1, "none is no method"
    assert int(row("model families")) == sum(not family.refused for family in FAMILIES)


def test_every_method_is_in_one_of_the_lists_of_passes():
    named = {spec.partition(":")[0] for spec in ONE + TWO}
    assert named >= set(IN_MODEL) - {"opera", "dola"}


@pytest.mark.parametrize(("spec", "passes"), [*((one, 1) for one in ONE), *((two, 2) for two in TWO)])
def test_passes_of_a_decoding_step(spec, passes):
    method = METHODS.build(spec)
    if not method.hooks - {"prepare"}:
        return  # it changes the prompt alone
    model, seen = tiny.llava(), []
    count = model.get_decoder().register_forward_hook(lambda *_: seen.append(1))
    with count, torch.no_grad(), attach((model, Processor()), method):
        cache = model(**split(tiny.llava_batch(), 0), use_cache=True).past_key_values
        seen.clear()
        model(input_ids=torch.tensor([[9]]), past_key_values=cache)
    assert len(seen) == passes
