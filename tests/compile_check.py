"""Run by test_compile.py in a process of its own: the shape checks of the tests cannot be traced by torch.compile.

Prints one JSON line: tokens of the plain run and of the compiled decoding step, graph breaks, and compiled graphs.
"""

import json
import sys
import warnings

import tiny
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig

from vlm_anchors.engine import attach
from vlm_anchors.methods.clva import CLVA

warnings.simplefilter("ignore")
torch.set_num_threads(1)


def tokens(model, batch, **how):
    out = model.generate(
        **batch, max_new_tokens=8, min_new_tokens=8, do_sample=False, cache_implementation="static", **how
    )
    return out[:, batch["input_ids"].shape[1] :].tolist()


def main(backend):
    config = CompileConfig(fullgraph=True, backend=backend, mode=None)
    config._compile_all_devices = True
    model, batch = tiny.llava(layers=6), tiny.llava_batch()
    plain = tokens(model, batch, disable_compile=True)
    with attach(model, CLVA()):
        wanted = tokens(model, batch, disable_compile=True)
        torch._dynamo.reset()
        counters.clear()
        found = tokens(model, batch, compile_config=config)
        again = tokens(model, batch, compile_config=config)
    off = tokens(model, batch, compile_config=config)
    told = {
        "plain": plain, "wanted": wanted, "found": found, "again": again, "off": off,
        "breaks": sum(counters["graph_break"].values()), "graphs": counters["stats"]["unique_graphs"],
    }  # fmt: skip
    sys.stdout.write(json.dumps(told))


main(sys.argv[1])
