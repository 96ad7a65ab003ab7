"""What only a card can show. Marked gpu; skipped, with the reason, where there is none."""

import copy

import pytest
import tiny
import torch

from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.clva import CLVA

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_card(batch, dtype=torch.float32):
    return {name: t.cuda().to(dtype) if t.is_floating_point() else t.cuda() for name, t in batch.items()}


def run(model, batch):
    out = model.generate(
        **batch, max_new_tokens=6, min_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    return torch.stack(out.logits).float().cpu(), out.sequences[:, batch["input_ids"].shape[1] :].cpu()


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_cuda_equals_cpu(kv_heads):
    model, batch = tiny.llava(kv_heads=kv_heads), tiny.llava_batch()
    with attach(model, CLVA()):
        wanted, tokens = run(model, batch)
    card = copy.deepcopy(model).cuda()
    with attach(card, CLVA()):
        found, same = run(card, on_card(batch))
    assert torch.equal(tokens, same)
    assert (found - wanted).abs().max() < 1e-4


def test_half_precision_acts_and_stays_near():
    model, batch = tiny.llava(), tiny.llava_batch()
    card = copy.deepcopy(model).cuda().bfloat16()
    plain, _ = run(card, on_card(batch, torch.bfloat16))
    with attach(card, CLVA()) as handle:
        found, _ = run(card, on_card(batch, torch.bfloat16))
    assert not torch.equal(plain, found)
    assert all(sum(summary["clva"]["anchors"]["positive"]) for summary in handle.effects)


def test_no_host_synchronisation_in_a_decoding_step():
    """A sync in each step would stop the host from running ahead of the card."""
    model, batch = tiny.llava().cuda(), on_card(tiny.llava_batch())
    with attach(model, CLVA()), torch.no_grad():
        cache = model(**batch, use_cache=True).past_key_values
        step = {"input_ids": torch.full((3, 1), 9, device="cuda"), "past_key_values": cache}
        mask = torch.nn.functional.pad(batch["attention_mask"], (0, 1), value=1)
        positions = mask.sum(1, keepdim=True) - 1
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(**step, attention_mask=mask, position_ids=positions)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_compiled_static_cache():
    model, batch = tiny.llava(layers=6).cuda(), on_card(tiny.llava_batch())
    with attach(model, CLVA()):
        _, wanted = run(model, batch)
        out = model.generate(
            **batch, max_new_tokens=6, min_new_tokens=6, do_sample=False, cache_implementation="static"
        )
    assert torch.equal(out[:, batch["input_ids"].shape[1] :].cpu(), wanted)
