"""Which method does what on which class: every image-text class of the installed transformers, tried on a tiny model.

python runs/family_matrix.py [--only TYPE ...] [--again] [--quick] [--out results/families.json]

For each class: CLVA against a literal double-precision reference (prompt and decoding steps, one image and two), CLVA at
zero against the plain model, and the other methods: whether they change the answer, and whether they are off at zero.
A class that is refused must say so when a method is attached, with the reason of its own row.

The file is written after each class, so an interrupted run goes on where it was; classes that were tried with the same
versions are left out, unless `--again`. `docs/families.md` shows the result.
"""

# ruff: noqa: E402
import argparse
import copy
import json
import os
import signal
import sys
import time
import traceback
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
from vlm_anchors.methods import METHODS
from vlm_anchors.models.decoder import find_target, self_attention
from vlm_anchors.models.families import UNKNOWN, family_of
from vlm_anchors.provenance import provenance

STEPS = 3
EXACT = 1e-4
"""Our fast path in double precision against the literal one: what single-precision scores in it leave. A wrong anchor, or
one row too many, is 100 times as much."""
PATIENCE = 240
"""Seconds for one class."""
SPECS = {
    "attanchor": "attanchor:tau=0,tokens=all", "vcd": "vcd", "pai": "pai:alpha=0.5", "clearsight": "clearsight:enhance=2",
    "deco": "deco", "memvr": "memvr:gamma=0",
}  # fmt: skip
COLUMNS = ("clva", *SPECS)


class Forced(LogitsProcessor):
    def __init__(self, tokens):
        self.tokens, self.step = tokens, 0

    def __call__(self, ids, scores):
        chosen = self.tokens[:, self.step : self.step + 1]
        self.step += 1
        return torch.full_like(scores, -1e9).scatter(1, chosen.to(scores.device), 0.0)


class EachSample:
    """A literal reference a sample, for the frames that a Q-Former reads as a batch."""

    def __init__(self, references):
        self.references = references

    @property
    def near(self):
        return sum(one.near for one in self.references)

    def __call__(self, module, query, key, value, mask, **kwargs):
        rows = [
            one(module, query[n % len(query)][None], key[n][None], value[n][None], None, **kwargs)[0]
            for n, one in enumerate(self.references[: len(key)])
        ]
        return torch.cat(rows), None


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
    """Largest difference; logits of tokens that a class forbids are the lowest number, or minus infinity, in both."""
    forbidden = (one < -1e30) & (two < -1e30)
    return float((one.double() - two.double()).masked_fill(forbidden, 0.0).abs().max())


