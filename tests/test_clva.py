"""CLVA's fast path against its literal reference, and the promises every method makes, on LLaVA."""

import pytest
import tiny
import torch
from reference_clva import Literal, literal

from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.clva import CLVA

STEPS = 5
BOUND = {torch.float32: 1e-6, torch.bfloat16: 6e-2}


def split(batch, sample):
    """One sample of a batch, unpadded."""
    real = batch["attention_mask"][sample].bool()
    images = len(batch["pixel_values"]) // len(real_rows := batch["input_ids"])
    assert len(real_rows) == len(batch["attention_mask"])
    return {
        "input_ids": batch["input_ids"][sample][real][None],
        "attention_mask": torch.ones(1, int(real.sum()), dtype=torch.long),
        "pixel_values": batch["pixel_values"][sample * images : (sample + 1) * images],
    }


def reference_for(single, depth, **parameters):
    ids = single["input_ids"][0].tolist()
    visual = [i for i, token in enumerate(ids) if token == tiny.IMAGE]
    count = len(visual) // len(single["pixel_values"])
    images = [visual[k * count : (k + 1) * count] for k in range(len(single["pixel_values"]))]
    text = [i for i in range(len(ids)) if i > visual[0] and i not in set(visual)]
    return Literal(images, text, text[-1], depth, **parameters)


def forced(tokens):
    """A logits processor that chooses the given tokens, so that two runs see the same prefix."""

    def process(ids, scores):
        step = ids.shape[1] - process.start
        return torch.full_like(scores, -1e9).scatter(1, tokens[:, step : step + 1], 0.0)

    return process


def steps_of(model, inputs, tokens=None):
    """Raw logits of prefill and STEPS steps, (steps + 1, b, vocabulary), and the tokens chosen."""
    extra = {}
    if tokens is not None:
        process = forced(tokens)
        process.start = inputs["input_ids"].shape[1]
        extra["logits_processor"] = [process]
    out = model.generate(
        **inputs, max_new_tokens=STEPS + 1, min_new_tokens=STEPS + 1, do_sample=False, output_logits=True,
        return_dict_in_generate=True, **extra,
    )  # fmt: skip
    return torch.stack(out.logits), out.sequences[:, inputs["input_ids"].shape[1] :]


def compare(model, batch, method, bound, **parameters):
    """Largest difference between the batched fast path and the literal reference over samples whose decisions are clear."""
    depth = model.config.get_text_config().num_hidden_layers
    with attach(model, method) as handle:
        fast, tokens = steps_of(model, batch)
    worst, left_out, moved = 0.0, 0, 0.0
    plain, _ = steps_of(model, batch, tokens)
    for sample in range(len(batch["input_ids"])):
        single = split(batch, sample)
        reference = reference_for(single, depth, **parameters)
        with literal(model, reference) as double:
            single["pixel_values"] = single["pixel_values"].double()
            slow, _ = steps_of(double, single, tokens[sample : sample + 1])
        if reference.near:
            left_out += 1
            continue
        summary = handle.effects[sample]["clva"]
        for sign, name, parameter in (("+", "sensitive_heads", method.alpha), ("-", "insensitive_heads", method.beta)):
            if parameter and method.gain == "anchors":
                assert summary[name]["heads"] == reference.picked[sign]
        worst = max(worst, float((fast[:, sample].double() - slow[:, 0].double()).abs().max()))
        moved = max(moved, float((plain[:, sample] - fast[:, sample]).abs().max()))
    assert worst < bound, worst
    assert moved > 100 * worst, "the method changed nothing that the bound could see"
    return left_out


CASES = {
    "defaults": {},
    "positive only": {"alpha": 5.0, "beta": 0.0},
    "negative only": {"alpha": 0.0},
    "visual mass kept": {"normalise": "visual"},
    "lower tau": {"tau": 1.0},
    "signs reversed, sizes kept": {"alpha": -14.0, "beta": -0.9},
    "signs reversed, sizes swapped": {"alpha": -0.9, "beta": -14.0},
    "a factor below zero": {"beta": 3.0, "tau": 1.0},
    "an empty set skipped": {"lam": 1.2, "empty": "skip"},
    "all heads": {"heads": "all"},
    "heads by concentration": {"heads": "concentration"},
    "every head's own anchors, averaged (Eq. 15)": {"gain": "average"},
    "anchors of the prompt for the whole answer": {"refresh": "prompt"},
    "other layers": {"l_pos": 4, "l_neg": 2, "edited": range(6, 8)},
}
PARAMETERS = {"l_pos": "positive_layer", "l_neg": "negative_layer", "edited": "layers", "score": "images"}


