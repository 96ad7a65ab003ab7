"""What a method costs inside vLLM on a CPU, and beside transformers: results/vllm_cpu.json, "cost".

.venv-vllm/bin/python runs/vllm_cost.py [mid|scenes ...]     one thread; the seconds are the process's own, not the clock's,
                                                            so that a busy machine disturbs them less. KINDS=plugin:
                                                            the first of the three processes only

Captions: 16 images, 64 new tokens each. Questions: the same images, 1 new token each. Rounds alternate plain and method
in one engine; plain vLLM without the plug-in has a process of its own.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE = ROOT / "results" / "vllm_cpu.json"
REQUESTS, TOKENS = int(os.environ.get("REQUESTS", "16")), 64
ROUNDS = int(os.environ.get("ROUNDS", "5"))
METHODS = ("none", "clva")
NAMES = {"plugin": "vllm with the plug-in", "plain": "vllm without it", "transformers": "transformers"}
KINDS = os.environ.get("KINDS", "plugin,plain,transformers").split(",")
QUIET = {
    "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip


def mid_folder(out: Path) -> Path:
    """Random weights of the shape `mid`, with the bundled model's tokenizer and a processor for its images."""
    import torch
    import transformers as hf

    import vlm_anchors as va
    from vlm_anchors.profiling.shapes import SHAPES

    config, bundled = SHAPES["mid"].config(), va.load("scenes", device="cpu")
    config.image_token_index = config.image_token_id = bundled.model.config.image_token_index
    torch.manual_seed(0)
    hf.LlavaForConditionalGeneration(config).save_pretrained(out)
    size = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
    processor = bundled.processor
    processor.patch_size, processor.image_processor.size = config.vision_config.patch_size, size
    processor.image_processor.crop_size = size
    processor.save_pretrained(out)
    return out


def work() -> tuple[list, list]:
    """(images, prompts)."""
    from vlm_anchors.scenes import draw, sample

    images = [draw.render(scene) for scene in sample(REQUESTS, 0)]
    return images, ["A chat about an image. USER: <image>\nDescribe the image in detail. ASSISTANT:"] * REQUESTS


def timed(run) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def in_vllm(folder: str, plugin: bool) -> dict:
    import torch
    from vllm import LLM, SamplingParams

    from vlm_anchors.integrations.vllm import engine_args

    torch.set_num_threads(1)
    more = engine_args("none") if plugin else {}
    llm = LLM(
        folder, dtype="float32", max_model_len=1024, enforce_eager=True, max_num_seqs=REQUESTS,
        limit_mm_per_prompt={"image": 1}, **more,
    )  # fmt: skip
    images, prompts = work()
    requests = [{"prompt": p, "multi_modal_data": {"image": i}} for p, i in zip(prompts, images, strict=True)]

    def ask(method: str, tokens: int) -> float:
        extra = {"extra_args": {"vlm_anchors": method}} if plugin else {}
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, **extra)
        llm.reset_prefix_cache()
        return timed(lambda: llm.generate(requests, params, use_tqdm=False))

    return rounds(ask, METHODS if plugin else ("none",))


def in_transformers(folder: str) -> dict:
    import torch

    import vlm_anchors as va

    torch.set_num_threads(1)
    vlm = va.load(folder, device="cpu", dtype="float32")
    images, prompts = work()

    def ask(method: str, tokens: int) -> float:
        def run() -> None:
            inputs = vlm.processor(text=prompts, images=images, return_tensors="pt")
            with torch.no_grad(), va.attach(vlm, method):
                vlm.model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

        return timed(run)

    return rounds(ask, METHODS)


def rounds(ask, methods) -> dict:
    """Median requests and tokens a second of each method, and the median over rounds of its ratio to plain."""
    for method in methods:
        ask(method, 4)
    found = {}
    for name, tokens in (("captions", TOKENS), ("questions", 1)):
        seconds = {method: [] for method in methods}
        for _ in range(ROUNDS):
            for method in methods:
                seconds[method].append(ask(method, tokens))
        for method in methods:
            middle = statistics.median(seconds[method])
            ratios = [plain / own for plain, own in zip(seconds["none"], seconds[method], strict=True)]
            found.setdefault(method, {})[name] = {
                "requests_a_second": round(REQUESTS / middle, 3),
                "tokens_a_second": round(REQUESTS * tokens / middle, 2),
                "share_of_plain": round(statistics.median(ratios), 4),
                "shares": [round(one, 4) for one in sorted(ratios)],
            }
    return found


def main(subjects: list[str]) -> None:
    from vlm_anchors.integrations.vllm.export import export_vllm
    from vlm_anchors.provenance import provenance

    def before() -> dict:
        return json.loads(FILE.read_text()) if FILE.exists() else {}

    cost = before().get("cost", {})
    for subject in subjects or ["scenes", "mid"]:
        with tempfile.TemporaryDirectory() as place:
            source = "scenes" if subject == "scenes" else str(mid_folder(Path(place) / "hf"))
            folder = str(export_vllm(source, Path(place) / "vllm"))
            cost[subject] = {
                **{NAMES[kind]: child(kind, source if kind == "transformers" else folder) for kind in KINDS},
                "requests": REQUESTS, "new_tokens": TOKENS, "rounds": ROUNDS, "seconds": "of the process", **provenance("cpu"),
            }  # fmt: skip
        FILE.write_text(json.dumps({**before(), "cost": cost}, indent=1) + "\n")


def child(kind: str, folder: str) -> dict:
    env = {**os.environ, **QUIET}
    env.pop("VLM_ANCHORS_METHOD", None)
    done = subprocess.run(
        [sys.executable, __file__, "--child", kind, folder], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        kind, folder = sys.argv[2:]
        print(json.dumps(in_transformers(folder) if kind == "transformers" else in_vllm(folder, kind == "plugin")))
    else:
        main(sys.argv[1:])
