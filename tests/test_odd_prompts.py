"""Prompts that are not one image and a question in one piece: what every method does with them, or says it cannot do."""

import threading

import pytest
import tiny
import tiny_families
import tiny_models
import torch
from cases import CASES, model_of, run
from stand_ins import Processor
from test_contract import IN_MODEL, method_of, steered
from tiny_processors import stand_in
from transformers import DynamicCache, StaticCache

from vlm_anchors.errors import AnchorsWarning, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.interventions.branch.image_cache import images_once
from vlm_anchors.interventions.branch.prefix_cache import continued, prefill_prefix
from vlm_anchors.methods.imccd import IMCCD
from vlm_anchors.methods.memvr import MemVR
from vlm_anchors.methods.vcd import VCD

every_method = pytest.mark.parametrize("name", IN_MODEL)
BRANCHED = ("vcd", "icd", "imccd", "pai", "m3id", "avisc")
WHOLE = ("memvr", "vista", "sid")
"""Methods that change every row of a prompt."""


def words(count, seed=0):
    return torch.randint(4, 100, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def llava(*rows, seed=0):
    """A left-padded batch of rows of token ids, an image for each that has one."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    images = sum(tiny.IMAGE in row for row in rows)
    pixels = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


IMAGE = [tiny.IMAGE] * 64


def prefilled(model, inputs):
    cache = DynamicCache(config=model.config)
    model(**inputs, past_key_values=cache)
    return cache


@pytest.mark.grid
@pytest.mark.parametrize("name", [*IN_MODEL, "memvr, silu"])
def test_a_sample_without_an_image_is_left_alone(name):
    method = MemVR(gamma=0.5, activation="silu") if "silu" in name else method_of(name)
    name = name.partition(",")[0]
    model = model_of("llava")
    mixed = llava([1, *words(2), *IMAGE, *words(9, 1)], [1, *words(12, 2)], [1, *IMAGE, *words(5, 3)])
    with steered(name, "llava", method) as handle:
        found, tokens = run(model, mixed)
        effects = handle.effects
    plain, _ = run(model, mixed, tokens)
    assert (found[:, 1] - plain[:, 1]).abs().max() < 1e-5
    assert effects[1] == {name: {"rows_edited": 0}}
    for sample in (0, 2):
        assert not torch.allclose(found[:, sample], plain[:, sample], atol=1e-6)


@pytest.mark.grid
@every_method
def test_a_prompt_that_ends_with_its_image(name):
    """The first new token is then the first word behind the image."""
    model = model_of("llava")
    last = llava([1, *words(3), *IMAGE])
    plain, tokens = run(model, last)
    if name in (*BRANCHED, *WHOLE, "prune"):
        why = (
            "in one piece.*a word behind the image"
            if name == "prune"
            else "ends with its image.*words behind the image"
        )
        with steered(name, "llava"), pytest.raises(CannotAct, match=f"(?s){why}"):
            run(model, last)
        return
    with (
        attach((model, Processor()), method_of(name)) as handle,
        pytest.warns(AnchorsWarning, match="No word of the prompt stands behind its image.*begins there"),
    ):
        found, _ = run(model, last, tokens)
    assert torch.equal(found[0], plain[0])
    assert not torch.allclose(found[1:], plain[1:], atol=1e-6)
    assert len(handle.effects) == 1 and name in handle.effects[0]


@pytest.mark.grid
@every_method
def test_one_word_behind_a_prefix_is_a_prompt(name):
    """A question of one token is no decoding step: it equals the prompt in one piece, or is refused."""
    model = model_of("llava")
    both = llava([1, *words(3), *IMAGE, 77])
    front = {**both, "input_ids": both["input_ids"][:, :-1], "attention_mask": both["attention_mask"][:, :-1]}
    with torch.no_grad(), steered(name, "llava"):
        whole = model(**both).logits[:, -1]
        if name == "prune":
            with pytest.raises(CannotAct, match="prune.*the whole prompt in one piece"):
                prefilled(model, front)
            return
        cache = prefilled(model, front)
        if name in (*WHOLE, "imccd"):
            with pytest.raises(CannotAct, match="came in two pieces"):
                model(input_ids=both["input_ids"][:, -1:], past_key_values=cache)
            return
        two = model(input_ids=both["input_ids"][:, -1:], past_key_values=cache).logits[:, -1]
    seen = torch.isfinite(whole)
    assert (two - whole)[seen].abs().max() < 1e-5


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("count", [4, 80])
def test_pieces_are_refused_where_every_row_changes(name, count):
    model = model_of("llava")
    prompt = llava([1, *words(3), *IMAGE, *words(count, 1)])
    with torch.no_grad(), steered(name, "llava"):
        cache = prefilled(model, {"input_ids": prompt["input_ids"][:, :4]})
        middle = {"input_ids": prompt["input_ids"][:, 4:68], "pixel_values": prompt["pixel_values"]}
        model(**middle, past_key_values=cache)
        with pytest.raises(CannotAct, match="came in (two )?pieces"):
            model(input_ids=prompt["input_ids"][:, 68:], past_key_values=cache)


@pytest.mark.parametrize("name", ["vcd", "icd", "pai"])
def test_a_padded_first_piece_equals_one_piece(name):
    """Padding in front of the shorter system prompt is no word that the contrastive branch reads."""
    model = model_of("llava")
    prompt = llava([1, *words(6), *IMAGE, *words(9, 1)], [1, *words(2), *IMAGE, *words(9, 2)])
    end = prompt["input_ids"].shape[1] - 9
    front = {**prompt, **{key: prompt[key][:, :end] for key in ("input_ids", "attention_mask")}}
    with torch.no_grad(), steered(name, "llava"):
        whole = model(**prompt).logits[:, -1]
        rest = {"input_ids": prompt["input_ids"][:, end:], "attention_mask": prompt["attention_mask"]}
        two = model(**rest, past_key_values=prefilled(model, front)).logits[:, -1]
    seen = torch.isfinite(whole)
    assert (two - whole)[seen].abs().max() < 1e-5


def other_image(single):
    return {**single, "pixel_values": torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(99))}


def test_a_run_in_between_is_not_taken_for_the_image():
    """A is asked from its pixels, B from features made before: B is contrasted with B's noise, or refused."""
    model, one = model_of("llava"), CASES["llava"].split(CASES["llava"].batch(), 0)
    other = other_image(one)
    pixels = other.pop("pixel_values")
    with torch.no_grad(), attach(model, VCD(beta=0.0)):
        right = model(**other, pixel_values=pixels).logits
        seen = model.get_image_features(pixels, return_dict=True)
        model.get_image_features(one["pixel_values"], return_dict=True)
        model(**one)
        assert torch.equal(model(**other, mm_encoder_outputs={"image": seen}).logits, right)
    unseen = model.get_image_features(pixels, return_dict=True)
    with torch.no_grad(), attach(model, VCD(beta=0.0)):
        model(**one)
        with pytest.raises(CannotAct, match="Pass pixel_values"):
            model(**other, mm_encoder_outputs={"image": unseen})


def test_another_threads_image_is_not_taken():
    model, one = model_of("llava"), CASES["llava"].split(CASES["llava"].batch(), 0)
    with torch.no_grad(), attach(model, VCD(beta=0.0)):
        right = model(**one).logits
    towered, other_ran, found = threading.Event(), threading.Event(), {}

    def pause(module, args):
        if threading.current_thread().name == "steered" and not towered.is_set():
            towered.set()
            assert other_ran.wait(60)

    def steered_run():
        with torch.no_grad(), attach(model, VCD(beta=0.0)):
            found["logits"] = model(**one).logits

    def plain_run():
        assert towered.wait(60)
        with torch.no_grad():
            model(**other_image(one))
        other_ran.set()

    hook = model.model.multi_modal_projector.register_forward_pre_hook(pause)
    try:
        threads = [threading.Thread(target=steered_run, name="steered"), threading.Thread(target=plain_run)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    finally:
        hook.remove()
    assert torch.equal(found["logits"], right)


def test_two_prefixes_keep_their_own_images():
    model, one = model_of("llava"), llava([1, *words(3), *IMAGE, *words(7, 1)])
    other = other_image(one)
    end = one["input_ids"].shape[1] - 7
    fronts = [{"input_ids": each["input_ids"][:, :end], "pixel_values": each["pixel_values"]} for each in (one, other)]
    with torch.no_grad(), attach(model, VCD(beta=0.0)):
        right = model(**one).logits[:, -1]
        cache, _ = [prefilled(model, front) for front in fronts]
        assert (
            model(input_ids=one["input_ids"][:, end:], past_key_values=cache).logits[:, -1] - right
        ).abs().max() < 1e-5


def test_an_image_and_a_video_are_refused_by_what_noises_images():
    name = "qwen2.5-vl"
    family = tiny_families.FAMILIES[name]
    batch = tiny_families.batch(family, tiny_families.prompts(family, [".i..", ".v.."], 0))
    with attach(model_of(name), VCD()), pytest.raises(CannotAct, match="no form for videos"):
        run(model_of(name), batch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_eager_masks(dtype):
    """A later image is not seen by the words before it, however low the mask's lowest number is."""
    prompt = llava([1, *words(2), *IMAGE, *words(4, 1), *IMAGE, *words(6, 2)])
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    prompt["pixel_values"] = pixels
    found = {}
    for kernel in ("eager", "sdpa"):
        model = tiny.llava().to(dtype)
        model.set_attn_implementation(kernel)
        with torch.no_grad(), attach(model, IMCCD(beta=0.0)):
            found[kernel] = model(**{**prompt, "pixel_values": pixels.to(dtype)}).logits[:, -1].float()
    assert (found["eager"] - found["sdpa"]).abs().max() < (0.06 if dtype == torch.float16 else 0.5)


@pytest.mark.parametrize("owner", [[0, 0, 1], [0, 1, 0]])
@pytest.mark.parametrize("case", ["llava", "instructblip"])
def test_images_that_are_encoded_once_are_noised_for_each_question(case, owner):
    model, batch = model_of(case), dict(CASES[case].batch())
    batch["pixel_values"] = batch["pixel_values"][owner]
    with attach((model, Processor()), VCD(beta=0.0)):
        right, tokens = run(model, batch)
        with images_once(model, owner):
            found, _ = run(model, batch, tokens)
    assert (found - right).abs().max() < 1e-5


@pytest.mark.parametrize("rows", [[1, 0], [0], [0, 0, 1, 1]])
def test_samples_without_an_image_follow_the_cache(rows):
    """A cache reordered, selected or repeated by hand takes the table of such samples with it."""
    model, rows = model_of("llava"), torch.tensor(rows)
    mixed = llava([1, *words(2), *IMAGE, *words(9, 1)], [1, *words(12, 2)])
    mask = torch.nn.functional.pad(mixed["attention_mask"], (0, 1), value=1)
    arguments = {
        "input_ids": torch.tensor([[50], [51]]),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1)[:, -1:],
    }
    with torch.no_grad(), attach(model, VCD(beta=0.0)):
        right = model(**arguments, past_key_values=prefilled(model, mixed)).logits[rows, -1]
        cache = prefilled(model, mixed)
        if len(rows) == 4:
            cache.batch_repeat_interleave(2)
        elif len(rows) == 2:
            cache.reorder_cache(rows)
        else:
            cache.batch_select_indices(rows)
        found = model(**{name: value[rows] for name, value in arguments.items()}, past_key_values=cache).logits[:, -1]
    assert (found - right).abs().max() < 1e-5


def test_a_shared_prefix_of_several_pieces_is_refused():
    """Two tiles of one image: which of the encoded pieces a question reads is not known."""
    model = tiny_models.internvl()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    head = torch.tensor([[1, 30, 31, *[tiny_models.IMAGE] * 32]])
    ids = torch.cat([head.expand(2, -1), torch.tensor([[40, 41, 42], [50, 51, 52]])], 1)
    with torch.no_grad(), attach((model, stand_in("internvl")), VCD(beta=0.0)):
        cache = prefill_prefix(model, {"input_ids": head, "pixel_values": pixels})
        with pytest.raises(CannotAct, match="1 prompts have 2 encoded pieces. Feed each prompt in one piece"):
            model.generate(input_ids=ids, **continued(cache, torch.zeros(2, dtype=torch.long)), max_new_tokens=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_padded_rows_are_numbers(dtype):
    model = tiny.llava().to(dtype)
    model.set_attn_implementation("eager")
    batch = tiny.llava_batch()
    with attach(model, IMCCD(beta=0.0)):
        logits = model(**{**batch, "pixel_values": batch["pixel_values"].to(dtype)}).logits[:, -1]
    logits.float().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_a_detached_handle_counts_no_further():
    model, batch = tiny.llava(), tiny.llava_batch()
    cache = StaticCache(config=model.config, max_cache_len=120)
    with torch.no_grad(), attach(model, "clva:tau=1") as handle:
        model.generate(**batch, past_key_values=cache, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        before = handle.effects
    cache.reset()
    with torch.no_grad():
        model.generate(**batch, past_key_values=cache, max_new_tokens=20, min_new_tokens=20, do_sample=False)
    assert handle.effects == before
