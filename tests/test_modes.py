"""CLVA in every decoding mode of `generate`: each compared with its own definition, or with greedy."""

import copy

import pytest
import tiny
import torch
from test_clva import STEPS, split, steps_of
from transformers import DynamicCache, StaticCache

from vlm_anchors.errors import CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.clva import CLVA

NEW = 8


def generate(model, inputs, **how):
    how = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, **how}
    return model.generate(**inputs, **how)[:, inputs["input_ids"].shape[1] :]


@pytest.fixture(scope="module")
def model():
    return tiny.llava()


def test_clva_changes_the_tokens_here(model):
    """Else every comparison below would be empty."""
    plain = generate(model, tiny.llava_batch())
    with attach(model, CLVA()):
        assert not torch.equal(plain, generate(model, tiny.llava_batch()))


def test_sampling_with_a_seed(model):
    """The same seed gives the same tokens, and a batch of one prompt its own."""
    with attach(model, CLVA()):
        runs = []
        for _ in range(2):
            torch.manual_seed(3)
            runs.append(generate(model, tiny.llava_batch(), do_sample=True, top_p=0.9, top_k=0))
        assert torch.equal(*runs)
        torch.manual_seed(4)
        assert not torch.equal(runs[0], generate(model, tiny.llava_batch(), do_sample=True, top_p=0.9, top_k=0))


