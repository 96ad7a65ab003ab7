"""The contrastive branch: its cache follows the first in everything `generate` does, and nothing of it stays behind."""

import copy
import itertools
from dataclasses import replace

import pytest
import tiny
import torch
from cases import CASES, model_of, run, tokens_of
from transformers import DynamicCache

from vlm_anchors.errors import AnchorsWarning, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.interventions.branch.contrastive import FollowedCache
from vlm_anchors.methods.deco import DeCo
from vlm_anchors.methods.imccd import IMCCD
from vlm_anchors.methods.memvr import MemVR
from vlm_anchors.methods.pai import PAI
from vlm_anchors.methods.vcd import VCD
from vlm_anchors.methods.vista import VISTA

BRANCHED = [VCD(beta=0.0), PAI(alpha=0.0, gamma=1.5, cut=0.0)]
"""Branches alone: what edits attention knows its visual keys by prompt, and beams of one prompt share them."""


def prefilled(model, batch, **more):
    cache = DynamicCache(config=model.config)
    return model(**batch, past_key_values=cache, **more).past_key_values


def step(model, cache, tokens, mask):
    mask = torch.cat([mask, torch.ones_like(tokens)], 1)
    position = mask.sum(1, keepdim=True) - 1
    return model(input_ids=tokens, attention_mask=mask, position_ids=position, past_key_values=cache).logits[
        :, -1
    ], mask


def start(model, batch):
    position = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return prefilled(model, batch, position_ids=position)


@pytest.mark.grid
@pytest.mark.parametrize("method", BRANCHED, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("change", ["reorder_cache", "batch_select_indices", "batch_repeat_interleave", "crop", "copy"])
@torch.no_grad()
def test_the_twin_follows(method, change):
    """Two steps with the change between them equal two steps of a batch that was so from the start."""
    model, case = model_of("llava"), CASES["llava"]
    batch, order = case.batch(), torch.tensor([2, 0, 0])
    first, second = torch.tensor([[11], [12], [13]]), torch.tensor([[21], [22], [23]])

    def rows(tensor):
        if change == "batch_repeat_interleave":
            return tensor.repeat_interleave(2, 0)
        return tensor[order] if change in ("reorder_cache", "batch_select_indices") else tensor

    with attach(model, method):
        cache = start(model, batch)
        assert isinstance(cache, FollowedCache) and isinstance(cache, DynamicCache)
        _, mask = step(model, cache, first, batch["attention_mask"])
        if change == "crop":
            step(model, cache, torch.tensor([[5], [6], [7]]), mask)
            cache.crop(-1)
        elif change == "copy":
            other = copy.deepcopy(cache)
            step(model, cache, torch.tensor([[5], [6], [7]]), mask)
            cache = other
        else:
            getattr(cache, change)(2 if change == "batch_repeat_interleave" else order)
        found, _ = step(model, cache, rows(second), rows(mask))
        again = {name: rows(value) for name, value in batch.items()}
        cache = start(model, again)
        _, mask = step(model, cache, rows(first), again["attention_mask"])
        wanted, _ = step(model, cache, rows(second), mask)
    assert (found - wanted).abs().max() < 1e-5


@torch.no_grad()
def test_nothing_rides_on_the_cache_after_the_block():
    model, batch = model_of("llava"), CASES["llava"].batch()
    with attach(model, VCD()):
        cache = start(model, batch)
    assert type(cache) is DynamicCache and not hasattr(cache, "_vlm_anchors")
    mask, tokens = batch["attention_mask"], torch.tensor([[11], [12], [13]])
    found, _ = step(model, cache, tokens, mask)
    wanted, _ = step(model, start(model, batch), tokens, mask)
    assert torch.equal(found, wanted)


def rows_read(model, batch, method):
    """How many tokens each pass of the decoder reads, and the logits."""
    read = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, arguments: read.append(arguments["inputs_embeds"].shape[1]), with_kwargs=True
    )
    with attach(model, method), torch.no_grad():
        logits = model(**batch).logits[:, -1]
    hook.remove()
    return read, logits


