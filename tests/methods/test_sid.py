"""SID against its equations: the branch with every matrix written out, its visible tokens chosen anew in each pass."""

import pytest
import torch
from cases import CASES, STEPS, model_of, run
from reference_clva import _repeat, _softmax, literal
from reference_logits import compare, cut, whole

from vlm_anchors.errors import AnchorsWarning, BadParameter, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.sid import SID


class Blinkered:
    """A kernel for prompt and answer in one piece. passes: the rows of each pass, whose last one chooses."""

    def __init__(self, visual, passes, layer, keep):
        self.visual, self.passes, self.layer, self.keep = visual, passes, layer, keep
        self.hidden = {}

    def __call__(self, module, query, key, value, attention_mask, scaling=None, softcap=None, **kwargs):
        layer = module.layer_idx + 1
        weights = _softmax(query, key, attention_mask, scaling)
        if layer == self.layer:
            for number, rows in enumerate(self.passes):
                looks = [(float(weights[0, :, rows[-1], j].mean()), j) for j in self.visual]
                kept = {j for _, j in sorted(looks)[: self.keep]}
                self.hidden[number] = [j for j in self.visual if j not in kept]
        if layer > self.layer:
            for number, rows in enumerate(self.passes):
                for i in rows:
                    if i < self.visual[0]:
                        continue
                    seen = weights[0, :, i].clone()
                    seen[:, self.hidden[number]] = 0
                    if float(seen.sum()) > 0:
                        weights[0, :, i] = seen / seen.sum(-1, keepdim=True)
        return (weights @ _repeat(value, query)).transpose(1, 2).contiguous(), None


def reference(case, method):
    def logits(double, single, tokens):
        visual, prompt = case.layout(single).visual, single["input_ids"].shape[1]
        passes = [list(range(prompt)), *([prompt + t] for t in range(STEPS))]
        keep = method.keep or max(1, round(len(visual) * 100 / 576))
        kernel = Blinkered(visual, passes, method.layer or 1, keep)
        with torch.no_grad():
            first = double(**whole(case, single, tokens)).logits[0][-STEPS - 1 :]
        with literal(double, kernel, case.stack) as edited, torch.no_grad():
            second = edited(**whole(case, single, tokens)).logits[0][-STEPS - 1 :]
        assert any(kernel.hidden.values())
        return cut((1 + method.alpha) * first - method.alpha * second, first, method.beta)

    return logits


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("parameters", [{}, {"alpha": 2.0, "beta": 0.5, "layer": 3, "keep": 2}])
def test_equals_the_literal_reference(name, parameters):
    method = SID(**parameters)
    for summary in compare(CASES[name], method, reference(CASES[name], method)):
        did = summary["sid"]
        assert did["branch_passes"] == did["choices"] == STEPS + 1
        assert did["kept_tokens"] == (parameters.get("keep") or max(1, round(did["visual_tokens"] * 100 / 576)))


def test_the_tokens_that_are_kept_change_with_what_was_said():
    case, model = CASES["llava"], model_of("llava")
    single = case.split(case.batch(), 0)
    with attach(model, SID(layer=3, keep=2)):
        _, tokens = run(model, single)
    visual, prompt = case.layout(single).visual, single["input_ids"].shape[1]
    kernel = Blinkered(visual, [list(range(prompt)), *([prompt + t] for t in range(STEPS))], 3, 2)
    with literal(model, kernel, case.stack) as edited, torch.no_grad():
        edited(**whole(case, single, tokens[:, :STEPS]))
    assert len({tuple(hidden) for hidden in kernel.hidden.values()}) > 1


def test_a_prompt_without_more_tokens_than_are_kept_says_so():
    model, batch = model_of("llava"), CASES["llava"].batch()
    with attach(model, SID(keep=1000)), pytest.warns(AnchorsWarning, match="hides none there. Set keep to fewer"):
        run(model, batch)


def test_a_layer_with_none_after_it_is_refused():
    with pytest.raises(CannotAct, match="layer 8 is the last"):
        attach(model_of("llava"), SID(layer=8))
    with pytest.raises(CannotAct, match="layers 1 to 8"):
        attach(model_of("llava"), SID(layer=9))


@pytest.mark.parametrize("parameters", [{"alpha": -1}, {"beta": 2}, {"layer": 0}, {"keep": 0}, {"keep": 0.5}])
def test_wrong_parameters_are_refused(parameters):
    with pytest.raises(BadParameter):
        SID(**parameters)