def references(one, places, text):
    """The literal reference of a class, and the stack of a copy whose attention it stands in for."""
    target = find_target(one.model)
    parameters = {"l_pos": min(max(2, target.depth // 2 - 2), target.depth - 1), "tau": 1.0}
    if not one.latents:
        reference = Literal(places, text, text[-1], target.depth, **parameters)
        parts = [reference]
    else:
        frames = one.pixels["pixel_values"].shape[1] if one.pixels["pixel_values"].dim() == 5 else 1
        keys = one.model.config.vision_config
        patches = list(range(1, (keys.image_size // keys.patch_size) ** 2 + 1))
        parts = [Literal([patches], [], 0, target.depth, latents="mean", **parameters) for _ in range(frames)]
        reference = EachSample(parts)

    def stack(model):
        own = find_target(model)
        layers = own.layers if one.latents else {id(m): n for n, m in enumerate(self_attention(own.stack), 1)}
        for part in parts:
            part.layers = layers
        return own.stack

    return reference, stack


def clva(one, images):
    """How far our double-precision answer is from the literal one, from plain, decisions too close to call; and of a
    forward pass, how far it is from `generate`'s prompt, and from plain."""
    inputs, places, text = one.prompt(images)
    model = one.model
    with torch.no_grad():
        _, tokens = answer(model, inputs)
        reference, stack = references(one, places, text)
        with literal(model, reference, stack=stack) as slow:
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


def clear(one, images):
    """`clva` on a prompt in which no decision is too close to call; None where there is none among five."""
    for seed in range(5):
        prompt = one.prompt
        one.prompt = lambda count, seed=seed, prompt=prompt: prompt(count, seed)
        try:
            found = clva(one, images)
        finally:
            one.prompt = prompt
        if not found[2]:
            return found
    return None


def neutral(one, method):
    """Whether a method that is off leaves logits and tokens as they are, bit for bit."""
    inputs, _, _ = one.prompt(1)
    with torch.no_grad():
        plain, tokens = answer(one.model, inputs)
        with attach(one.model, method.disabled()):
            off, same = answer(one.model, inputs)
    return bool(torch.equal(plain, off) and torch.equal(tokens, same))


def other(one, name, plain=None):
    """What a method does: "runs", or why not. plain: the answer without it, and its tokens."""
    inputs, _, _ = one.prompt(1, after=8)
    method = METHODS.build(SPECS[name])
    with torch.no_grad():
        before, tokens = answer(one.model, inputs) if plain is None else plain
        if name == "attanchor":
            changed, _ = answer(one.model, method.prepare(one.model, inputs), tokens)
        else:
            with attach(one.model, method):
                changed, _ = answer(one.model, inputs, tokens)
    return "runs" if difference(before, changed.nan_to_num(neginf=0)) > 1e-6 else "changes nothing"


def tried(call, *arguments):
    try:
        return call(*arguments)
    except UserError as refusal:
        return f"refused: {refusal}"
    except TimeoutError:
        raise
    except Exception as error:
        if os.environ.get("DEBUG"):
            traceback.print_exc()
        return f"crash: {type(error).__name__}: {str(error)[:200]}"


def refused_class(model_type, family):
    """A class that cannot be steered: whether attaching says so, with its own reason."""
    model = tiny_classes.build(model_type)
    try:
        attach(model, "clva").detach()
    except UserError as refusal:
        return f"refused: {refusal}" if family.refused in str(refusal) else f"wrong reason: {refusal}"
    return "not refused"


def one_class(model_type, methods=True):
    config = tiny_classes.CONFIG_MAPPING[model_type]()
    family = family_of(config)
    row = {"class": tiny_classes.CLASSES[model_type], "family": "generic rules" if family is UNKNOWN else family.name}
    if family.refused:
        found = tried(refused_class, model_type, family)
        return row | dict.fromkeys(COLUMNS, found)
    one = tried(tiny_classes.tiny, model_type)
    if isinstance(one, str):
        return row | {"clva": "not built" + one.removeprefix("crash")}
    row["visual_tokens"] = one.tokens
    row |= clva_row(one)
    if methods:
        with torch.no_grad():
            plain = answer(one.model, one.prompt(1, after=8)[0])
        row |= {name: tried(other, one, name, plain) for name in SPECS}
    return row


def clva_row(one):
    results = [tried(clear, one, images) for images in (1,) if one.latents] or [tried(clear, one, n) for n in (1, 2)]
    bad = [result for result in results if isinstance(result, str)]
    if bad or None in results:
        return {"clva": bad[0] if bad else "too close to call", "numbers": results}
    off, moved = max(max(found[0], found[3]) for found in results), min(min(found[1], found[4]) for found in results)
    state = "exact" if off < EXACT and moved > 100 * off else "differs" if moved > 100 * EXACT else "changes nothing"
    return {
        "clva": state,
        "off": off,
        "moved": moved,
        "numbers": results,
        "neutral": tried(neutral, one, METHODS.build("clva")),
    }


def too_long(*_):
    raise TimeoutError


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", nargs="*", default=list(tiny_classes.CLASSES))
    arguments.add_argument("--out", default=str(ROOT / "results" / "families.json"))
    arguments.add_argument("--again", action="store_true", help="classes that are in the file too")
    arguments.add_argument("--quick", action="store_true", help="CLVA only")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import transformers

    transformers.logging.set_verbosity_error()
    signal.signal(signal.SIGALRM, too_long)
    out, birth = Path(chosen.out), provenance()
    before = json.loads(out.read_text()) if out.exists() else {}
    rows = dict(before["classes"]) if before.get("versions") == birth["versions"] else {}
    for model_type in chosen.only:
        if model_type in rows and not chosen.again:
            continue
        start = time.time()
        signal.alarm(PATIENCE)
        try:
            rows[model_type] = {**one_class(model_type, not chosen.quick), "commit": birth["commit"]}
        except TimeoutError:
            rows[model_type] = {"class": tiny_classes.CLASSES[model_type], "clva": f"not built: more than {PATIENCE} s"}
        signal.alarm(0)
        shown = {k: v[:150] if isinstance(v, str) else v for k, v in rows[model_type].items() if k != "numbers"}
        print(model_type, shown, f"{time.time() - start:.1f}s", flush=True)
        ordered = {one: rows[one] for one in tiny_classes.CLASSES if one in rows}
        out.write_text(json.dumps({**birth, "classes": ordered}, indent=1) + "\n")


if __name__ == "__main__":
    main()
