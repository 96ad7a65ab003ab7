"""The promises of every registered method: off equals plain, no trace is left, order and batch do not matter.

Each test takes every method on one of the families, another family in each test; all pairs are slow (`make test-all`),
and of the methods `make test` takes a quarter, other ones in each test (`grids.py`).
A new method joins by its line in the catalogue. Where its defaults say nothing on tiny models, `SHARP` has stronger ones.
"""

import dataclasses
import warnings

import pytest
import torch
from cases import CASES, beams, covering, model_of, run, tokens_of
from stand_ins import Processor

from vlm_anchors.errors import AnchorsWarning
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods import METHODS, imccd

SHARP = {
    "clva": {"tau": 1.0},
    "clearsight": {"enhance": 1.5, "suppress": 0.5},
    "pai": {"alpha": 0.5, "gamma": 1.5},
    "memvr": {"gamma": 0.5},
    "deco": {"alpha": 20.0},
    "m3id": {"rate": 0.1, "cut": 1.0},
    ("imccd", "qwen2.5-vl"): {"rate": 1.0},
}
BOUND = 1e-5
IN_MODEL = [entry.name for entry in METHODS if entry.load().hooks - {"prepare"}]
"""Methods that only prepare inputs have tests of their own."""


def method_of(name, case="llava"):
    return METHODS.get(name).load()(**{**SHARP.get(name, {}), **SHARP.get((name, case), {})})


def steered(name, case, method=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnchorsWarning)
        return attach((model_of(case), Processor()), method or method_of(name, case))


def hooks_of(model):
    return [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]


@pytest.mark.grid
@covering(IN_MODEL, 0)
def test_off_equals_plain(name, case):
    model, batch = model_of(case), CASES[case].batch()
    plain, tokens = run(model, batch)
    method = method_of(name)
    assert method.disabled().disabled() == method.disabled()
    with steered(name, case, method.disabled()):
        again, same = run(model, batch)
    assert torch.equal(plain, again) and torch.equal(tokens, same)


@pytest.mark.grid
@covering(IN_MODEL, 1)
def test_acts_and_leaves_no_trace(name, case):
    model, batch = model_of(case), CASES[case].batch()
    before, tokens = run(model, batch)
    config, hooks, held = str(model.config), hooks_of(model), set(vars(model))
    with steered(name, case) as handle:
        during, _ = run(model, batch, tokens)
        assert len(handle.effects) == 3 and all(name in summary for summary in handle.effects)
    after, _ = run(model, batch)
    assert not torch.equal(before, during)
    assert torch.equal(before, after)
    assert (str(model.config), hooks_of(model), set(vars(model))) == (config, hooks, held)


@pytest.mark.grid
@covering(IN_MODEL, 2)
def test_leaves_no_trace_after_an_exception(name, case):
    model, batch = model_of(case), CASES[case].batch()
    before, _ = run(model, batch)
    hooks = hooks_of(model)
    with pytest.raises(RuntimeError, match="stop"), steered(name, case):
        run(model, batch)
        raise RuntimeError("stop")
    after, _ = run(model, batch)
    assert torch.equal(before, after) and hooks_of(model) == hooks


@pytest.mark.grid
@covering(IN_MODEL, 3)
def test_order_does_not_matter(name, case):
    model, first, second = model_of(case), CASES[case].batch(1), CASES[case].batch(2)
    with steered(name, case):
        alone, _ = run(model, second)
    with steered(name, case):
        run(model, first)
        after, _ = run(model, second)
    assert torch.equal(alone, after)


@pytest.mark.grid
@covering(IN_MODEL, 4)
def test_batch_equals_one_by_one(name, case):
    model, batch = model_of(case), CASES[case].batch()
    with steered(name, case):
        together, tokens = run(model, batch)
        for sample in range(3):
            alone, _ = run(model, CASES[case].split(batch, sample), tokens[sample : sample + 1])
            seen = torch.isfinite(alone[:, 0])
            assert torch.equal(torch.isfinite(together[:, sample]), seen)
            assert (together[:, sample] - alone[:, 0])[seen].abs().max() < BOUND


@pytest.mark.grid
@covering(IN_MODEL, 5)
def test_beams_equal_one_by_one(name, case):
    model, batch = model_of(case), CASES[case].batch()
    with steered(name, case) as handle:
        together = tokens_of(model, batch, num_beams=3)
        assert len(handle.effects) in (3, 9), "a Q-Former reads each image once, a decoder once a beam"
        for sample in range(3):
            alone = tokens_of(model, CASES[case].split(batch, sample), num_beams=3)
            assert torch.equal(alone[0], together[sample])


@pytest.mark.grid
@covering([*IN_MODEL, "imccd, gated"], 7, every=3)
def test_a_beam_is_steered_by_its_own_past(name, case, monkeypatch):
    """A beam that changed places at every step has the logits of a run that was made to say its tokens."""
    monkeypatch.setattr(imccd, "WINDOW", 2)
    method = method_of(name.partition(",")[0], case)
    if "gated" in name:
        method = dataclasses.replace(method, gate="weights", window="last", alpha=3.0)
    model, batch = model_of(case), CASES[case].batch()
    gated, moved = [], 0
    for sample in range(3):
        single = CASES[case].split(batch, sample)
        with steered(name, case, method) as handle:
            tokens, logits, rows = beams(model, single)
            for own, chosen in zip(tokens, logits, strict=True):
                alone, _ = run(model, single, own[None])
                seen = torch.isfinite(alone[:, 0])
                assert torch.equal(torch.isfinite(chosen), seen)
                assert (chosen - alone[:, 0])[seen].abs().max() < BOUND
                gated += [summary["imccd"]["gated"] for summary in handle.effects if "gated" in name]
        moved += sum(len(set(row)) > 1 for row in rows)
    assert moved, "no beam ever left its row"
    assert "gated" not in name or 0 < sum(gated)


@pytest.mark.grid
@covering(IN_MODEL, 6)
def test_nucleus_repeats_with_its_seed(name, case):
    model, batch = model_of(case), CASES[case].batch()
    found = []
    with steered(name, case):
        for _ in range(2):
            torch.manual_seed(3)
            found.append(run(model, batch, do_sample=True, top_p=0.9, top_k=0))
    (logits, tokens), (again, same) = found
    assert torch.equal(tokens, same) and torch.equal(logits, again)
    plain, _ = run(model, batch, tokens)
    assert not torch.allclose(logits, plain, atol=1e-6), "it acts"


@pytest.mark.parametrize("name", IN_MODEL)
def test_says_what_it_is(name):
    entry = METHODS.get(name)
    cls = entry.load()
    assert cls.__module__.endswith(name.replace("-", "_"))
    assert METHODS.build(cls().spec()) == cls()
    assert METHODS.build(method_of(name).spec()) == method_of(name)
    assert cls.__doc__ and entry.source.startswith("arXiv")
