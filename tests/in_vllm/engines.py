"""Starts engines, asks them, and asks the same through transformers."""

import gc
from contextlib import contextmanager, nullcontext

import torch
from vllm import LLM, SamplingParams

from vlm_anchors.integrations.vllm import engine_args
from vlm_anchors.interventions.attachment import attach

PROMPT = "A chat about an image. USER: <image>\n{} ASSISTANT:"
CLOSE = 1e-4
"""Of logits in float32."""
QUESTIONS = ["Is there a dog in the image?", "Describe the image.", "Is there a car in the image?", "What is shown?"]
SETTINGS = {
    "dtype": "float32", "max_model_len": 256, "enforce_eager": True, "limit_mm_per_prompt": {"image": 2},
    "max_num_seqs": 4, "block_size": 32, "logprobs_mode": "raw_logits", "disable_log_stats": False,
}  # fmt: skip


@contextmanager
def engine(folder, *, method="none", **settings):
    """An engine with the plug-in on."""
    llm = LLM(str(folder), **{**SETTINGS, **engine_args(method=method), **settings})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


def request(image, question):
    images = image if isinstance(image, list) else [image]
    prompt = PROMPT.format(question).replace("<image>\n", "<image>\n" * len(images))
    return {"prompt": prompt, "multi_modal_data": {"image": images}}


def params(method=None, tokens=16, **more):
    extra = {} if method is None else {"extra_args": {"vlm_anchors": method}}
    # Several answers to one prompt must be drawn; from the best token alone, that is greedy.
    how = {"temperature": 1.0, "top_k": 1} if more.get("n", 1) > 1 else {"temperature": 0}
    return SamplingParams(max_tokens=tokens, logprobs=20, **how, **extra, **more)


def ask(llm, pairs, methods, tokens=16, **more):
    """Outputs for (image, question) pairs, all in flight at once."""
    wanted = [params(method, tokens, **more) for method in methods]
    return llm.generate([request(*pair) for pair in pairs], wanted, use_tqdm=False)


def ours(vlm, method, image, question, tokens=16):
    """(token ids, logits of each step) through transformers."""
    sent = request(image, question)
    inputs = vlm.processor(text=sent["prompt"], images=sent["multi_modal_data"]["image"], return_tensors="pt")
    on = nullcontext() if method == "none" else attach((vlm.model, vlm.processor), method.split("+"))
    with on, torch.no_grad():
        made = vlm.model.generate(
            **inputs, max_new_tokens=tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    ids = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    return ids, torch.stack([logits[0] for logits in made.logits])


def difference(output, expected):
    """The largest difference of any of the best 20 logits at any step; the tokens must be the same."""
    ids, logits = expected
    found = list(output.token_ids)
    assert found == ids
    return max(
        abs(one.logprob - float(logits[step, token]))
        for step, best in enumerate(output.logprobs)
        for token, one in best.items()
    )


def logits_of(output):
    return [{token: one.logprob for token, one in best.items()} for best in output.logprobs]


def pairs(scenes, count):
    return [(scenes[n % len(scenes)], QUESTIONS[n % len(QUESTIONS)]) for n in range(count)]


def check(llm, bundled, asked, methods, tokens):
    for (image, question), method, output in zip(asked, methods, ask(llm, asked, methods, tokens), strict=True):
        assert difference(output.outputs[0], ours(bundled, method, image, question, tokens)) < CLOSE, method
