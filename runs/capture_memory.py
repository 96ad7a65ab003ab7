"""What watching attention costs in memory: results/capture_memory.json. `output_attentions=True` against `Capture`, on the
shape `mid` (12 layers, 12 heads, 576 visual tokens, random weights): one prompt and a few generated tokens, batch 1.

python runs/capture_memory.py [--device cpu] [--new-tokens 8]
"""

import argparse
import json
from pathlib import Path

import torch

from vlm_anchors.analysis import Capture
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.profiling import shapes
from vlm_anchors.provenance import provenance

OUT = Path(__file__).parent.parent / "results" / "capture_memory.json"


def peak_of(model, run):
    """(what `run` returned, bytes at the peak above what stood before): from the allocator on CUDA, its events on a CPU."""
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_allocated(model.device)
        return run(), torch.cuda.max_memory_allocated(model.device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return result, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--new-tokens", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, shape = shapes.build("mid", given.device)
    inputs = shapes.prompt(model, shape, 1)
    settings = {"max_new_tokens": given.new_tokens, "min_new_tokens": given.new_tokens, "do_sample": False}

    _, plain = peak_of(model, lambda: model.generate(**inputs, **settings))
    seen = Capture()
    with attach(model, "none", recorder=seen):
        _, capture = peak_of(model, lambda: model.generate(**inputs, **settings))
    model.set_attn_implementation("eager")
    told, eager = peak_of(
        model, lambda: model.generate(**inputs, **settings, output_attentions=True, return_dict_in_generate=True)
    )
    kept = sum(layer.numel() * layer.element_size() for step in told.attentions for layer in step)
    result = {
        **provenance(given.device),
        "command": "python runs/capture_memory.py",
        "shape": "mid",
        "dtype": str(model.dtype).removeprefix("torch."),
        "prompt tokens": int(inputs["input_ids"].shape[1]),
        "text rows": int(seen.of()[0].visual.shape[2]),
        "new tokens": given.new_tokens,
        "peak bytes beside the weights": {
            "plain sdpa": plain,
            "Capture": capture,
            "output_attentions=True, eager": eager,
        },
        "kept bytes": {"Capture, float16": seen.kept_bytes, "output_attentions=True": kept},
        "ratio of peaks above plain": (capture - plain) / (eager - plain),
        "ratio of kept bytes": seen.kept_bytes / kept,
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
