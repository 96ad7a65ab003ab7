"""Which method acts where: blocks inside blocks, threads, executors, tasks; and nothing that is left behind."""

import asyncio
import concurrent.futures
import contextvars
import gc
import os
import signal
import threading
import warnings
import weakref

import pytest
import tiny
import torch
from stand_ins import Processor

import vlm_anchors as va
from vlm_anchors.errors import AnchorsWarning
from vlm_anchors.interventions.attachment import ATTACHMENT, Attachment
from vlm_anchors.interventions.handle import ENABLED
from vlm_anchors.methods import METHODS
from vlm_anchors.methods.clva import CLVA

STRONG = CLVA(alpha=30.0)


@pytest.fixture
def model():
    return tiny.llava(layers=4)


@torch.no_grad()
def logits(model):
    return model(**tiny.llava_batch()).logits[:, -1]


def hooks_of(model):
    """How many hooks of ours there are; transformers has some of its own."""
    tables = [table for module in model.modules() for table in (module._forward_pre_hooks, module._forward_hooks)]
    found = [getattr(hook, "func", hook) for table in tables for hook in table.values()]
    return sum(hook.__module__.startswith("vlm_anchors") for hook in found)


def left_behind(model):
    """What a method on a model leaves in it."""
    stack = model.get_decoder()
    return hooks_of(model), stack.config._attn_implementation, ATTACHMENT in vars(stack), ENABLED in vars(model)


NOTHING = (0, "sdpa", False, False)


def steered(model, method=STRONG):
    with va.attach(model, method):
        return logits(model)


def in_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("outer", ["clva:alpha=30", "clva:alpha=30+deco", "attanchor:tau=0,tokens=all"])
def test_an_inner_none_is_the_plain_model(model, outer):
    plain = logits(model)
    with va.attach(model if "attanchor" in outer else (model, Processor()), outer) as handle:
        acting = logits(model)
        with va.attach(model, "none"):
            assert torch.equal(logits(model), plain)
        assert torch.equal(logits(model), acting) and handle.effects
    assert not torch.equal(acting, plain) and torch.equal(logits(model), plain)


def test_enable_acts_in_every_thread_until_disable(model):
    plain, wanted = logits(model), steered(model)
    va.enable(model, STRONG)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert all(torch.equal(one, wanted) for one in pool.map(logits, [model] * 4))
    assert torch.equal(in_a_loop(lambda: asyncio.to_thread(logits, model)), wanted)
    assert torch.equal(in_thread(lambda: steered(model, "none")), plain), "a thread's own choice goes before it"
    with va.attach(model, CLVA(alpha=1.0)):
        assert not torch.equal(logits(model), wanted)
    assert torch.equal(logits(model), wanted)
    va.enable(model, "none")
    assert torch.equal(logits(model), plain)
    va.disable(model)
    va.disable(model)
    assert torch.equal(in_thread(lambda: logits(model)), plain)
    assert left_behind(model) == NOTHING


def test_enable_and_attach_are_apart(model):
    """`disable` leaves what a context attached, and a context's end leaves what is enabled."""
    wanted = steered(model)
    with va.attach(model, STRONG):
        va.enable(model, CLVA(alpha=1.0))
        va.disable(model)
        assert torch.equal(logits(model), wanted)
    va.enable(model, STRONG)
    steered(model, CLVA(alpha=1.0))
    assert torch.equal(logits(model), wanted)
    va.disable(model)


def test_generate_in_a_thread_of_its_own_under_enable(model):
    """The streamer's idiom: `generate` runs in a thread, the text is read outside."""
    rules = {**tiny.llava_batch(), "max_new_tokens": 4, "do_sample": False}
    with va.attach(model, STRONG):
        wanted = model.generate(**rules)
    handle = va.enable(model, STRONG)
    assert torch.equal(in_thread(lambda: model.generate(**rules)), wanted)
    assert handle.effects[0]["clva"]["rows_edited"] > 0, "read outside the thread that ran"
    va.disable(model)


