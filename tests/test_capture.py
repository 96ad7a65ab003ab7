"""What is captured equals what eager attention returns, costs rows x columns, and stays within its caps."""

import pytest
import tiny
import torch
from test_clva import split
from torch.utils._python_dispatch import TorchDispatchMode

from vlm_anchors.analysis import Capture
from vlm_anchors.errors import BadSetting, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.clva import CLVA

NEW = 4


def eager_attentions(model, batch):
    """For each pass a list of layers (b, h, q, k), from transformers' own eager attention."""
    model.set_attn_implementation("eager")
    out = model.generate(
        **batch, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, output_attentions=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    model.set_attn_implementation("sdpa")
    return out.attentions


def captured(model, batch, method="none", new=NEW, **settings):
    seen = Capture(dtype=torch.float32, **settings)
    with attach(model, method, recorder=seen):
        model.generate(**batch, max_new_tokens=new, min_new_tokens=new, do_sample=False)
    return seen


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_equals_eager_in_prompt_and_steps_left_padded(kv_heads):
    model, batch = tiny.llava(kv_heads=kv_heads), tiny.llava_batch()
    eager, seen = eager_attentions(model, batch), captured(model, batch)
    for sample, (ids, real) in enumerate(zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)):
        visual = (ids == tiny.IMAGE).nonzero()[:, 0]
        first = int(real.int().argmax())
        traces = seen.of(sample)
        assert len(traces) == NEW
        for at, trace in enumerate(traces):
            whole = torch.stack([layer[sample] for layer in eager[at]])
            place = torch.arange(len(ids))
            rows = ((place > visual[0]) & (ids != tiny.IMAGE)).nonzero()[:, 0] if at == 0 else torch.tensor([0])
            whole = whole[:, :, rows]
            assert trace.layers == tuple(range(1, 9))
            assert trace.positions is None or torch.equal(trace.positions, rows)
            close = {"atol": 2e-6, "rtol": 1e-4}
            torch.testing.assert_close(trace.weights, whole[..., visual], **close)
            torch.testing.assert_close(trace.visual, whole[..., visual].sum(-1), **close)
            torch.testing.assert_close(trace.system, whole[..., : visual[0]].sum(-1), **close)
            torch.testing.assert_close(trace.first, whole[..., first], **close)
            torch.testing.assert_close(trace.words, whole[..., visual[-1] + 1 :].sum(-1), **close)
            seen_keys = (place[None] <= rows[:, None]) & real if at == 0 else real.sum()[None, None] + at
            assert torch.equal(trace.keys, seen_keys.sum(-1))


def test_norms_are_those_of_equation_12():
    """|O_P| + |O_V| parts add up to the head's output; compared with values taken from the model itself."""
    model, batch = tiny.llava(kv_heads=2), split(tiny.llava_batch(), 0)
    values = {}
    for layer in model.get_decoder().layers:
        layer.self_attn.v_proj.register_forward_hook(
            lambda m, a, out, at=layer.self_attn.layer_idx: values.update({at: out})
        )
    seen = Capture(norms=True)
    with torch.no_grad(), attach(model, "none", recorder=seen):
        model(**batch)
    trace = seen.of()[0]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        whole = model(**batch, output_attentions=True).attentions
    visual = batch["input_ids"][0] == tiny.IMAGE
    for at in (0, 5):
        value = values[at].view(1, -1, 2, 16).transpose(1, 2).repeat_interleave(2, 1)[0]
        rows = whole[at][0][:, trace.positions]
        torch.testing.assert_close(
            trace.norms[1, at], (rows[..., visual] @ value[:, visual]).norm(dim=-1), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            trace.norms[0, at], (rows[..., ~visual] @ value[:, ~visual]).norm(dim=-1), atol=1e-5, rtol=1e-4
        )


