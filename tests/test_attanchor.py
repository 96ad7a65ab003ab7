"""AttAnchor on every decoder family: off is plain, a batch is its samples, positions go on, every way of decoding works."""

import functools

import pytest
import tiny_families as tiny
import tiny_processors
import torch
from reference_attanchor import image_into_text, text_into_image
from test_clva import steps_of
from tiny_models import IMAGE, PAD, WORD
from transformers import LlavaConfig, LlavaForConditionalGeneration

from vlm_anchors.interventions.attachment import attach
from vlm_anchors.interventions.insertion.batch import read_prompts
from vlm_anchors.methods.attanchor import AttAnchor
from vlm_anchors.methods.attanchor_i2t import AttAnchorI2T
from vlm_anchors.methods.clva import CLVA

pytestmark = pytest.mark.filterwarnings("ignore:.*inserted nothing:vlm_anchors.AnchorsWarning")
FAMILIES = tuple(tiny.FAMILIES)
MROPE = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl", "glm-4v")
UNK = 99
"""Special in the tiny tokenizers, so never a word."""
KINDS = [".i.", ".i.i.", "i."]
WORDS_IN, PATCHES_OUT = AttAnchor(tau=0.2), AttAnchorI2T(tau=0.25)
PAUSED = AttAnchorI2T(tau=0.25, pause_tokens=2)
BOUND = 2e-6


@functools.cache
def model_of(name):
    model = tiny.FAMILIES[name].build()
    if name == "gemma3":  # its projector starts as zeros, and so would every patch
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model


def batch_of(name, kinds=KINDS, seed=0):
    prompts = tiny.prompts(tiny.FAMILIES[name], kinds, seed)
    return tiny.batch(tiny.FAMILIES[name], prompts), prompts


def prepared(name, method, batch):
    """With the user's words told by their ids, as these tiny vocabularies have no template."""
    pair = (model_of(name), tiny_processors.stand_in(name))
    return method.prepare(pair, batch, anchorable=batch["input_ids"] >= WORD)


def inserted(anchored):
    return [next(iter(summary.values()))["tokens_inserted"] for summary in anchored.effects]


