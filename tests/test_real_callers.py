"""The ways in which real programs call a model: each acts under a method, or says why it cannot. On the bundled model."""

import asyncio
import concurrent.futures
import threading

import pytest
import torch
import transformers
from transformers.generation.configuration_utils import ContinuousBatchingConfig

import vlm_anchors as va
from vlm_anchors import scenes

PROMPT = "A chat about an image. USER: <image>\nPlease describe this image in detail. ASSISTANT:"
STRONG = "clva:alpha=200,tau=1"
RULES = {"max_new_tokens": 12, "do_sample": False}


@pytest.fixture(scope="module")
def vlm():
    return va.load("scenes", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def inputs(vlm):
    image = scenes.render(next(scene for scene in scenes.sample(20) if len(scene.present) > 3))
    return {"image": image, "tensors": vlm.processor(text=PROMPT, images=image, return_tensors="pt")}


@pytest.fixture(scope="module")
def wanted(vlm, inputs):
    """The answer under the method, which differs from the plain one."""
    plain = answer(vlm, inputs)
    with va.attach(vlm, STRONG):
        found = answer(vlm, inputs)
    assert found != plain
    return found


def answer(vlm, inputs, model=None):
    with torch.no_grad():
        made = (model or vlm.model).generate(**inputs["tensors"], **RULES)
    return vlm.processor.tokenizer.decode(made[0, inputs["tensors"]["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.fixture
def enabled(vlm):
    handle = va.enable(vlm, STRONG)
    yield handle
    va.disable(vlm)


def test_text_iterator_streamer(vlm, inputs, wanted, enabled):
    streamer = transformers.TextIteratorStreamer(vlm.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    call = {**inputs["tensors"], **RULES, "streamer": streamer}
    thread = threading.Thread(target=vlm.model.generate, kwargs=call)
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == wanted and enabled.effects[0]["clva"]["rows_edited"]


@pytest.mark.parametrize("how", ["attach", "enable"])
def test_pipeline(vlm, inputs, wanted, how):
    pipe = transformers.pipeline("image-text-to-text", model=vlm.model, processor=vlm.processor)

    def ask():
        found = pipe(images=inputs["image"], text=PROMPT, return_full_text=False, generate_kwargs=RULES)
        return found[0]["generated_text"]

    if how == "attach":
        with va.attach(vlm, STRONG):
            assert ask().strip() == wanted.strip()
    else:
        va.enable(vlm, STRONG)
        assert ask().strip() == wanted.strip()
        va.disable(vlm)
    assert ask().strip() != wanted.strip()


def test_to_thread_and_executors(vlm, inputs, wanted, enabled):
    async def both():
        inside = await asyncio.to_thread(answer, vlm, inputs)
        return inside, await asyncio.get_running_loop().run_in_executor(None, answer, vlm, inputs)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        # In a thread of its own: a browser's tests may have left an event loop running in this one.
        assert pool.submit(lambda: asyncio.run(both())).result() == (wanted, wanted)
        assert list(pool.map(lambda _: answer(vlm, inputs), range(2))) == [wanted, wanted]


@pytest.mark.grid
@pytest.mark.parametrize("how", ["attach", "enable"])
def test_continuous_batching_is_refused_and_plain_again_afterwards(vlm, how):
    ids = vlm.processor.tokenizer("A chat about an image. USER: hello ASSISTANT:")["input_ids"]
    rules = transformers.GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=2, pad_token_id=0)
    small = ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=32)

    def batch():
        more = {"generation_config": rules, "continuous_batching_config": small}
        return next(iter(vlm.model.generate_batch(inputs=[ids], **more).values()))

    if how == "attach":
        with va.attach(vlm, STRONG):
            refused = batch()
    else:
        va.enable(vlm, STRONG)
        refused = batch()
        va.disable(vlm)
    assert not refused.generated_tokens and "generate_batch (continuous batching)" in refused.error
    with va.attach(vlm, "none"):
        assert not batch().error
    assert len(batch().generated_tokens) == 3