def test_the_effects_of_an_enabled_method_are_the_threads_own(model):
    handle = va.enable(model, STRONG)
    logits(model)
    own = handle.effects
    with torch.no_grad():
        in_thread(lambda: model(**{name: value[:1] for name, value in tiny.llava_batch().items()}))
    assert handle.effects == own and len(own) == 3
    va.disable(model)


def test_a_task_that_attached_nothing_is_told(model):
    async def both():
        with va.attach(model, STRONG):
            return await asyncio.to_thread(logits, model), await asyncio.get_running_loop().run_in_executor(
                None, logits, model
            )

    with pytest.warns(AnchorsWarning, match="clva was attached in another one"):
        acting, outside = in_a_loop(both)
    assert torch.equal(acting, steered(model)), "to_thread takes the context along"
    assert not torch.equal(outside, acting), "an executor does not"


def test_methods_come_and_go_in_six_threads_at_once(model):
    """Hooks of one thread appear and vanish while another is inside the model; no keyword is lost, no answer changes."""
    methods = ["none", "clva:alpha=30", "vcd:beta=0", "memvr:gamma=0.1", "deco", "attanchor:tau=0,tokens=all"]
    pair = (model, None)

    def run(method):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with va.attach(pair, method):
                return logits(model)

    alone = {method: run(method) for method in methods}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        wrong = [
            method
            for method, found in zip(methods * 6, pool.map(run, methods * 6), strict=True)
            if not torch.equal(found, alone[method])
        ]
    assert not wrong
    assert left_behind(model) == NOTHING


def in_a_loop(make):
    """What a coroutine returns, in a thread of its own: a browser test may have left a running loop in this one."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, lambda: asyncio.run(make())).result()


@pytest.mark.grid
@pytest.mark.parametrize("name", [name for name in METHODS.names() if name != "vicrop"])
def test_a_model_is_freed_after_its_method(name):
    model = tiny.llava(layers=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with va.attach(model if "attanchor" in name else (model, Processor()), METHODS.get(name).load()()):
            logits(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_model_is_freed_with_a_method_still_enabled():
    model = tiny.llava(layers=4)
    va.enable(model, STRONG)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_handle_of_a_thread_that_ended(model):
    handle = in_thread(lambda: va.attach(model, STRONG))
    handle.detach()
    assert left_behind(model) == NOTHING
    in_thread(lambda: va.attach(model, STRONG) and None)  # nobody holds it
    gc.collect()
    assert left_behind(model) == NOTHING


@pytest.mark.parametrize("where", ["_install", "release"])
def test_ctrl_c_inside_attach_or_detach_leaves_nothing(model, monkeypatch, where):
    plain, original = logits(model), getattr(Attachment, where)

    def interrupted(self, *args):
        original(self, *args)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Attachment, where, interrupted)
    monkeypatch.setattr(signal, "getsignal", signal.getsignal)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), va.attach(model, STRONG):
            logits(model)
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    assert left_behind(model) == NOTHING
    assert torch.equal(logits(model), plain)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_forked_while_threads_attach_can_attach(model):
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            va.attach(model, STRONG).detach()

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if not child:
                signal.alarm(20)  # ends a child that waits for ever
                va.attach(model, STRONG).detach()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_the_kernel_chosen_inside_a_block_runs_the_method_and_stays(model):
    wanted = steered(model)
    with va.attach(model, STRONG) as handle:
        model.set_attn_implementation("eager")
        assert (logits(model) - wanted).abs().max() < 1e-5
        assert handle.effects[0]["clva"]["rows_edited"] > 0
    assert model.get_decoder().config._attn_implementation == "eager"


def test_a_decoder_called_by_itself_says_that_it_sees_no_image(model):
    batch = tiny.llava_batch()
    embeds = torch.randn(*batch["input_ids"].shape, 64)  # words and image merged: no placeholder is left
    with (
        torch.no_grad(),
        va.attach(model, STRONG) as handle,
        pytest.warns(AnchorsWarning, match="No visual tokens in this prompt"),
    ):
        model.get_decoder()(inputs_embeds=embeds, attention_mask=batch["attention_mask"], use_cache=True)
    assert not handle.effects or handle.effects[0]["clva"]["rows_edited"] == 0
