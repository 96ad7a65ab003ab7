"""What a method says it did is counted where it is done: with the edit switched off, every count is zero. And dtypes."""

import warnings

import pytest
import tiny
import torch
from stand_ins import Processor
from test_contract import IN_MODEL, method_of

import vlm_anchors as va
from vlm_anchors.errors import CannotAct

COUNTS = (
    "rows_edited",
    "steps",
    "contrasted",
    "branch_passes",
    "corrected",
    "triggers",
    "steered",
    "mixed",
    "added",
    "gated",
)
every_method = pytest.mark.parametrize("name", IN_MODEL)


@torch.no_grad()
def run(model, method, batch=None):
    """Logits of the prompt, and what the method says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with va.attach((model, Processor()), method) as handle:
            return model(**(batch or tiny.llava_batch())).logits[:, -1], handle.effects


@pytest.mark.grid
@every_method
def test_an_edit_that_is_switched_off_counts_nothing(name, monkeypatch):
    method, model = method_of(name), tiny.llava()
    _, acting = run(model, method)
    assert any(acting[0][name].get(count) for count in COUNTS), "nothing to switch off"
    kind = type(method)
    monkeypatch.setattr(kind, "attention", lambda self, view: None)
    monkeypatch.setattr(kind, "branch", lambda self, prompt: None)
    monkeypatch.setattr(kind, "mlp", lambda self, view, layer, mlp_input, output: None)
    monkeypatch.setattr(kind, "lm_head", lambda self, view, last: None)
    monkeypatch.setattr(kind, "logits", lambda self, view, first, second: first)
    _, effects = run(model, method)
    for one in effects:
        assert not {count: one[name][count] for count in COUNTS if one[name].get(count)}


@pytest.mark.grid
@every_method
def test_torchs_default_dtype_changes_nothing(name):
    model, method, batch = tiny.llava(), method_of(name), tiny.llava_batch()
    wanted, _ = run(model, method, batch)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found, _ = run(model, method, batch)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, wanted)


@pytest.mark.grid
@every_method
def test_under_autocast(name):
    """Off is the plain model bit for bit, and the method's own change is that of float32 up to the model's rounding."""
    model, method = tiny.llava(), method_of(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, _ = run(model, "none")
        off, _ = run(model, method.disabled())
        acting, effects = run(model, method)
    assert torch.equal(off, plain)
    assert not torch.equal(acting, plain) and bool(torch.isfinite(acting).any())
    assert any(effects[0][name].get(count) for count in COUNTS)


def test_continuous_batching_is_refused():
    model = tiny.llava()
    model.get_decoder().config._attn_implementation_internal = "paged|sdpa"
    with pytest.raises(CannotAct, match="continuous batching"):
        run(model, "clva")