def test_beams_equal_the_eager_kernel(model):
    """Beam search reorders the cache; the same search over the eager kernel gives the same sequences."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    found = []
    for one in (model, eager):
        with attach(one, CLVA()):
            found.append(generate(one, tiny.llava_batch(), num_beams=3))
    assert torch.equal(*found)


def test_beams_batch_equals_one_by_one(model):
    batch = tiny.llava_batch()
    with attach(model, CLVA()):
        together = generate(model, batch, num_beams=3)
        for sample in range(3):
            assert torch.equal(generate(model, split(batch, sample), num_beams=3)[0], together[sample])


def test_several_return_sequences(model):
    with attach(model, CLVA()) as handle:
        torch.manual_seed(0)
        out = generate(model, tiny.llava_batch(), do_sample=True, num_return_sequences=2)
        beams = generate(model, tiny.llava_batch(), num_beams=4, num_return_sequences=2)
    assert out.shape[0] == beams.shape[0] == 6
    assert len(handle.effects) == 12


def test_static_cache_equals_dynamic(model):
    with attach(model, CLVA()):
        dynamic = generate(model, tiny.llava_batch())
        static = generate(model, tiny.llava_batch(), cache_implementation="static", disable_compile=True)
        again = generate(model, tiny.llava_batch(seed=5), cache_implementation="static", disable_compile=True)
        fresh = generate(model, tiny.llava_batch(seed=5))
    assert torch.equal(dynamic, static) and torch.equal(again, fresh)


def test_a_reset_static_cache_begins_a_new_prompt_even_of_one_token(model):
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=128)
    alone = torch.tensor([[9]])
    with torch.no_grad():
        plain = model(input_ids=alone).logits
        with attach(model, CLVA()) as handle:
            model(**split(tiny.llava_batch(), 2), past_key_values=cache)
            cache.reset()
            again = model(input_ids=alone, past_key_values=cache).logits
            assert handle.prompts == 2
    assert (plain - again).abs().max() < 1e-6


def test_a_static_cache_carries_nothing_over_to_the_plain_model(model):
    plain = generate(model, tiny.llava_batch())
    with attach(model, CLVA()):
        generate(model, tiny.llava_batch(), cache_implementation="static", disable_compile=True)
    assert torch.equal(plain, generate(model, tiny.llava_batch(), cache_implementation="static", disable_compile=True))


@pytest.mark.parametrize("how", ["assistant", "lookup"])
def test_speculative_decoding_equals_greedy(model, how):
    """Candidates are rows with anchors of their own, also those that come with the prompt."""
    assistant = tiny.llava(layers=4, seed=0)
    extra = {"assistant_model": assistant} if how == "assistant" else {"prompt_lookup_num_tokens": 3}
    for sample in range(3):
        single = split(tiny.llava_batch(texts=((30, 6), (33, 2), (27, 4))), sample)
        if how == "lookup":
            words = single["input_ids"][0]
            words[-4:] = words[1:5]
        with attach(model, CLVA()):
            greedy = generate(model, single)
            assert torch.equal(generate(model, single, **extra), greedy)


def test_a_chunk_equals_its_steps(model):
    """Four tokens fed at once to a warm cache have the logits of four steps."""
    single = split(tiny.llava_batch(), 0)
    more = torch.tensor([[11, 12, 13, 14]])
    with attach(model, CLVA()), torch.no_grad():
        cache = model(**single, use_cache=True).past_key_values
        chunk = model(input_ids=more, past_key_values=cache).logits[0]
        cache = model(**single, use_cache=True).past_key_values
        steps = [model(input_ids=more[:, i : i + 1], past_key_values=cache).logits[0, -1] for i in range(4)]
    assert (chunk - torch.stack(steps)).abs().max() < 1e-6


def prefix_of(single, length):
    return {
        "input_ids": single["input_ids"][:, :length],
        "attention_mask": single["attention_mask"][:, :length],
        "pixel_values": single["pixel_values"],
    }


def test_prefix_reuse_equals_one_piece(model):
    """System and image prefilled once, the cache copied for each question."""
    single = split(tiny.llava_batch(), 2)
    end = int((single["input_ids"][0] == tiny.IMAGE).nonzero().max()) + 1
    with attach(model, CLVA()), torch.no_grad():
        whole = generate(model, single)
        cache = model(**prefix_of(single, end), past_key_values=DynamicCache(config=model.config)).past_key_values
        for _ in range(2):
            rest = {name: single[name] for name in ("input_ids", "attention_mask")}
            assert torch.equal(whole, generate(model, rest, past_key_values=copy.deepcopy(cache)))


@pytest.mark.parametrize("end", [3, 20, 60])
def test_chunked_prefill_up_to_the_first_text_row(model, end):
    """Pieces may end anywhere up to the first word after the image, in the middle of the image too."""
    single = split(tiny.llava_batch(), 2)
    ids = single["input_ids"]
    with attach(model, CLVA()), torch.no_grad():
        whole = model(**single).logits[0, -1]
        features = model.get_image_features(single["pixel_values"], return_dict=True)
        cache, start = DynamicCache(config=model.config), 0
        last_visual = int((ids[0] == tiny.IMAGE).nonzero().max()) + 1
        for stop in (end, last_visual, ids.shape[1]):
            piece = ids[:, start:stop]
            part = copy.copy(features)
            before = int((ids[0, :start] == tiny.IMAGE).sum())
            part.pooler_output = [features.pooler_output[0][before : before + int((piece == tiny.IMAGE).sum())]]
            arguments = {"mm_encoder_outputs": {"image": part}} if len(part.pooler_output[0]) else {}
            out = model(input_ids=piece, past_key_values=cache, attention_mask=torch.ones(1, stop), **arguments)
            start = stop
    assert (out.logits[0, -1] - whole).abs().max() < 1e-6


def test_a_prompt_whose_text_comes_in_pieces_is_refused(model):
    single = split(tiny.llava_batch(), 2)
    with attach(model, CLVA()), pytest.raises(CannotAct, match="in several pieces"):
        generate(model, single, prefill_chunk_size=single["input_ids"].shape[1] - 2)


def test_an_image_after_processed_text_is_refused(model):
    single = split(tiny.llava_batch(), 2)
    with attach(model, CLVA()), torch.no_grad():
        cache = model(**single, use_cache=True).past_key_values
        ids = torch.tensor([[tiny.IMAGE] * 64 + [9]])
        with pytest.raises(CannotAct, match="Visual tokens arrived after text"):
            model(input_ids=ids, pixel_values=single["pixel_values"], past_key_values=cache)


def test_a_cache_filled_before_attaching_is_refused(model):
    single = split(tiny.llava_batch(), 2)
    with torch.no_grad():
        cache = model(**single, use_cache=True).past_key_values
        ids = torch.tensor([[tiny.IMAGE] * 64 + [9]])
        with attach(model, CLVA()), pytest.raises(CannotAct, match="filled before the method was attached"):
            model(input_ids=ids, pixel_values=single["pixel_values"], past_key_values=cache)


def test_without_a_cache_generation_is_refused(model):
    with attach(model, CLVA()), pytest.raises(CannotAct, match="use_cache=False"):
        generate(model, tiny.llava_batch(), use_cache=False)


@pytest.mark.parametrize("base", ["flex_attention", "flash_attention_2", "flash_attention_3"])
def test_kernels_without_a_bias_are_refused(base):
    model = tiny.llava()
    model.config.text_config._attn_implementation_internal = base
    with pytest.raises(CannotAct, match="attn_implementation='sdpa'"):
        attach(model, CLVA())


def test_answers_given_as_labels_do_not_leak(model):
    """Changing a later answer token changes no earlier logits, and prompt rows are as without the answer."""
    single = split(tiny.llava_batch(), 2)
    answer = torch.tensor([[21, 22, 23]])
    full = {**single, "input_ids": torch.cat([single["input_ids"], answer], 1), "attention_mask": None}
    labels = full["input_ids"].clone()
    labels[:, :-3] = -100
    other = {**full, "input_ids": full["input_ids"].clone()}
    other["input_ids"][0, -1] = 31
    with attach(model, CLVA()), torch.no_grad():
        scored = model(**full, labels=labels).logits[0]
        changed = model(**other, labels=labels).logits[0]
        prompt = model(**single).logits[0]
        cache = model(**single, use_cache=True).past_key_values
        step = model(input_ids=answer[:, :1], past_key_values=cache).logits[0, -1]
    assert torch.equal(scored[:-1], changed[:-1])
    assert (scored[: len(prompt)] - prompt).abs().max() < 1e-6
    assert (scored[len(prompt)] - step).abs().max() < 1e-6


def test_steps_are_counted(model):
    with attach(model, CLVA()) as handle:
        steps_of(model, tiny.llava_batch())
    prompt = 8  # four closing words and four after the image in the last sample
    assert handle.effects[2]["clva"]["rows_edited"] == prompt + STEPS
