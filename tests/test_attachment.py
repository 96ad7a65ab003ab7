"""The attachment is safe: models, threads, blocks and copies do not meet, training passes through, nothing is left behind."""

import copy
import threading
import warnings

import pytest
import tiny
import torch
from test_clva import split

from vlm_anchors.errors import AnchorsWarning, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.clva import CLVA


@pytest.fixture
def model():
    return tiny.llava()


@torch.no_grad()
def logits(model, batch=None):
    return model(**(batch or tiny.llava_batch())).logits[:, -1]


def test_two_models_do_not_meet(model):
    other = tiny.llava(seed=1)
    plain = logits(other)
    with attach(model, CLVA()):
        assert torch.equal(logits(other), plain)
        with attach(other, CLVA(alpha=5.0)):
            inner = logits(other)
            assert not torch.equal(inner, plain)
    with attach(other, CLVA(alpha=5.0)):
        assert torch.equal(logits(other), inner)


def test_two_models_that_share_a_config(model):
    other = copy.deepcopy(model)
    other.model.language_model.config = model.model.language_model.config
    plain = logits(other)
    with attach(model, CLVA()):
        assert torch.equal(logits(other), plain)


def test_threads_with_different_dials(model):
    """Each thread's result is bit-identical to its own alone, many times over, also of a thread that attached nothing."""
    parameters = [None, CLVA(), CLVA(alpha=5.0), CLVA(alpha=0.0)]

    def run(method):
        if method is None:
            return logits(model)
        with attach(model, method):
            return logits(model)

    alone = [run(method) for method in parameters]
    wrong = []

    def work(which):
        for _ in range(5):
            if not torch.equal(run(parameters[which]), alone[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert torch.equal(logits(model), alone[0])


def test_a_thread_that_did_not_attach_runs_the_plain_model_and_says_so(model):
    plain, seen = logits(model), []
    with pytest.warns(AnchorsWarning, match="Attach inside the thread"), attach(model, CLVA()):
        thread = threading.Thread(target=lambda: seen.append(logits(model)))
        thread.start()
        thread.join()
    assert torch.equal(seen[0], plain)


def test_nested_blocks_the_inner_one_counts(model):
    with attach(model, CLVA(alpha=5.0)):
        weak = logits(model)
        with attach(model, CLVA()):
            strong = logits(model)
        assert torch.equal(logits(model), weak)
    assert not torch.equal(weak, strong)
    with attach(model, CLVA()):
        assert torch.equal(logits(model), strong)


def test_handles_taken_off_in_any_order(model):
    plain = logits(model)
    first, second = attach(model, CLVA(alpha=5.0)), attach(model, CLVA())
    strong = logits(model)
    first.detach()
    assert torch.equal(logits(model), strong)
    second.detach()
    second.detach()
    assert torch.equal(logits(model), plain)


def test_a_failed_attach_leaves_nothing(model):
    with pytest.raises(CannotAct):
        attach(model, CLVA(positive_layer=40))
    assert model.config.text_config._attn_implementation == "sdpa"
    assert not model.model.language_model._forward_pre_hooks


def test_a_failed_forward_leaves_nothing(model):
    plain = logits(model)
    with attach(model, CLVA()):
        steered = logits(model)
        bad = {**tiny.llava_batch(), "pixel_values": torch.zeros(1, 3, 32, 32)}
        with pytest.raises(ValueError, match="do not match"):
            logits(model, bad)
        assert torch.equal(logits(model), steered)
    assert torch.equal(logits(model), plain)


def test_a_generation_ends_with_its_block(model):
    """A cache filled with the method attached is a plain one after the block."""
    single = split(tiny.llava_batch(), 0)
    with attach(model, CLVA()), torch.no_grad():
        cache = model(**single, use_cache=True).past_key_values
        contrastive_branch = copy.deepcopy(cache)
        steered = model(input_ids=torch.tensor([[9]]), past_key_values=cache).logits
        third = copy.deepcopy(contrastive_branch)
    step = {"input_ids": torch.tensor([[9]])}
    with torch.no_grad():
        plain = model(**step, past_key_values=copy.deepcopy(contrastive_branch)).logits
    assert not torch.equal(steered, plain)
    with attach(model, CLVA(alpha=3.0)), torch.no_grad(), pytest.warns(AnchorsWarning, match="No visual tokens"):
        # What a later block finds on a copy of the cache is nobody's: it has not seen the image with its own method.
        model(**step, past_key_values=contrastive_branch)
        assert torch.equal(model(**step, past_key_values=third).logits, plain)


def test_copies_of_an_attached_model_are_plain(model, tmp_path):
    plain = logits(model)
    with attach(model, CLVA()):
        steered = logits(model)
        contrastive_branch = copy.deepcopy(model)
        model.save_pretrained(tmp_path)
        assert torch.equal(logits(contrastive_branch), plain)
        assert torch.equal(logits(model), steered)
    assert torch.equal(logits(contrastive_branch), plain)
    assert "vlm_anchors" not in (tmp_path / "config.json").read_text()
    assert torch.equal(logits(type(model).from_pretrained(tmp_path)), plain)
    with attach(contrastive_branch, CLVA()):
        assert torch.equal(logits(contrastive_branch), steered)


def losses(model, checkpointing=None):
    """Loss and gradients of a training step with labels on the last words."""
    batch = split(tiny.llava_batch(), 2)
    labels = batch["input_ids"].clone()
    labels[:, :-4] = -100
    if checkpointing is not None:
        # transformers 5.18 has the older name only; a later one warns of it.
        newer = hasattr(model, "activation_checkpointing_enable")
        enable = model.activation_checkpointing_enable if newer else model.gradient_checkpointing_enable
        enable({"use_reentrant": checkpointing})
    model.train()
    model.zero_grad()
    with attach(model, CLVA()):
        loss = model(**batch, labels=labels, use_cache=False).loss
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), grads


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_replays_the_same_anchors(reentrant):
    """Also when the backward pass runs after the block has ended."""
    base, wanted = losses(tiny.llava())
    model = tiny.llava()
    loss, grads = losses(model, reentrant)
    assert model.config.text_config._attn_implementation == "sdpa"
    assert torch.equal(base, loss)
    names = [name for name in wanted if "language_model" in name and "embed" not in name]
    assert max(float((grads[name] - wanted[name]).abs().max()) for name in names) < 1e-6


def test_gradients_equal_the_eager_kernel():
    eager = tiny.llava()
    eager.set_attn_implementation("eager")
    _, fast = losses(tiny.llava())
    _, slow = losses(eager)
    assert max(float((fast[name] - slow[name]).abs().max()) for name in slow) < 2e-6


def test_lora_forward_and_backward():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    plain = tiny.llava()
    with attach(plain, CLVA()):
        wanted = logits(plain)
    wrapped = peft.get_peft_model(tiny.llava(), config).eval()
    with attach(wrapped, CLVA()) as handle:
        assert torch.equal(logits(wrapped), wanted)
        batch = tiny.llava_batch()
        labels = batch["input_ids"].where(batch["attention_mask"].bool(), -100)
        labels[:, :-2] = -100
        wrapped(**batch, labels=labels).loss.backward()
    assert handle.prompts == 2
    grads = [p.grad for name, p in wrapped.named_parameters() if "lora_B" in name]
    assert len(grads) == 16 and all(float(g.abs().sum()) > 0 for g in grads)


def test_layers_offloaded_by_accelerate(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    plain = tiny.llava()
    with attach(plain, CLVA()):
        wanted = logits(plain)
    model = tiny.llava()
    layers = {f"model.language_model.layers.{n}": "disk" if n > 4 else "cpu" for n in range(8)}
    rest = ["model.vision_tower", "model.multi_modal_projector", "model.language_model.embed_tokens"]
    rest += ["model.language_model.norm", "model.language_model.rotary_emb", "lm_head"]
    device_map = {**layers, **dict.fromkeys(rest, "cpu")}
    model = accelerate.dispatch_model(model, device_map, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    with attach(model, CLVA()):
        assert torch.equal(logits(model), wanted)


def test_a_prompt_without_an_image_is_left_alone_with_a_warning(model):
    ids = torch.tensor([[1, 9, 10, 11]])
    plain = model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
    with attach(model, CLVA()), pytest.warns(AnchorsWarning, match="No visual tokens"):
        assert torch.equal(plain, model.generate(input_ids=ids, max_new_tokens=3, do_sample=False))


def test_too_few_visual_tokens_warn():
    model = tiny.llava()
    batch = split(tiny.llava_batch(), 0)
    with (
        attach(model, CLVA(tau=9.0)),
        pytest.warns(AnchorsWarning, match="64 visual tokens can have no anchor.*lower tau"),
    ):
        model.generate(**batch, max_new_tokens=1)


def test_too_few_visual_tokens_warn_beside_a_sample_without_an_image():
    """Scored together, the images of the other sample are few; the one without any says nothing of them."""
    batch = tiny.llava_batch(texts=((5, 0), (3, 66)))
    ids = batch["input_ids"]
    ids[1] = torch.where(ids[1] == tiny.IMAGE, 9, ids[1])
    batch["pixel_values"] = batch["pixel_values"][:1]
    model = tiny.llava()
    with attach(model, CLVA(tau=9.0, images="all")), pytest.warns(AnchorsWarning, match="64 visual tokens"):
        model.generate(**batch, max_new_tokens=1)


def test_a_list_may_hold_specs(model):
    with attach(model, [CLVA(), "deco:alpha=2"]) as handle:
        both = logits(model)
    assert set(handle.effects[0]) == {"clva", "deco"}
    with attach(model, "clva+deco:alpha=2"):
        assert torch.equal(logits(model), both)
    with pytest.raises(CannotAct, match="Expected a method such as"):
        attach(model, ["clva", 3])


def test_a_handle_that_never_ran_blames_no_thread(model, recwarn):
    """A plain run before, and the contrastive branch of another method, are no threads that had not attached it."""
    logits(model)
    with attach(model, "vcd:beta=0"):
        with attach(model, CLVA()):
            pass
        logits(model)
        attach(model, CLVA()).detach()
    attach(model, CLVA()).detach()
    assert not [one for one in recwarn if "was attached in another" in str(one.message)]


def test_a_run_in_another_thread_is_told_at_its_first_forward(model):
    handle, told = attach(model, CLVA()), []

    def run():
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for _ in range(2):
                logits(model)
                told.append(len(seen))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    handle.detach()
    assert told == [1, 1]
