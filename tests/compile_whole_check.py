"""Models compiled as a whole, in a process of its own: the shape checks of the tests cannot be traced by torch.compile.

Run by test_compile.py. Prints one JSON line: for each way of compiling and each order, whether the logits of a prompt are
those of the method or of the plain model, and what was warned of.
"""

import json
import sys
import warnings

import tiny
import torch

from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.clva import CLVA

torch.set_num_threads(1)


def whole(model):
    return torch.compile(model, backend="eager")


def in_place(model):
    model.compile(backend="eager")
    return model


def forward(model):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def decoder(model):
    model.model.language_model.compile(backend="eager")
    return model


WAYS = (whole, in_place, forward, decoder)


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits[:, -1]


def tokens(model, batch):
    return model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False).tolist()


def main():
    batch = tiny.llava_batch()
    model = tiny.llava(layers=2)
    plain, plain_tokens = logits(model, batch), tokens(model, batch)
    with attach(model, CLVA(alpha=50.0, tau=1.0)):
        edited, edited_tokens = logits(model, batch), tokens(model, batch)
    assert (plain - edited).abs().max() > 1e-3 and plain_tokens != edited_tokens

    def which(found):
        near = [name for name, wanted in (("plain", plain), ("edited", edited)) if (found - wanted).abs().max() < 1e-5]
        return near[0] if near else "neither"

    def which_tokens(found):
        return "plain" if found == plain_tokens else "edited" if found == edited_tokens else "neither"

    summary = {}
    for way in WAYS:
        for order in ("compiled and run first", "compiled first", "attached first"):
            torch._dynamo.reset()
            model = tiny.llava(layers=2)
            compiled = None if order == "attached first" else way(model)
            if order == "compiled and run first":
                assert which(logits(compiled, batch)) == "plain"
                assert which_tokens(tokens(compiled, batch)) == "plain"
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                with attach(model, CLVA(alpha=50.0, tau=1.0)):
                    compiled = way(model) if compiled is None else compiled
                    found = [which(logits(compiled, batch)), which_tokens(tokens(compiled, batch))]
            after = [which(logits(compiled, batch)), which_tokens(tokens(compiled, batch))]
            said = any("compiled as a whole" in str(one.message) for one in seen)
            summary[f"{way.__name__}: {order}"] = {
                "forward": found[0],
                "generate": found[1],
                "said": said,
                "after": after,
            }
    sys.stdout.write(json.dumps(summary))


main()
