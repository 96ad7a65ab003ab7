"""The contrastive branch of a prompt, on every family where a method reads twice: against the model itself, asked that way.

The model is given what the contrastive branch should read (other pixels, other words, no image) and nothing else; logits of the
prompt and of three decoding steps must be the branch's.
"""

import sys
import warnings
from unittest.mock import patch

import pytest
import tiny_families as tiny
import torch
from test_families import model_of
from tiny_processors import stand_in

from vlm_anchors.errors import AnchorsWarning, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.icd import ICD
from vlm_anchors.methods.pai import PAI
from vlm_anchors.methods.vcd import VCD
from vlm_anchors.methods.vista import VISTA
from vlm_anchors.models.decoder import find_target
from vlm_anchors.models.families import FAMILIES

STEPS = 3
DECODERS = {family.name for family in FAMILIES if family.target == "decoder" and family.name in tiny.FAMILIES}
SPECIAL = list(range(tiny.WORD))
"""No placeholder or tag may stand in an answer."""
ROWS = ("mm_token_type_ids", "token_type_ids")


def cases(cls):
    return [name for name in cls.families if name in DECODERS]


def asked(family, kinds=".i.."):
    prompt = tiny.prompts(tiny.FAMILIES[family], [kinds], 0)[0]
    return prompt, tiny.batch(tiny.FAMILIES[family], [prompt])


def quietly(family, method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnchorsWarning)
        return attach((model_of(family), stand_in(family)), method)


def branches(family, method, inputs):
    """Both branches' logits of the prompt and of each step, and the tokens."""
    seen = []

    def spy(self, view, first, second):
        seen.append((first, second))
        return first

    with patch.object(type(method), "logits", spy), quietly(family, method):
        how = {"max_new_tokens": STEPS + 1, "min_new_tokens": STEPS + 1, "suppress_tokens": SPECIAL}
        out = model_of(family).generate(**inputs, **how, do_sample=False)
    return seen, out[:, inputs["input_ids"].shape[1] :]


@torch.no_grad()
def logits(family, inputs, more):
    """The model's own next-token logits, with tokens of the answer behind the prompt."""
    ids = torch.cat([inputs["input_ids"], more], 1)
    rows = {name: torch.nn.functional.pad(inputs[name], (0, more.shape[1])) for name in ROWS if name in inputs}
    return model_of(family)(**{**inputs, **rows, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[
        :, -1
    ]


def compare(family, method, inputs, other):
    seen, tokens = branches(family, method, inputs)
    assert len(seen) == STEPS + 1
    for step, (first, second) in enumerate(seen):
        assert (logits(family, inputs, tokens[:, :step]) - first).abs().max() < 1e-5
        assert (logits(family, other, tokens[:, :step]) - second).abs().max() < 1e-5
        assert (first - second).abs().max() > 1e-3


def words_of(prompt):
    """The prompt's words: no visual token, and no tag around or inside an image."""
    kept = []
    for part in prompt.parts:
        pieces = part.pieces if isinstance(part, tiny.Picture) else [("text", part)]
        kept += [token for kind, ids in pieces if kind == "text" for token in ids]
    return {"input_ids": torch.tensor([kept]), "attention_mask": torch.ones(1, len(kept), dtype=torch.long)}


@pytest.mark.grid
@pytest.mark.parametrize("family", cases(VCD))
def test_another_image(family):
    _, inputs = asked(family)
    module, made = sys.modules[VCD.__module__], []
    original = module.noised

    def noised(*args, **how):
        made.append(original(*args, **how))
        return made[-1]

    with patch.object(module, "noised", noised):
        branches(family, VCD(beta=0.0), inputs)
    compare(family, VCD(beta=0.0), inputs, {**inputs, "pixel_values": made[0]})


@pytest.mark.grid
@pytest.mark.parametrize("family", cases(ICD))
def test_other_words_in_front(family):
    _, inputs = asked(family)
    tokenizer = stand_in(family).tokenizer
    role = tokenizer.encode(ICD().role, add_special_tokens=False)
    ids = inputs["input_ids"][0].tolist()
    begins = ids[:1] if ids[0] == tokenizer.bos_token_id else []
    rows = {name: torch.nn.functional.pad(inputs[name], (len(role), 0)) for name in ROWS if name in inputs}
    other = {**inputs, **rows, "input_ids": torch.tensor([[*begins, *role, *ids[len(begins) :]]])}
    compare(family, ICD(beta=0.0), inputs, other)


@pytest.mark.grid
@pytest.mark.parametrize("family", cases(PAI))
def test_the_words_alone(family):
    prompt, inputs = asked(family)
    compare(family, PAI(alpha=0.0, gamma=1.5, cut=0.0), inputs, words_of(prompt))


@pytest.mark.grid
@pytest.mark.parametrize("family", cases(VISTA))
def test_what_the_image_adds(family):
    prompt, inputs = asked(family)
    model = model_of(family)
    stack = find_target(model, stand_in(family).tokenizer, "decoder").stack

    @torch.no_grad()
    def lasts(arguments):
        seen = []
        hooks = [layer.register_forward_hook(lambda m, a, out: seen.append(out[:, -1])) for layer in stack.layers]
        model(**arguments)
        for hook in hooks:
            hook.remove()
        return torch.stack(seen, 1)

    change = lasts(inputs) - lasts(words_of(prompt))
    with torch.no_grad(), quietly(family, VISTA(mix=0.0)) as handle:
        model(**inputs)
        held = handle._latest.states[0].directions
    assert torch.allclose(held, torch.nn.functional.normalize(change, dim=-1), atol=1e-5)


@pytest.mark.parametrize("cls", [ICD, VISTA])
def test_elsewhere_it_is_refused(cls):
    refused = sorted(DECODERS - set(cls.families))
    assert refused, "PaliGemma's prefix sees its words"
    for family in refused:
        with pytest.raises(CannotAct, match="reads the prompt twice, which is tested on .*; on .* it is not"):
            quietly(family, cls())