def method_of(parameters):
    """CLVA with the reference's parameters under their own names."""
    own = {PARAMETERS.get(name, name): value for name, value in parameters.items()}
    if "layers" in own:
        own["layers"] = (own["layers"].start, own["layers"].stop - 1)
    return CLVA(**own)


@pytest.mark.grid
@pytest.mark.parametrize("kv_heads", [None, 2])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_literal_reference(kv_heads, case):
    model = tiny.llava(kv_heads=kv_heads)
    assert compare(model, tiny.llava_batch(), method_of(CASES[case]), BOUND[torch.float32], **CASES[case]) == 0


def test_several_images_may_be_scored_together():
    batch = tiny.llava_batch(texts=((5, 2), (3, 3), (7, 4)), images=2)
    assert compare(tiny.llava(), batch, CLVA(images="all"), 1e-6, score="all") <= 1


def test_several_images_are_scored_each_by_itself():
    model = tiny.llava()
    batch = tiny.llava_batch(texts=((5, 2), (3, 3), (7, 4)), images=2)
    assert compare(model, batch, CLVA(), 1e-6) <= 1
    with attach(model, CLVA()) as handle, torch.no_grad():
        model(**batch)
    assert [len(summary["clva"]["anchors"]["positive"]) for summary in handle.effects] == [2, 2, 2]


def test_bfloat16_stays_within_its_own_noise():
    """In bfloat16 the plain model itself is this far from double precision; the bound is that noise, not CLVA's."""
    model = tiny.llava().bfloat16()
    batch = tiny.llava_batch(texts=((5, 0),))
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    method = CLVA(tau=2.0)
    with attach(model, method) as handle, torch.no_grad():
        fast = model(**batch).logits[0, -1].double()
    reference = reference_for(split(batch, 0), 8)
    with literal(model, reference) as double, torch.no_grad():
        batch["pixel_values"] = batch["pixel_values"].double()
        slow = double(**batch).logits[0, -1]
    found = handle.effects[0]["clva"]["anchors"]
    # With this seed rounding flips no anchor; where it did, the two would be different computations.
    assert [found["positive"][0], found["negative"][0]] == [reference.counts["+"], reference.counts["-"]]
    assert (fast - slow).abs().max() < BOUND[torch.bfloat16]


@pytest.mark.parametrize("method", [CLVA(alpha=0.0, beta=0.0), CLVA().disabled()])
def test_zero_equals_plain(method):
    model, batch = tiny.llava(), tiny.llava_batch()
    plain, tokens = steps_of(model, batch)
    with attach(model, method):
        again, same = steps_of(model, batch)
    assert torch.equal(plain, again) and torch.equal(tokens, same)


def test_leaves_no_trace_also_after_an_exception():
    model, batch = tiny.llava(), tiny.llava_batch()
    before, _ = steps_of(model, batch)
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
    with pytest.raises(RuntimeError, match="stop"), attach(model, CLVA()):
        model(**batch)
        raise RuntimeError("stop")
    after, _ = steps_of(model, batch)
    assert torch.equal(before, after)
    assert model.config.text_config._attn_implementation == "sdpa"
    assert hooks == sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def test_batch_equals_one_by_one_left_padded():
    model, batch = tiny.llava(), tiny.llava_batch()
    with attach(model, CLVA()):
        together, tokens = steps_of(model, batch)
        for sample in range(3):
            alone, _ = steps_of(model, split(batch, sample), tokens[sample : sample + 1])
            assert (together[:, sample] - alone[:, 0]).abs().max() < 1e-6


def test_order_does_not_matter():
    model, first, second = tiny.llava(), tiny.llava_batch(seed=1), tiny.llava_batch(seed=2)
    with attach(model, CLVA()):
        alone, _ = steps_of(model, second)
    with attach(model, CLVA()):
        steps_of(model, first)
        after, _ = steps_of(model, second)
    assert torch.equal(alone, after)


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_the_vectorised_literal_form_is_the_same_computation(kv_heads):
    """The form that benchmarks compare with: full matrices, multiplied and normalised again."""
    model, batch = tiny.llava(kv_heads=kv_heads), tiny.llava_batch()
    with attach(model, CLVA()):
        fast, tokens = steps_of(model, batch)
    with attach(model, CLVA(), literal=True):
        slow, same = steps_of(model, batch)
    assert torch.equal(tokens, same)
    assert (fast - slow).abs().max() < 1e-6
