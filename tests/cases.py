"""The three models every baseline is tested on: LLaVA, Qwen2.5-VL and InstructBLIP's language model, tiny and random.

A case makes a left-padded batch of three prompts, its samples unpadded, and says where visual tokens and text stand.
"""

import functools
from dataclasses import dataclass

import pytest
import tiny
import tiny_families
import tiny_models
import tiny_qformer
import torch

STEPS = 4


@dataclass(frozen=True)
class Layout:
    """Positions in one unpadded prompt: visual tokens, one list an image, and text rows after the first of them."""

    images: list
    text: list

    @property
    def visual(self):
        return [j for image in self.images for j in image]


class Llava:
    name, depth = "llava", 8

    def build(self, **more):
        return tiny.llava(**more)

    def batch(self, seed=0):
        return tiny.llava_batch(seed=seed)

    def split(self, batch, sample):
        real = batch["attention_mask"][sample].bool()
        one = {name: value[sample : sample + 1] for name, value in batch.items()}
        return one | {name: one[name][:, real] for name in ("input_ids", "attention_mask")}

    def layout(self, single):
        ids = single["input_ids"][0].tolist()
        visual = [i for i, token in enumerate(ids) if token == tiny.IMAGE]
        return Layout([visual], [i for i in range(len(ids)) if i > visual[0] and i not in set(visual)])

    def stack(self, model):
        return model.get_decoder()

    def head(self, model):
        return model


class Qwen(Llava):
    name = "qwen2.5-vl"

    def build(self, kv_heads=2):
        return tiny_models.qwen2_5_vl(kv_heads)

    def prompts(self, seed=0):
        return tiny_families.prompts(tiny_families.FAMILIES[self.name], [".i..", ".i.", ".i..."], seed)

    def batch(self, seed=0):
        return tiny_families.batch(tiny_families.FAMILIES[self.name], self.prompts(seed))

    def split(self, batch, sample):
        one = tiny_families.batch(tiny_families.FAMILIES[self.name], [self.prompts(self.seed_of(batch))[sample]])
        return {name: one[name].to(batch[name].dtype) for name in batch}

    def seed_of(self, batch):
        return next(seed for seed in range(9) if torch.equal(self.batch(seed)["input_ids"], batch["input_ids"]))

    def layout(self, single):
        ids = single["input_ids"][0].tolist()
        visual = [i for i, token in enumerate(ids) if token == tiny_models.IMAGE]
        delimiters = {tiny_models.START, tiny_models.END, tiny_models.IMAGE}
        return Layout([visual], [i for i, token in enumerate(ids) if i > visual[0] and token not in delimiters])


class InstructBlip(Llava):
    name = "instructblip"

    def build(self, **more):
        return tiny_qformer.instructblip(**more)

    def batch(self, seed=0):
        return tiny_qformer.batch(self.name, seed=seed)

    def split(self, batch, sample):
        return tiny_qformer.split(batch, sample)

    def stack(self, model):
        return model.language_model.get_decoder()

    def head(self, model):
        return model.language_model


CASES = {case.name: case for case in (Llava(), Qwen(), InstructBlip())}


@functools.cache
def model_of(name):
    """Built once; tests leave it as they found it. Padding has an embedding, so that it shows where it is read."""
    model = CASES[name].build()
    table = CASES[name].stack(model).get_input_embeddings().weight
    with torch.no_grad():
        table[0] = table[5:20].mean(0) + table.std() * torch.randn(
            table.shape[1], generator=torch.Generator().manual_seed(7)
        )
    return model


def forced(tokens):
    """A logits processor that chooses the given tokens, so that two runs see the same prefix."""
    calls = iter(range(tokens.shape[1]))

    def process(ids, scores):
        step = next(calls)
        return torch.full_like(scores, -1e9).scatter(1, tokens[:, step : step + 1], 0.0)

    return process


def run(model, inputs, tokens=None, **how):
    """Raw logits (steps + 1, b, vocabulary) of prefill and steps, and the tokens chosen."""
    arguments = {"logits_processor": [forced(tokens)]} if tokens is not None else {}
    how = {"max_new_tokens": STEPS + 1, "min_new_tokens": STEPS + 1, "do_sample": False, **how}
    out = model.generate(**inputs, **how, **arguments, output_logits=True, return_dict_in_generate=True)
    return torch.stack(out.logits), out.sequences[:, -how["max_new_tokens"] :]


def tokens_of(model, inputs, **how):
    how = {"max_new_tokens": STEPS + 1, "min_new_tokens": STEPS + 1, "do_sample": False, **how}
    return model.generate(**inputs, **how)[:, -how["max_new_tokens"] :]


def beams(model, inputs, num_beams=3):
    """What each beam of one prompt says, best first, the logits its steps were chosen by, (beams, steps + 1, vocabulary),
    and the row of the search that it stood in at each step."""
    out = model.generate(
        **inputs, max_new_tokens=STEPS + 1, min_new_tokens=STEPS + 1, do_sample=False, num_beams=num_beams,
        num_return_sequences=num_beams, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    rows = out.beam_indices[:, : STEPS + 1]
    steps = torch.stack(out.logits)
    chosen = [torch.stack([steps[t, row] for t, row in enumerate(beam)]) for beam in rows.tolist()]
    return out.sequences[:, -STEPS - 1 :], torch.stack(chosen), rows.tolist()


def in_double(inputs):
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def covering(names, offset=0, every=1):
    """(name, case) pairs: each name on one case and each case in turn; the others are slow. Offsets change which is which.

    every: of the names, every so many alone; the first and the last are always among them.
    """
    cases, rows = list(CASES), {*range(0, len(names), every), len(names) - 1}
    return pytest.mark.parametrize(
        ("name", "case"),
        [
            pytest.param(
                name, case, marks=() if (row + offset) % len(cases) == column and row in rows else pytest.mark.slow
            )
            for row, name in enumerate(names)
            for column, case in enumerate(cases)
        ],
    )
