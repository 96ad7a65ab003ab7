"""ICD against two readings without a cache, the second with the disturbing role written in by hand."""

import pytest
import torch
from cases import CASES, STEPS, model_of
from reference_logits import compare, cut, read, whole
from stand_ins import BOS, Processor, token
from tiny_models import IMAGE, START

from vlm_anchors.engine import attach
from vlm_anchors.errors import BadDial, CannotAct
from vlm_anchors.methods.icd import ICD

ROLE = "a confused detector"
WORDS = [token(word) for word in ROLE.split()]


def disturbed(case, single, method):
    """The prompt with the role in it."""
    if case.name == "instructblip":
        own = single["qformer_input_ids"][0].tolist() if method.where == "question" else []
        ids = torch.tensor([WORDS + own])
        return {**single, "qformer_input_ids": ids, "qformer_attention_mask": torch.ones_like(ids)}
    ids = single["input_ids"][0].tolist()
    front = ids[: min(ids.index(one) for one in (IMAGE, START) if one in ids)]
    if method.system:
        replaced = [int(word[1:]) for word in method.system.split()]
        at = front.index(replaced[0])
        new = front[:at] + WORDS + front[at + len(replaced) :]
    else:
        new = [BOS, *WORDS, *front[1:]]
    return {**single, "input_ids": torch.tensor([new + ids[len(front) :]])}


def reference(case, method):
    def logits(double, single, tokens):
        first, _ = read(case, double, whole(case, single, tokens), STEPS + 1)
        second, _ = read(case, double, whole(case, disturbed(case, single, method), tokens), STEPS + 1)
        return cut((1 + method.alpha) * first - method.alpha * second, first, method.beta)

    return logits


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("dials", [{}, {"alpha": 3.0, "beta": 0.8}])
def test_equals_the_literal_reference(name, dials):
    method = ICD(role=ROLE, **dials)
    for told in compare(CASES[name], method, reference(CASES[name], method), processor=Processor()):
        assert told["icd"]["branch_passes"] == STEPS + 1


def test_the_role_before_the_question():
    case, method = CASES["instructblip"], ICD(role=ROLE, where="question")
    compare(case, method, reference(case, method), processor=Processor())


@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl"])
def test_a_system_prompt_is_replaced(name):
    case = CASES[name]
    fronts = [case.split(case.batch(), sample)["input_ids"][0, 1:3].tolist() for sample in range(3)]
    model = model_of(name)
    for sample, front in enumerate(fronts):
        method = ICD(role=ROLE, system=" ".join(f"w{one}" for one in front))
        single = case.split(case.batch(), sample)
        with attach((model, Processor()), method), torch.no_grad():
            mine = model(**single).logits[:, -1]
        slow = reference(case, method)(model, single, single["input_ids"][:, :0])[-1:]
        seen = torch.isfinite(slow)
        assert torch.equal(seen, torch.isfinite(mine))
        assert (mine - slow)[seen].abs().max() < 1e-5


def test_a_system_prompt_that_is_not_there_is_refused():
    model, batch = model_of("llava"), CASES["llava"].batch()
    with attach((model, Processor()), ICD(system="w1 w2")), pytest.raises(CannotAct, match="system prompt 'w1 w2'"):
        model(**batch)


def test_without_a_tokenizer_it_says_so():
    model, batch = model_of("llava"), CASES["llava"].batch()
    with attach(model, ICD()), pytest.raises(CannotAct, match="processor"):
        model(**batch)


@pytest.mark.parametrize("dials", [{"alpha": -1}, {"beta": 1.5}, {"where": "x"}, {"role": " "}, {"system": None}])
def test_wrong_dials_are_refused(dials):
    with pytest.raises(BadDial):
        ICD(**dials)