def logits_of(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.grid
@pytest.mark.parametrize("method", [AttAnchor(tau=1.0), AttAnchorI2T(tau=1.0), AttAnchor().disabled()], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_off_is_exactly_the_plain_model(name, method):
    model, (batch, _) = model_of(name), batch_of(name)
    off, plain = prepared(name, method, batch), logits_of(model, batch)
    assert inserted(off) == [0, 0, 0]
    assert torch.equal(plain, logits_of(model, off))
    with attach((model, tiny_processors.stand_in(name)), method):
        assert torch.equal(plain, logits_of(model, batch))


VARIANTS = [
    AttAnchor(tau=0.2, keep="others"),
    AttAnchor(tau=0.2, place="row", keep="anchors"),
    AttAnchor(tau=0.2, place="image", each="patch"),
]


@pytest.mark.grid
@pytest.mark.parametrize("method", VARIANTS, ids=lambda method: method.spec())
@pytest.mark.parametrize("name", ["llava", "llava-next", "qwen2.5-vl", "internvl"])
def test_variants_in_a_ragged_batch_equal_their_samples(name, method):
    model, (batch, prompts) = model_of(name), batch_of(name)
    assert torch.equal(logits_of(model, prepared(name, method.disabled(), batch)), logits_of(model, batch))
    anchored = prepared(name, method, batch)
    assert sum(inserted(anchored))
    together, tokens = steps_of(model, anchored)
    assert not torch.equal(together[0], steps_of(model, prepared(name, WORDS_IN, batch), tokens)[0][0])
    for sample, prompt in enumerate(prompts):
        single = prepared(name, method, tiny.batch(tiny.FAMILIES[name], [prompt]))
        assert single.effects[0] == anchored.effects[sample]
        alone, _ = steps_of(model, single, tokens[sample : sample + 1])
        assert (together[:, sample] - alone[:, 0]).abs().max() < BOUND


@pytest.mark.parametrize("name", ["llava", "llava-next", "qwen2.5-vl"])
def test_words_that_move_leave_the_prompt(name):
    """As many tokens as before; behind the image only words that did not anchor, and the last token."""
    batch, prompts = batch_of(name)
    moved, whole = (prepared(name, AttAnchor(tau=0.2, keep=keep), batch) for keep in ("others", "all"))
    for sample, effects in enumerate(moved.effects):
        before = whole.effects[sample]["attanchor"]
        effects = effects["attanchor"]
        assert effects["anchors"] == before["anchors"]
        gone = effects["tokens_removed"]
        assert gone <= effects["tokens_inserted"]
        real = moved["attention_mask"][sample].bool()
        assert int(real.sum()) == len(prompts[sample].ids) + effects["tokens_inserted"] - gone
        assert moved["input_ids"][sample][real][-1] == prompts[sample].ids[-1]
    assert sum(effects["attanchor"]["tokens_removed"] for effects in moved.effects) > 1


@pytest.mark.grid
@pytest.mark.parametrize("name", FAMILIES)
def test_images_encoded_ahead_change_no_bit(name):
    """A threshold that nothing reaches: the images are encoded by us, the rest is as it was."""
    model, (batch, _) = model_of(name), batch_of(name)
    nothing = prepared(name, AttAnchor(tau=0.9999), batch)
    assert inserted(nothing) == [0, 0, 0] and "pixel_values" not in nothing
    assert torch.equal(logits_of(model, batch), logits_of(model, nothing))
    plain, tokens = steps_of(model, batch)
    again, same = steps_of(model, nothing)
    assert torch.equal(plain, again) and torch.equal(tokens, same)


def test_tinyllava_s_tower_is_as_any_other():
    """TinyLLaVA is LLaVA with SigLIP's tower, whose every token is a patch."""
    torch.manual_seed(0)
    config = model_of("llava").config.to_dict()
    tower = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 2, "image_size": 24, "patch_size": 4}  # fmt: skip
    config = LlavaConfig(**{**config, "vision_config": tower, "vision_feature_select_strategy": "full"})
    model, (batch, _) = LlavaForConditionalGeneration(config).eval(), batch_of("llava")
    pair, words, plain = (model, tiny_processors.stand_in("llava")), batch["input_ids"] >= WORD, logits_of(model, batch)
    for method in (AttAnchor(tau=1.0), AttAnchorI2T(tau=1.0), AttAnchor(tau=0.9999)):
        assert torch.equal(plain, logits_of(model, method.prepare(pair, batch, anchorable=words)))
    anchored = AttAnchor(tau=0.0).prepare(pair, batch, anchorable=words)
    assert sum(inserted(anchored)) > 3 and not torch.equal(plain[:, -1], logits_of(model, anchored)[:, -1])


def expected_of(name, method, prompt):
    """The reference's sequence for one prompt, with the model's own vectors in double precision."""
    model = model_of(name)
    single = tiny.batch(tiny.FAMILIES[name], [prompt])
    with torch.no_grad():
        encoded = prepared(name, AttAnchor(tau=0.9999), single)["mm_encoder_outputs"]["image"].pooler_output
        rows = [row for image in encoded for row in image.reshape(-1, image.shape[-1]).double().tolist()]
        table = model.get_input_embeddings()(torch.tensor(prompt.ids).masked_fill(torch.tensor(prompt.ids) == IMAGE, 0))
    newline = getattr(model.base_model, "image_newline", torch.zeros(1)).double().tolist()
    vectors, patches = table.double().tolist(), []
    for place, row in zip([place for image in prompt.images for place in image], rows, strict=True):
        vectors[place] = row
        if row != newline:
            patches.append(place)
    words = [place for place, token in enumerate(prompt.ids) if WORD <= token < UNK]
    if isinstance(method, AttAnchor):
        return text_into_image(len(prompt.ids), words, patches, vectors, method.tau)
    return image_into_text(
        len(prompt.ids), words, patches, vectors, method.tau, pauses=method.pause_tokens, end=len(prompt.ids) - 1
    )


@pytest.mark.grid
@pytest.mark.parametrize("method", [WORDS_IN, PAUSED], ids=["words in", "patches out"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_woven_ids_are_the_reference_s(name, method):
    batch, prompts = batch_of(name)
    anchored = prepared(name, method, batch)
    for row, mask, prompt in zip(anchored["input_ids"], anchored["attention_mask"], prompts, strict=True):
        expected = expected_of(name, method, prompt)
        assert row[mask.bool()].tolist() == [PAD if source is None else prompt.ids[source] for source, _ in expected]
    assert sum(inserted(anchored)) > 3 * getattr(method, "pause_tokens", 0)


@pytest.mark.grid
@pytest.mark.parametrize("method", [WORDS_IN, PATCHES_OUT, PAUSED], ids=["words in", "patches out", "pauses"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_ragged_batch_equals_its_samples(name, method):
    model, (batch, prompts) = model_of(name), batch_of(name)
    anchored = prepared(name, method, batch)
    together, tokens = steps_of(model, anchored)
    assert len(set(inserted(anchored))) > 1, "every sample got as many"
    for sample, prompt in enumerate(prompts):
        single = prepared(name, method, tiny.batch(tiny.FAMILIES[name], [prompt]))
        alone, _ = steps_of(model, single, tokens[sample : sample + 1])
        assert (together[:, sample] - alone[:, 0]).abs().max() < BOUND


@pytest.mark.grid
@pytest.mark.parametrize("method", [WORDS_IN, PAUSED], ids=["words in", "patches out"])
@pytest.mark.parametrize("name", [name for name, family in tiny.FAMILIES.items() if family.video])
def test_videos_as_images(name, method):
    model, (batch, prompts) = model_of(name), batch_of(name, [".v.", "v..."])
    anchored = prepared(name, method, batch)
    assert sum(inserted(anchored)) > 2 * getattr(method, "pause_tokens", 0)
    together, tokens = steps_of(model, anchored)
    for sample, prompt in enumerate(prompts):
        single = prepared(name, method, tiny.batch(tiny.FAMILIES[name], [prompt]))
        alone, _ = steps_of(model, single, tokens[sample : sample + 1])
        assert (together[:, sample] - alone[:, 0]).abs().max() < BOUND
    assert prepared(name, method, batch).effects[0]


OTHER_PLACES = [AttAnchor(tau=0.2, mrope="text"), AttAnchorI2T(tau=0.2, mrope="patch")]


@pytest.mark.grid
@pytest.mark.parametrize("method", [WORDS_IN, PAUSED, *OTHER_PLACES], ids=str)
@pytest.mark.parametrize("name", MROPE)
def test_positions_go_on_after_the_prompt(name, method):
    """`generate`, and a loop by hand that lets the model make its own positions, see the same steps."""
    model, (batch, _) = model_of(name), batch_of(name)
    anchored = prepared(name, method, batch)
    steps, tokens = steps_of(model, anchored)
    assert sum(inserted(anchored)) > 3 * getattr(method, "pause_tokens", 0)
    prepared(name, method, batch)  # sets the model's rope_deltas again
    with torch.no_grad():
        out = model(**anchored, use_cache=True)
        assert (out.logits[:, -1] - steps[0]).abs().max() < BOUND
        mask = anchored["attention_mask"]
        for step in range(3):
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            last = anchored["position_ids"][1:, :, -1].amax(0)
            places = (last + 1 + step)[None, :, None].expand(3, -1, -1)
            assert torch.equal(model.model.rope_deltas[:, 0] + mask.sum(1) - 1, places[0, :, 0])
            out = model(
                input_ids=tokens[:, step : step + 1], attention_mask=mask, past_key_values=out.past_key_values,
                position_ids=places,
            )  # fmt: skip
            assert (out.logits[:, -1] - steps[step + 1]).abs().max() < BOUND


@pytest.mark.parametrize("name", MROPE)
def test_an_anchor_stands_where_its_patch_stands(name):
    model, (batch, _) = model_of(name), batch_of(name)
    kinds = {k: batch[k] for k in ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")}
    original, deltas = model.model.get_rope_index(**kinds)
    anchored = prepared(name, WORDS_IN, batch)
    positions = anchored["position_ids"]
    for sample in range(3):
        before = original[:, sample][:, batch["attention_mask"][sample].bool()]
        after = positions[1:, sample][:, anchored["attention_mask"][sample].bool()]
        ids = anchored["input_ids"][sample][anchored["attention_mask"][sample].bool()]
        assert torch.equal(after.unique(dim=1), before.unique(dim=1)), "no new place"
        copies = [i for i in range(1, len(ids)) if WORD <= ids[i] < UNK and torch.equal(after[:, i], after[:, i - 1])]
        assert len(copies) == inserted(anchored)[sample]
    assert torch.equal(model.model.rope_deltas[:, 0], deltas[:, 0] - torch.tensor(inserted(anchored)))


def test_newlines_are_nobody_s_patch():
    batch, _ = batch_of("llava-next")
    model = model_of("llava-next")
    with torch.no_grad():  # every word looks like a newline
        kept = model.get_input_embeddings().weight.clone()
        model.get_input_embeddings().weight[WORD:] = model.model.image_newline
        everywhere = prepared("llava-next", AttAnchor(tau=0.99), batch)
        model.get_input_embeddings().weight.copy_(kept)
    assert inserted(everywhere) == [0, 0, 0]


SHAPES = {
    "llava": {0: (6, 6)},
    "llava-next": {0: (4, 4), 1: (8, 5)},
    "qwen2.5-vl": {0: (4, 6)},
    "internvl": {0: (4, 4), 1: (4, 4)},
    "idefics3": {0: (4, 4), 1: (4, 4), 2: (4, 4)},
    "gemma3": {0: (4, 4)},
    "mistral3": {0: (6, 4)},
}
"""Tile -> rows and columns, at most: these random pictures come in two sizes."""


@pytest.mark.parametrize("name", SHAPES)
def test_where_patches_are_is_told_from_each_family_s_layout(name):
    batch, prompts = batch_of(name, [".i.i."])
    pair = (model_of(name), tiny_processors.stand_in(name))
    places = read_prompts("test", pair, batch, anchorable=batch["input_ids"] >= WORD)._places()
    (where,) = places.of_samples()
    patches = places.patch[0].nonzero()[:, 0].tolist()
    assert sorted(where) == sorted(place for image in prompts[0].images for place in image)
    summary = [where[place] for place in patches]
    assert len(set(summary)) == len(summary) and summary == sorted(summary), "one place each, in reading order"
    for image in (0, 1):
        tiles = {place[0] for number, place in summary if number == image}
        assert tiles <= set(SHAPES[name])
        for tile in tiles:
            grid = {place[1:] for number, place in summary if number == image and place[0] == tile}
            rows, columns = (max(side) + 1 for side in zip(*grid, strict=True))
            assert len(grid) == rows * columns, "a full rectangle"
            assert rows <= max(SHAPES[name][tile]) and columns <= max(9, *SHAPES[name][tile])


def test_what_is_told_of_an_anchor():
    batch, _ = batch_of("llava-next", ["i."])
    anchor = prepared("llava-next", WORDS_IN, batch).effects[0]["attanchor"]["anchors"][0]
    assert set(anchor) == {"word", "token", "image", "tile", "row", "column", "cosine"}
    assert anchor["word"] == f"w{anchor['token']}" and WORDS_IN.tau <= anchor["cosine"] <= 1


@pytest.mark.parametrize("method", [WORDS_IN, PAUSED], ids=["words in", "patches out"])
def test_images_are_encoded_once(method):
    model, (batch, _) = model_of("llava"), batch_of("llava")
    calls = []
    hook = model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    anchored = prepared("llava", method, batch)
    model.generate(**anchored, max_new_tokens=3, pad_token_id=PAD)
    hook.remove()
    assert len(calls) == 1
    assert not anchored["mm_encoder_outputs"]["image"].pooler_output[0].requires_grad, "answers need no graph"


MODES = {
    "sampling": {"do_sample": True, "top_k": 5},
    "beams": {"num_beams": 3},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
}


@pytest.mark.grid
@pytest.mark.parametrize("method", [WORDS_IN, PAUSED], ids=["words in", "patches out"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl", "qwen3-vl", "gemma3", "paligemma", "internvl"])
def test_every_way_of_decoding(name, mode, method):
    """The same as one sample after another; twice from the same inputs."""
    model, (batch, prompts) = model_of(name), batch_of(name)
    anchored = prepared(name, method, batch)
    first = anchored["input_ids"].shape[1]
    torch.manual_seed(0)
    rows = model.generate(**anchored, max_new_tokens=4, min_new_tokens=4, pad_token_id=PAD, **MODES[mode])
    torch.manual_seed(0)
    again = model.generate(**anchored, max_new_tokens=4, min_new_tokens=4, pad_token_id=PAD, **MODES[mode])
    assert torch.equal(rows, again)
    if mode == "sampling":
        return
    for sample, prompt in enumerate(prompts):
        single = prepared(name, method, tiny.batch(tiny.FAMILIES[name], [prompt]))
        alone = model.generate(**single, max_new_tokens=4, min_new_tokens=4, pad_token_id=PAD, **MODES[mode])
        assert torch.equal(rows[sample, first:], alone[0, single["input_ids"].shape[1] :])


@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl"])
def test_prompt_lookup_where_no_placeholder_is_proposed(name):
    model, (batch, _) = model_of(name), batch_of(name, ["i.."])
    anchored = prepared(name, WORDS_IN, batch)
    rules = {"max_new_tokens": 6, "min_new_tokens": 6, "suppress_tokens": [IMAGE], "pad_token_id": PAD}
    greedy = model.generate(**anchored, **rules)
    assert torch.equal(greedy, model.generate(**anchored, prompt_lookup_num_tokens=3, **rules))


@pytest.mark.grid
@pytest.mark.parametrize("method", [WORDS_IN, PAUSED], ids=["words in", "patches out"])
@pytest.mark.parametrize("name", ["llava", "internvl", "qwen3-vl", "gemma3"])
def test_together_with_clva_image_tokens_stay_the_visual_ones(name, method):
    model, (batch, prompts) = model_of(name), batch_of(name)
    anchored = prepared(name, method, batch)
    pair = (model, tiny_processors.stand_in(name))
    with attach(pair, [method, CLVA(tau=1.0)]) as handle:
        together, tokens = steps_of(model, anchored)
        effects = handle.effects
        summary = list(effects[0])
        for sample, prompt in enumerate(prompts):
            assert len(effects[sample]["clva"]["anchors"]["positive"]) == len(prompt.images)
            single = prepared(name, method, tiny.batch(tiny.FAMILIES[name], [prompt]))
            alone, _ = steps_of(model, single, tokens[sample : sample + 1])
            assert (together[:, sample] - alone[:, 0]).abs().max() < 1e-5
    assert sorted(summary) == sorted(["clva", next(iter(anchored.effects[0]))])
    without, _ = steps_of(model, anchored, tokens)
    assert not torch.equal(together, without)