def test_before_and_after_an_edit():
    model, batch = tiny.llava(), tiny.llava_batch()
    seen = captured(model, batch, CLVA(tau=1.0))
    before, after = seen.of(1)[0], seen.of(1, edited=True)[0]
    edited = CLVA().edited(8)
    untouched = [i for i, layer in enumerate(before.layers) if layer not in edited]
    touched = [i for i, layer in enumerate(before.layers) if layer in edited]
    assert torch.equal(before.weights[untouched], after.weights[untouched])
    assert (after.visual[touched] - before.visual[touched]).abs().max() > 1e-3
    torch.testing.assert_close(after.weights.sum(-1), after.visual, atol=1e-6, rtol=1e-5)


def test_the_model_is_not_disturbed():
    model, batch = tiny.llava(), tiny.llava_batch()
    with torch.no_grad():
        plain = model(**batch).logits
        with attach(model, "none", recorder=Capture()):
            attention_layers = model(**batch).logits
        assert torch.equal(plain, attention_layers)
        assert torch.equal(plain, model(**batch).logits)


def test_no_query_by_key_matrix_is_made():
    model = tiny.llava()
    batch = split(tiny.llava_batch(texts=((90, 2),)), 0)
    q, width = batch["input_ids"].shape[1], 16  # keys transposed are 16 x q as well

    class Largest(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dim() == 4 and out.shape[1] == 4 and out.shape[-1] == q:
                self.seen = max(self.seen, out.shape[-2])
            return out

    with torch.no_grad(), attach(model, "none", recorder=Capture(norms=True)), Largest() as largest:
        model(**batch)
    assert 0 < largest.seen <= width < q / 8


def test_only_the_layers_heads_and_rows_asked_for():
    model, batch = tiny.llava(), tiny.llava_batch()
    whole = captured(model, batch)
    part = captured(model, batch, layers={2, 5}, heads=(1, 3), rows="last")
    trace, full = part.of(2)[0], whole.of(2)[0]
    assert trace.layers == (2, 5)
    assert trace.weights.shape == (2, 2, 1, 64)
    assert torch.equal(trace.weights[:, :, 0], full.weights[[1, 4]][:, [0, 2], -1])
    assert torch.equal(trace.visual, full.visual[[1, 4]][:, [0, 2]])
    few = captured(model, batch, max_rows=3).of(2)[0]
    assert torch.equal(few.weights, full.weights[:, :, -3:])
    assert few.visual.shape == full.visual.shape


def test_caps_on_what_is_kept_for_a_generated_token():
    model, batch = tiny.llava(), split(tiny.llava_batch(), 0)
    whole = captured(model, batch)
    cap = 2 * 8 * 64 * 4
    means = captured(model, batch, token_bytes=cap)
    assert means.of()[0].weights.shape[1] == 4
    step = means.of()[2]
    assert step.weights.shape == (8, 1, 1, 64)
    torch.testing.assert_close(step.weights[:, 0], whole.of()[2].weights.mean(1))
    assert torch.equal(step.visual, whole.of()[2].visual)
    assert step.weights.numel() * 4 <= cap
    short = captured(model, batch, new=6, max_tokens=2)
    assert len(short.of()) == 3
    assert short.left_out == 3


def test_it_holds_the_latest_prompt():
    model = tiny.llava()
    first, second = (split(tiny.llava_batch(seed=seed), 0) for seed in (1, 2))
    seen = Capture()
    with attach(model, "none", recorder=seen), torch.no_grad():
        model(**first)
        model(**second)
    alone = captured(model, second, new=1)
    assert len(seen.of()) == 1
    torch.testing.assert_close(seen.of()[0].visual, alone.of()[0].visual)


def test_bad_settings_are_sentences():
    with pytest.raises(BadSetting, match="rows must be 'all' or 'last'; found 'some'"):
        Capture(rows="some")
    with pytest.raises(BadSetting, match=r"layers count from 1 and must not be empty; found \[0, 3\]"):
        Capture(layers={0, 3})
    with pytest.raises(CannotAct, match="Head 9 was asked for; layer 1 has heads 1 to 4"):
        captured(tiny.llava(), tiny.llava_batch(), heads={9})
