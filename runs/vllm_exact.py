"""How exact methods are inside vLLM: results/vllm_cpu.json, "exact". Tokens and logits against transformers, in float32.

.venv-vllm/bin/python runs/vllm_exact.py        100 POPE questions and 20 captions of 64 tokens on the bundled model, CLVA
"""

import json
import os
import tempfile
from pathlib import Path

os.environ.update(
    VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_LOGGING_LEVEL="ERROR", OMP_NUM_THREADS="1",
)  # fmt: skip
FILE = Path(__file__).parent.parent / "results" / "vllm_cpu.json"
POPE, CAPTIONS, TOKENS = 100, 20, 64
METHODS = ("none", "clva")


def main() -> None:
    import torch

    import vlm_anchors as va
    from vlm_anchors.integrations.vllm import engine_args
    from vlm_anchors.integrations.vllm.export import export_vllm
    from vlm_anchors.provenance import provenance
    from vlm_anchors.scenes import draw, sample
    from vlm_anchors.scenes.pope import questions
    from vlm_anchors.scenes.questions import POPE as WORDS
    from vlm_anchors.scenes.questions import article

    torch.set_num_threads(1)
    scenes = [scene for scene in sample(200, 0) if len(scene.present) >= 3][:40]
    asked = [
        (draw.render(scene), WORDS.format(a=article(name)), 4) for scene, name, _ in questions(scenes, 0)["adversarial"]
    ][:POPE]
    asked += [(draw.render(scene), "Describe the image in detail.", TOKENS) for scene in scenes[:CAPTIONS]]
    with tempfile.TemporaryDirectory() as place:
        folder = export_vllm("scenes", Path(place))
        from vllm import LLM, SamplingParams

        llm = LLM(
            str(folder), dtype="float32", max_model_len=256, enforce_eager=True, max_num_seqs=16,
            limit_mm_per_prompt={"image": 1}, logprobs_mode="raw_logits", **engine_args("none"),
        )  # fmt: skip
        vlm, found = va.load("scenes", device="cpu", dtype="float32"), {}
        for method in METHODS:
            requests, params = [], []
            for image, question, tokens in asked:
                prompt = f"A chat about an image. USER: <image>\n{question} ASSISTANT:"
                requests.append({"prompt": prompt, "multi_modal_data": {"image": image}})
                params.append(
                    SamplingParams(temperature=0, max_tokens=tokens, logprobs=20, extra_args={"vlm_anchors": method})
                )
            outputs = llm.generate(requests, params, use_tqdm=False)
            found[method] = compared(vlm, method, requests, outputs, [tokens for *_, tokens in asked])
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    exact = {"model": "scenes", "dtype": "float32", "pope": POPE, "captions": CAPTIONS, "tokens": TOKENS, **found}
    FILE.write_text(json.dumps({**before, "exact": {**exact, **provenance("cpu")}}, indent=1) + "\n")
    print(json.dumps(found))


def compared(vlm, method, requests, outputs, lengths) -> dict:
    """How many answers have equal tokens, and the largest difference of a logit at a step before which all are equal."""
    import torch

    import vlm_anchors as va

    same, worst, first = 0, 0.0, 0.0
    for request, output, tokens in zip(requests, outputs, lengths, strict=True):
        inputs = vlm.processor(text=request["prompt"], images=request["multi_modal_data"]["image"], return_tensors="pt")
        with torch.no_grad(), va.attach(vlm, method):
            made = vlm.model.generate(
                **inputs, max_new_tokens=tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        expected = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        answer = output.outputs[0]
        same += list(answer.token_ids) == expected
        for step, best in enumerate(answer.logprobs):
            if step >= len(expected) or list(answer.token_ids[:step]) != expected[:step]:
                break
            off = max(abs(one.logprob - float(made.logits[step][0, token])) for token, one in best.items())
            worst, first = max(worst, off), max(first, off if step == 0 else 0.0)
    return {"answers": len(outputs), "same_tokens": same, "largest_logit_difference": worst, "at_the_first_step": first}


if __name__ == "__main__":
    main()
