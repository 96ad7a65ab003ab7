"""Which method does what on which class: every image-text class of the installed transformers, tried on a tiny model.

python runs/family_matrix.py [--only TYPE ...] [--out results/families.json]

For each class: CLVA against a literal double-precision reference (prompt and decoding steps, one image and two), CLVA at
zero against the plain model, and the other methods: whether they change the answer, and whether they are off at zero.
`docs/families.md` shows the result.
"""

# ruff: noqa: E402
import argparse
import copy
import json
import sys
import time
import warnings
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import tiny_classes
from reference_clva import Literal, literal
from transformers import LogitsProcessor

from vlm_anchors.errors import UserError
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.models.decoder import find_target, self_attention
from vlm_anchors.models.families import UNKNOWN, family_of

STEPS = 3
EXACT = 1e-4
"""Our fast path in double precision against the literal one: what single-precision scores in it leave. A wrong anchor, or
one row too many, is 100 times as much."""
SPECS = {
    "pai": "pai:alpha=0.5", "clearsight": "clearsight:enhance=2", "deco": "deco", "vcd": "vcd", "memvr": "memvr:gamma=0",
    "attanchor": "attanchor:tau=0",
}  # fmt: skip


class Forced(LogitsProcessor):
    def __init__(self, tokens):
        self.tokens, self.step = tokens, 0

    def __call__(self, ids, scores):
        chosen = self.tokens[:, self.step : self.step + 1]
        self.step += 1
        return torch.full_like(scores, -1e9).scatter(1, chosen.to(scores.device), 0.0)


def answer(model, inputs, tokens=None):
    """Raw logits of the prompt and the steps, (steps, vocabulary), and the tokens chosen."""
    more = {} if tokens is None else {"logits_processor": [Forced(tokens)]}
    out = model.generate(
        **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, output_logits=True,
        return_dict_in_generate=True, **more,
    )  # fmt: skip
    return torch.stack(out.logits)[:, 0], out.sequences[:, -STEPS:]


def double(inputs):
    return {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in inputs.items()}


def difference(one, two):
    return float((one.double() - two.double()).abs().max())


def clva(one, images):
    """(off, moved, near): our double-precision answer against the literal one; against plain; decisions too close to call."""
    inputs, places, text = one.prompt(images)
    model = one.model
    with torch.no_grad():
        _, tokens = answer(model, inputs)
        target = find_target(model)
        reference = Literal(places, text, text[-1], target.depth, l_pos=min(max(2, target.depth // 2 - 2), target.depth - 1),
                            tau=1.0)  # fmt: skip
        with literal(model, reference, stack=lambda copy: find_target(copy).stack) as slow:
            layers = enumerate(self_attention(find_target(slow).stack), 1)
            reference.layers = {id(module): layer for layer, module in layers}
            expected, _ = answer(slow, double(inputs), tokens)
        exact = copy.deepcopy(model).double()
        plain, _ = answer(exact, double(inputs), tokens)
        with attach(exact, "clva:tau=1"):
            found, _ = answer(exact, double(inputs), tokens)
        called_plain = exact(**double(inputs)).logits[0, -1]
        with attach(exact, "clva:tau=1"):
            called = exact(**double(inputs)).logits[0, -1]
    return (
        difference(found, expected),
        difference(plain, found),
        reference.near,
        difference(called, found[0]),
        difference(called_plain, called),
    )


def neutral(one, spec):
    inputs, _, _ = one.prompt(1)
    with torch.no_grad():
        plain, tokens = answer(one.model, inputs)
        with attach(one.model, spec):
            off, same = answer(one.model, inputs)
    return bool(torch.equal(plain, off) and torch.equal(tokens, same))


def other(one, name, spec):
    """What a method does: "runs", or why not."""
    from vlm_anchors.methods.attanchor import AttAnchor

    inputs, _, _ = one.prompt(1, after=8)
    with torch.no_grad():
        plain, tokens = answer(one.model, inputs)
        if name == "attanchor":
            prepared = AttAnchor(tau=0.0, tokens="all").prepare(one.model, inputs)
            changed, _ = answer(one.model, prepared, tokens)
        else:
            with attach(one.model, spec):
                changed, _ = answer(one.model, inputs, tokens)
    return "runs" if difference(plain, changed.nan_to_num(neginf=0)) > 1e-6 else "changes nothing"


def tried(call, *arguments):
    try:
        return call(*arguments)
    except UserError as refusal:
        return f"refused: {refusal}"
    except Exception as error:
        import os
        import traceback

        if os.environ.get("DEBUG"):
            traceback.print_exc()
        return f"crash: {type(error).__name__}: {str(error)[:200]}"


def one_class(model_type, methods=True):
    row = {"class": tiny_classes.CLASSES[model_type]}
    try:
        one = tiny_classes.tiny(model_type)
    except Exception as error:
        family = family_of(tiny_classes.CONFIG_MAPPING[model_type]())
        row["family"] = family.name
        refused = family.refused
        row["clva"] = f"refused: {refused}" if refused else f"not built: {type(error).__name__}: {str(error)[:200]}"
        return row
    family = family_of(one.model.config)
    row |= {"family": "generic rules" if family is UNKNOWN else family.name, "visual_tokens": one.tokens}
    results = [tried(clva, one, images) for images in (1, 2)]
    bad = [result for result in results if isinstance(result, str)]
    row["numbers"] = results
    if bad:
        row["clva"] = bad[0]
        return row
    off, moved = max(result[0] for result in results), min(result[1] for result in results)
    row |= {"off": off, "moved": moved, "near": sum(result[2] for result in results)}
    row["clva"] = (
        "exact" if off < EXACT and moved > 100 * off else "differs" if moved > 100 * EXACT else "changes nothing"
    )
    row["neutral"] = tried(neutral, one, "clva:alpha=0,beta=0")
    if methods:
        row |= {name: tried(other, one, name, spec) for name, spec in SPECS.items()}
    return row


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", nargs="*", default=list(tiny_classes.CLASSES))
    arguments.add_argument("--out", default=str(ROOT / "results" / "families.json"))
    arguments.add_argument("--quick", action="store_true", help="CLVA only")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import transformers

    transformers.logging.set_verbosity_error()
    rows = {}
    for model_type in chosen.only:
        start = time.time()
        rows[model_type] = one_class(model_type, not chosen.quick)
        row = rows[model_type]
        shown = {k: v for k, v in row.items() if k not in ("class", "family", "numbers")}
        print(
            model_type,
            {k: (v[:150] if isinstance(v, str) else v) for k, v in shown.items()},
            f"{time.time() - start:.1f}s",
            flush=True,
        )
    from vlm_anchors.provenance import versions

    Path(chosen.out).write_text(json.dumps({"versions": versions(), "classes": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
