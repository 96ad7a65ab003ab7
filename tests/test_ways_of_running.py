"""Ways of running a model that no other file has: sparse budgets, int8, ranks, frames, candidates with placeholders."""

import copy
import re
from pathlib import Path

import pytest
import tiny
import tiny_classes
import torch
import transformers as hf

from vlm_anchors.errors import AnchorsWarning, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.attanchor import AttAnchor
from vlm_anchors.methods.clva import CLVA

STEPS = {
    "max_new_tokens": 3,
    "min_new_tokens": 3,
    "do_sample": False,
    "output_logits": True,
    "return_dict_in_generate": True,
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 4}
BUDGETS = {
    "gemma3": ("sliding_window", 8, {}), "gemma4": ("sliding_window", 8, {}), "llama4": ("attention_chunk_size", 8, {}),
    "step3p7": ("sliding_window", 4, SLIDING), "mistral_large4": ("index_topk", 8, {}),
    "minimax_m3_vl": ("index_topk_blocks", 2, {"index_block_size": 4, "layer_types": ["minimax_m3_sparse"] * 8}),
    "glm5_next": ("index_topk", 8, {"index_kpool": 4}),
    "dots3_note": ("index_topk", 8, {}), "qwen4_exp": ("indexer_budget", 8, {}),
}  # fmt: skip
"""The config's name for the number of keys that a row may see, one far below a prompt's, and what goes with it."""
WIDE = 512


def answer(model, inputs, **more):
    with torch.no_grad():
        out = model.generate(**inputs, **{**STEPS, **more})
    return torch.stack(out.logits), out.sequences


@pytest.mark.grid
@pytest.mark.parametrize("name", BUDGETS)
def test_off_is_plain_beyond_every_budget(name):
    """Classes that build their mask only under the name of their own kernel would see every key under ours."""
    budget, small, more = BUDGETS[name]
    one = tiny_classes.tiny(name, **{budget: small}, **more)
    inputs, _, _ = one.prompt(1, after=12)
    plain, tokens = answer(one.model, inputs)
    with attach(one.model, CLVA().disabled()):
        off, same = answer(one.model, inputs)
    assert torch.equal(plain, off) and torch.equal(tokens, same)
    wide = tiny_classes.build(name, **{budget: WIDE}, **more)
    wide.load_state_dict(one.model.state_dict())
    assert (answer(wide, inputs)[0] - plain).abs().nan_to_num(0).max() > 1e-5, "the budget must bind"


def test_a_candidate_that_holds_a_placeholder_is_words():
    """Prompt lookup may propose a piece of the prompt's image: after the prompt's text it is a token like any other."""
    model, batch = tiny.llava(), tiny.llava_batch()
    real = batch["attention_mask"][0].bool()
    single = {name: value[:1] for name, value in batch.items()}
    single |= {name: single[name][:, real] for name in ("input_ids", "attention_mask")}
    more = torch.tensor([[11, tiny.IMAGE, tiny.IMAGE, 14]])
    with attach(model, CLVA()), torch.no_grad():
        cache = model(**single, use_cache=True).past_key_values
        chunk = model(input_ids=more, past_key_values=cache).logits[0]
        cache = model(**single, use_cache=True).past_key_values
        steps = [model(input_ids=more[:, i : i + 1], past_key_values=cache).logits[0, -1] for i in range(4)]
    assert (chunk - torch.stack(steps)).abs().max() < 1e-6


def test_embeddings_with_the_image_merged_in_say_that_no_visual_token_is_seen():
    model, batch = tiny.llava(), tiny.llava_batch(texts=((5, 4),))
    with torch.no_grad():
        features = model.model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output
        embeds = model.get_input_embeddings()(batch["input_ids"])
        mask = (batch["input_ids"] == tiny.IMAGE)[..., None]
        merged = embeds.masked_scatter(mask, torch.cat(list(features)).to(embeds))
        plain = model(inputs_embeds=merged, attention_mask=batch["attention_mask"]).logits
        with attach(model, CLVA()), pytest.warns(AnchorsWarning, match="No visual tokens in this prompt"):
            same = model(inputs_embeds=merged, attention_mask=batch["attention_mask"]).logits
    assert torch.equal(plain, same)


def test_frames_of_a_video_in_a_qformer_are_edited_in_generate_too():
    one = tiny_classes.tiny("instructblipvideo")
    inputs, _, _ = one.prompt()
    plain, _ = answer(one.model, inputs)
    with attach(one.model, CLVA(tau=1.0)) as handle:
        found, _ = answer(one.model, inputs)
        assert len(handle.effects) == 4 and all(frame["clva"]["rows_edited"] for frame in handle.effects)
        with torch.no_grad():
            called = one.model(**inputs).logits[:, -1]
    assert (found[0] - called).abs().max() < 1e-5
    assert (found - plain).abs().max() > 1e-4


def test_linear_layers_in_dynamic_int8():
    model, batch = tiny.llava(), tiny.llava_batch()
    small = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)
    plain, tokens = answer(small, batch)
    with attach(small, CLVA().disabled()):
        off, same = answer(small, batch)
    with attach(small, CLVA(tau=1.0)) as handle:
        edited, _ = answer(small, batch)
    assert torch.equal(plain, off) and torch.equal(tokens, same)
    assert (edited - plain).abs().max() > 1e-3 and handle.effects[0]["clva"]["rows_edited"]


def test_heads_that_are_split_over_processes_are_refused():
    model = tiny.llava()
    model._tp_size = 2
    with pytest.raises(CannotAct, match=r"heads are split over 2 processes.*Load the model without tp_plan"):
        attach(model, CLVA())
    with attach(model, "none"):
        pass


def test_attanchor_in_a_pipeline_says_to_prepare_first():
    model = tiny.llava()
    inputs = tiny.llava_batch(texts=((5, 4),))
    with (
        attach(model, AttAnchor(tau=0.0, tokens="all")),
        pytest.raises(CannotAct, match="generate cannot run attanchor"),
    ):
        model.generate(**inputs, max_new_tokens=2)
    assert isinstance(model, hf.GenerationMixin)


def test_the_page_names_tests_that_exist():
    root = Path(__file__).parents[1]
    rows = [line for line in (root / "docs" / "running.md").read_text("utf-8").splitlines() if line.startswith("| ")][
        2:
    ]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(tests/[a-z_/]+\.py)`", row)
        assert named and all((root / name).exists() for name in named), row
