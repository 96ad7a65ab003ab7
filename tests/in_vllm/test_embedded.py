"""AttAnchor inside vLLM: prompts of embeddings give the tokens and logits of transformers, alone, in a batch and in `eval`."""

import json

import pytest
import torch
from engines import CLOSE, QUESTIONS, difference, engine, params, request

from vlm_anchors.errors import CannotAct
from vlm_anchors.evaluation.runner.bundled import bundled_data
from vlm_anchors.evaluation.runner.run import evaluate
from vlm_anchors.integrations.vllm import embedded_prompt
from vlm_anchors.integrations.vllm.answerer import VllmAnswerer
from vlm_anchors.methods import METHODS as CATALOGUE

METHODS = ["attanchor:tau=0.03", "attanchor:tau=0,tokens=all", "attanchor-i2t:tau=0.03"]


def records(run):
    lines = map(json.loads, (run / "records.jsonl").read_text().splitlines())
    return {(line["id"], line["method"]): line for line in lines}


def expected(bundled, method, image, question, tokens):
    inputs = bundled.processor(text=request(image, question)["prompt"], images=[image], return_tensors="pt")
    with torch.no_grad():
        inputs = CATALOGUE.build(method).prepare(bundled, inputs)
        made = bundled.model.generate(
            **inputs, max_new_tokens=tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    return made.sequences[0, inputs["input_ids"].shape[1] :].tolist(), torch.stack([one[0] for one in made.logits])


def test_one_by_one_and_in_one_batch(exported, bundled, scenes):
    asked = [
        (method, image, question) for method, image, question in zip(METHODS * 2, scenes, QUESTIONS * 2, strict=False)
    ]
    prompts = [embedded_prompt(bundled, image, question, method) for method, image, question in asked]
    plain = [bundled.processor(text=request(image, question)["prompt"], images=[image]) for _, image, question in asked]
    for prompt, one in zip(prompts, plain, strict=True):
        assert len(prompt["prompt_embeds"]) > len(one["input_ids"][0]), "a method inserted nothing"
    with engine(exported, enable_prompt_embeds=True) as llm:
        alone = [llm.generate([prompt], [params("none")], use_tqdm=False)[0] for prompt in prompts]
        together = llm.generate(prompts, [params("none")] * len(prompts), use_tqdm=False)
        (plain,) = llm.generate([request(scenes[0], QUESTIONS[0])], [params("clva")], use_tqdm=False)
    for (method, image, question), *found in zip(asked, alone, together, strict=True):
        ours = expected(bundled, method, image, question, 16)
        assert all(difference(one.outputs[0], ours) < CLOSE for one in found)
    assert plain.outputs[0].token_ids


def test_eval(bundled, tmp_path):
    data, images = bundled_data("pope", tmp_path, split="adversarial", limit=12)
    more = {"data": data, "images": images, "split": "adversarial", "limit": 12, "methods": ["none", METHODS[0]]}

    def in_vllm(answerer):
        return VllmAnswerer.of(answerer, tmp_path / "model", enforce_eager=True, max_model_len=256)

    evaluate(bundled, "pope", tmp_path / "v", answer_with=in_vllm, **more)
    evaluate(bundled, "pope", tmp_path / "t", **more)
    ours, theirs = records(tmp_path / "t"), records(tmp_path / "v")
    assert ours.keys() == theirs.keys() and len(ours) == 24
    for key, one in ours.items():
        assert theirs[key]["answer"] == one["answer"]
        assert theirs[key]["yes_no"] == pytest.approx(one["yes_no"], abs=1e-3)


def test_the_engine_says_how_to_run_it(exported):
    with pytest.raises(CannotAct, match="embedded_prompt"), engine(exported, method="attanchor"):
        pass
