"""The decoding step compiled, in a process of its own: the shape checks of the tests cannot be traced by torch.compile.

Run by test_compile.py. Prints one JSON line: tokens of the plain run and of the compiled step, graph breaks, and compiled
graphs; with a second argument "hooks", of methods with hooks beyond attention; with a third and a fourth, how and when a model
was compiled as a whole, what its prompt's logits are and what was said.
"""

import json
import sys
import warnings

import tiny
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig

from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.clva import CLVA
from vlm_anchors.methods.memvr import MemVR
from vlm_anchors.methods.vcd import VCD

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
    model, batch = tiny.llava(layers=4), tiny.llava_batch()
    plain = tokens(model, batch, disable_compile=True)
    with attach(model, CLVA()) as handle:
        wanted = tokens(model, batch, disable_compile=True)
        effects = handle.effects
        torch._dynamo.reset()
        counters.clear()
        found = tokens(model, batch, compile_config=config)
        same = handle.effects == effects
        again = tokens(model, batch, compile_config=config)
    same = same and handle.effects == effects
    off = tokens(model, batch, compile_config=config)
    summary = {
        "plain": plain, "wanted": wanted, "found": found, "again": again, "off": off, "effects": same,
        "breaks": sum(counters["graph_break"].values()), "graphs": counters["stats"]["unique_graphs"],
    }  # fmt: skip
    image = batch["input_ids"] == tiny.IMAGE
    ends = {
        "input_ids": batch["input_ids"][:1, : int(image[0].nonzero().max()) + 1],
        "pixel_values": batch["pixel_values"][:1],
    }
    with attach(model, CLVA(alpha=500.0, tau=0.5)):
        last = [tokens(model, ends, disable_compile=True), tokens(model, ends, compile_config=config)]
    last.append(tokens(model, ends, disable_compile=True))
    sys.stdout.write(json.dumps({**summary, "last": last}))


def hooks(backend):
    """Every hook beyond attention: compiled in pieces, and what a single graph is told."""
    model, batch = tiny.llava(layers=3), tiny.llava_batch()
    with attach(model, [VCD(beta=0.0), MemVR(gamma=0.0, layers=(1, 2))]) as handle:
        summary = {"wanted": tokens(model, batch, disable_compile=True)}
        effects = handle.effects
        for whole in (False, True):
            config = CompileConfig(fullgraph=whole, backend=backend, mode=None)
            config._compile_all_devices = True
            torch._dynamo.reset()
            try:
                summary["found"] = tokens(model, batch, compile_config=config)
                summary["effects"] = handle.effects == effects
            except torch._dynamo.exc.Unsupported as refused:
                summary["refused"] = str(refused)
    sys.stdout.write(json.dumps(summary))


def compiled(model, how, backend):
    """The model compiled as a whole, by a way users have."""
    if how == "torch.compile(model)":
        return torch.compile(model, backend=backend)
    if how == "model.forward":
        model.forward = torch.compile(model.forward, backend=backend)
    else:
        (model if how == "model.compile()" else model.model.language_model).compile(backend=backend)
    return model


def whole(backend, how, when):
    """A prompt through a model compiled as a whole, before a method was attached (and run), or after."""
    batch = tiny.llava_batch(texts=((5, 4),))

    def logits(model):
        with torch.no_grad():
            return model(**batch).logits[:, -1]

    model, method = tiny.llava(layers=4), CLVA(alpha=50.0, tau=1.0)
    wanted = {"plain": logits(model)}
    with attach(model, method):
        wanted["edited"] = logits(model)

    def which(found):
        return [name for name, one in wanted.items() if (found - one).abs().max() < 1e-5]

    faster = None
    if when == "before":
        faster = compiled(model, how, backend)
        assert which(logits(faster)) == ["plain"]
    with warnings.catch_warnings(record=True) as seen, attach(model, method):
        warnings.simplefilter("always")
        faster = compiled(model, how, backend) if faster is None else faster
        found = which(logits(faster))
    said = any("compiled as a whole, and no method acts" in str(one.message) for one in seen)
    sys.stdout.write(json.dumps({"found": found, "said": said, "after": which(logits(faster))}))


backend, *how = sys.argv[1:]
if len(how) == 2:
    whole(backend, *how)
else:
    (hooks if how else main)(backend)