def test_a_branch_that_only_edits_attention_reads_the_text_alone():
    model, batch = model_of("llava"), CASES["llava"].batch()
    length = batch["input_ids"].shape[1]
    text = length - min(row.index(tiny.IMAGE) + row.count(tiny.IMAGE) for row in batch["input_ids"].tolist())
    assert rows_read(model, batch, IMCCD(beta=0.0))[0] == [length, text]


def test_a_branch_is_not_edited_by_the_methods_beside_it():
    """MemVR changes the first branch's MLPs in all rows: the second reads the whole prompt, and as without MemVR."""
    model, batch = model_of("llava"), CASES["llava"].batch()
    length = batch["input_ids"].shape[1]
    memvr, imccd = MemVR(gamma=0.0, alpha=0.5), IMCCD(alpha=1.0, beta=0.0)
    read, both = rows_read(model, batch, [memvr, imccd])
    assert read == [length, length]
    _, first = rows_read(model, batch, [memvr, replace(imccd, alpha=0.0, rate=1 / 3)])
    _, alone = rows_read(model, batch, imccd)
    _, unmixed = rows_read(model, batch, replace(imccd, alpha=0.0))
    second = 2 * unmixed - alone
    assert (both - (2 * first - second)).abs().max() < 1e-4
    assert (first - unmixed).abs().max() > 1e-2


def test_rope_deltas_stay_the_first_branch_s():
    model, batch = model_of("qwen2.5-vl"), CASES["qwen2.5-vl"].batch()
    tokens_of(model, batch)
    wanted = model.model.rope_deltas.clone()
    for method in BRANCHED:
        with attach(model, method):
            tokens_of(model, batch)
            assert torch.equal(model.model.rope_deltas, wanted)


