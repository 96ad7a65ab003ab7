"""Chunked prefill, preemption, defaults, and plain vLLM beside ours: an engine each."""

import pytest
from engines import CLOSE, QUESTIONS, SETTINGS, ask, check, difference, engine, logits_of, ours, pairs
from vllm import LLM
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
from vllm.v1.attention.selector import _cached_get_attn_backend


def test_requests_without_a_method_are_those_of_vllm_bit_for_bit(exported, scenes, monkeypatch):
    asked, more = pairs(scenes, 4), {"ignore_eos": True}
    with engine(exported) as llm:
        mixed = ask(llm, asked, [None, "clva", None, "clearsight"], 16, **more)
    monkeypatch.delenv("VLM_ANCHORS_METHOD")
    path = AttentionBackendEnum.CPU_ATTN.get_path()
    AttentionBackendEnum.CPU_ATTN.clear_override()
    _cached_get_attn_backend.cache_clear()
    try:
        llm = LLM(str(exported), **SETTINGS)
        plain = ask(llm, asked, [None] * 4, 16, **more)
        with pytest.raises(Exception, match="started without vlm-anchors"):
            ask(llm, asked[:1], ["clva"], 1)
        llm.llm_engine.engine_core.shutdown()
    finally:
        register_backend(AttentionBackendEnum.CPU_ATTN, path)
        _cached_get_attn_backend.cache_clear()
    for row in (0, 2):
        assert mixed[row].outputs[0].token_ids == plain[row].outputs[0].token_ids
        assert logits_of(mixed[row].outputs[0]) == logits_of(plain[row].outputs[0])
    assert logits_of(mixed[1].outputs[0]) != logits_of(plain[1].outputs[0])


@pytest.mark.parametrize("budget", [20, 33, 75])
def test_prompts_in_pieces(exported, bundled, scenes, budget):
    """Cuts fall inside the image (8 to 72) and would fall inside the text behind it."""
    with engine(exported, max_num_batched_tokens=budget) as llm:
        check(llm, bundled, pairs(scenes, 6), ["clva", "none", "clearsight", "pai:gamma=1", "clva", "clva"], 16)
        (output,) = ask(llm, [(scenes[0], "Is there a dog in the image? " * 20)], ["clva"])
        assert (output.outputs[0].finish_reason == "error") == (budget < 160)
        check(llm, bundled, pairs(scenes, 1), ["clva"], 4)  # the engine lives on


def test_preempted_requests_resume_exactly(exported, bundled, scenes):
    with engine(exported, max_num_seqs=8, num_gpu_blocks_override=18) as llm:
        asked = [(scenes[n], "Describe the image.") for n in range(8)]
        methods = ["clva", "clearsight", "clva", "none", "clva:rows=all", "pai:gamma=1", "clva", "clva"]
        outputs = ask(llm, asked, methods, 64, ignore_eos=True)
        preempted = sum(one.value for one in llm.get_metrics() if one.name == "vllm:num_preemptions")
        assert preempted > 0
        for (image, question), method, output in zip(asked, methods, outputs, strict=True):
            ids, logits = ours(bundled, method, image, question, 64)
            one = output.outputs[0]
            one.token_ids, one.logprobs = one.token_ids[: len(ids)], one.logprobs[: len(ids)]
            assert difference(one, (ids, logits)) < CLOSE


def test_the_default_method_comes_from_the_environment(exported, bundled, scenes):
    with engine(exported, method="clva:alpha=5") as llm:
        for named, expected in ((None, "clva:alpha=5"), ("none", "none")):
            (output,) = ask(llm, [(scenes[3], QUESTIONS[0])], [named])
            assert difference(output.outputs[0], ours(bundled, expected, scenes[3], QUESTIONS[0])) < CLOSE