def test_two_generations_do_not_meet():
    model, case = model_of("llava"), CASES["llava"]
    with attach(model, VCD(beta=0.0)), torch.no_grad():
        batches = [case.batch(1), case.batch(2)]
        token = torch.tensor([[11], [12], [13]])
        alone = [step(model, start(model, batch), token, batch["attention_mask"])[0] for batch in batches]
        caches = [start(model, batch) for batch in batches]
        inserted = [step(model, c, token, batch["attention_mask"])[0] for c, batch in zip(caches, batches, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(alone, inserted, strict=True))


@pytest.mark.grid
@pytest.mark.parametrize(
    "method",
    [*BRANCHED, IMCCD(), IMCCD(gate="weights", window="last"), DeCo(alpha=5.0), VISTA(), MemVR(gamma=0.5)],
    ids=lambda method: method.spec(),
)
def test_static_cache_equals_dynamic(method):
    model, batch = model_of("llava"), CASES["llava"].batch()
    with attach(model, method):
        dynamic, tokens = run(model, batch)
        for _ in range(2):
            static, _ = run(model, batch, tokens, cache_implementation="static", disable_compile=True)
            seen = torch.isfinite(dynamic)
            assert torch.equal(torch.isfinite(static), seen)
            assert (dynamic - static)[seen].abs().max() < 1e-5
    plain, _ = run(model, batch, tokens)
    moved = (dynamic - plain).masked_fill(~seen, 0).abs()
    assert moved.amax(-1).min() > 1e-3, "a step of some sample was left as it was"


def test_several_return_sequences():
    model, batch = model_of("llava"), CASES["llava"].batch()
    with attach(model, VCD()) as handle:
        out = tokens_of(model, batch, do_sample=True, num_return_sequences=2)
    assert len(out) == len(handle.effects) == 6


@pytest.mark.parametrize("method", [VCD(), DeCo(), MemVR(), VISTA()], ids=lambda method: type(method).__name__)
def test_what_has_no_next_token_is_refused(method):
    model, single = model_of("llava"), CASES["llava"].split(CASES["llava"].batch(), 2)
    with attach(model, method):
        with pytest.raises(CannotAct, match="labels"):
            model(**single, labels=single["input_ids"])
        repeating = {**single, "input_ids": single["input_ids"].clone()}
        repeating["input_ids"][0, -4:] = repeating["input_ids"][0, 1:5]
        with pytest.raises(CannotAct, match="speculative"):
            tokens_of(model, repeating, prompt_lookup_num_tokens=3)
        padded = {**single, "attention_mask": single["attention_mask"].clone()}
        padded["attention_mask"][:, -1] = 0
        with pytest.raises(CannotAct, match="padded on the right"):
            model(**padded)


def cut(single, *ends):
    """The sample's token ids, cut at these places."""
    return [single["input_ids"][:, begin:end] for begin, end in itertools.pairwise((0, *ends, None))]


def image_of(single):
    """First visual token, and the token after the last one."""
    at = (single["input_ids"][0] == tiny.IMAGE).nonzero()
    return int(at.min()), int(at.max()) + 1


@pytest.mark.parametrize("method", [VCD(beta=0.0), PAI(gamma=1.5, cut=0.0)], ids=lambda method: type(method).__name__)
@torch.no_grad()
def test_a_prompt_whose_image_came_before_its_text_is_read_again_whole(method):
    model, single = model_of("llava"), CASES["llava"].split(CASES["llava"].batch(), 2)
    prefix, text = cut(single, image_of(single)[1])
    with attach(model, method):
        wanted = model(**single).logits[:, -1]
        cache = prefilled(model, {"input_ids": prefix, "pixel_values": single["pixel_values"]})
        found = model(input_ids=text, past_key_values=cache).logits[:, -1]
    assert (found - wanted).abs().max() < 1e-5


@torch.no_grad()
def test_a_prompt_in_more_pieces_is_refused():
    model, single = model_of("llava"), CASES["llava"].split(CASES["llava"].batch(), 2)
    system, image, text = cut(single, *image_of(single))
    with attach(model, PAI(gamma=1.5)), pytest.raises(CannotAct, match="in pieces"):
        cache = prefilled(model, {"input_ids": system})
        model(input_ids=image, pixel_values=single["pixel_values"], past_key_values=cache)
        model(input_ids=text, past_key_values=cache)


@torch.no_grad()
def test_a_branch_that_edits_text_rows_needs_the_prompt_in_one_piece():
    model, single = model_of("llava"), CASES["llava"].split(CASES["llava"].batch(), 2)
    end = image_of(single)[1]
    with attach(model, IMCCD()), pytest.raises(CannotAct, match="in two pieces"):
        cache = prefilled(model, {"input_ids": single["input_ids"][:, :end], "pixel_values": single["pixel_values"]})
        model(input_ids=single["input_ids"][:, end:], past_key_values=cache)


@torch.no_grad()
def test_rows_chosen_after_the_prompt_are_refused_where_visual_tokens_would_stay_behind():
    model, batch = model_of("llava"), CASES["llava"].batch()
    with attach(model, PAI(gamma=1.0)):
        cache = start(model, batch)
        cache.batch_select_indices(torch.tensor([2, 0]))
        with pytest.raises(CannotAct, match="visual tokens of 3 prompts, but the cache now holds 2 rows"):
            step(model, cache, torch.tensor([[11], [12]]), batch["attention_mask"][[2, 0]])


def test_families_without_a_test_warn_or_are_refused():
    import tiny_models

    model = tiny_models.paligemma()
    for method in (DeCo(), VCD()):
        with pytest.warns(AnchorsWarning, match=f"{method.spec()} is tested on"), attach(model, method):
            pass
    with pytest.raises(CannotAct, match="reads the prompt twice"):
        attach(model, VISTA())
    with attach(tiny_models.internvl(), VCD()):
        pass


def test_a_model_without_a_head_is_refused():
    with pytest.raises(CannotAct, match="language modelling head"):
        attach(model_of("llava").model, DeCo())


def test_a_copied_model_is_plain():
    model, batch = model_of("llava"), CASES["llava"].batch()
    plain, _ = run(model, batch)
    with attach(model, VCD()):
        contrastive_branch = copy.deepcopy(model)
        assert torch.equal(run(contrastive_branch, batch)[0], plain)
