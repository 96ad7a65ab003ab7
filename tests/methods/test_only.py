"""ONLY against its equations: one layer's heads written out, the last layer's parts applied by hand."""

import math

import pytest
import torch
from cases import CASES, STEPS, model_of
from reference_clva import _repeat, _softmax, literal
from reference_logits import compare, cut, hooked, whole

from vlm_anchors.errors import BadParameter, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.only import ONLY


def without_outliers(row, places):
    values = [float(row[j]) for j in places]
    mean = sum(values) / len(values)
    sigma = (sum((one - mean) ** 2 for one in values) / (len(values) - 1)) ** 0.5
    for j in places:
        if float(row[j]) > mean + sigma:
            row[j] = 0


def entropy(row, places):
    values = [float(row[j]) for j in places]
    return -sum(one / sum(values) * math.log(one / sum(values) + 1e-6) for one in values)


class TextHeavy:
    """A plain kernel that makes the extra output of some rows in one layer."""

    def __init__(self, visual, rows, layer):
        self.visual, self.rows, self.layer, self.made = visual, rows, layer, []
        self.heads = []

    def __call__(self, module, query, key, value, attention_mask, scaling=None, softcap=None, **kwargs):
        weights = _softmax(query, key, attention_mask, scaling)
        values = _repeat(value, query)
        if module.layer_idx + 1 == self.layer:
            for i in self.rows:
                text = [j for j in range(i + 1) if j not in set(self.visual) and not (j == 0 and 0 not in self.visual)]
                lines, ratios = [], []
                for h in range(query.shape[1]):
                    row = weights[0, h, i].clone()
                    without_outliers(row, text)
                    without_outliers(row, self.visual)
                    ratios.append(entropy(row, text) / entropy(row, self.visual))
                    lines.append(row @ values[0, h])
                mean = sum(ratios) / len(ratios)
                kept = [ratio >= mean for ratio in ratios]
                self.heads.append(sum(kept))
                self.made.append(torch.cat([line * one for line, one in zip(lines, kept, strict=True)]))
        return (weights @ values).transpose(1, 2).contiguous(), None


def reference(case, method, signs):
    def logits(double, single, tokens):
        visual, prompt = case.layout(single).visual, single["input_ids"].shape[1]
        rows = [prompt - 1 + t for t in range(STEPS + 1)]
        kernel, entering = TextHeavy(visual, rows, method.layer), []
        with literal(double, kernel, case.stack) as edited, torch.no_grad():
            stack = case.stack(edited)
            keep = stack.layers[-2].register_forward_hook(
                lambda m, a, out: entering.append(out[0] if isinstance(out, tuple) else out)
            )
            final = []
            keep_final = stack.norm.register_forward_hook(lambda m, a, out: final.append(out))
            with hooked(keep, keep_final):
                first = edited(**whole(case, single, tokens)).logits[0][-STEPS - 1 :]
            last, out = stack.layers[-1], case.head(edited).get_output_embeddings()
            scores = []
            for t, i in enumerate(rows):
                extra = stack.layers[method.layer - 1].self_attn.o_proj(kernel.made[t])
                if method.norm:
                    extra = last.input_layernorm(extra)
                extra = extra + method.residual * entering[0][0, i]
                extra = extra + last.mlp(last.post_attention_layernorm(extra))
                extra = out(stack.norm(extra) + method.final * final[0][0, i])
                distance = float((first[t].softmax(-1) - extra.softmax(-1)).abs().sum())
                signs.append(distance < method.gamma)
                near, far = first[t] + method.add * extra, (1 + method.subtract) * first[t] - method.subtract * extra
                scores.append(near if distance < method.gamma else far)
        assert 0 < min(kernel.heads) <= max(kernel.heads) < 4
        return cut(torch.stack(scores), first, method.beta)

    return logits


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(
    "parameters", [{}, {"gamma": 2.0, "beta": 0.5}, {"layer": 3, "norm": False, "residual": 1.0, "final": 0.0}]
)
def test_equals_the_literal_reference(name, parameters):
    method, signs = ONLY(**parameters), []
    effects = compare(CASES[name], method, reference(CASES[name], method, signs))
    for summary in effects:
        assert summary["only"]["steps"] == STEPS + 1 == summary["only"]["added"] + summary["only"]["subtracted"]
        assert summary["only"]["rows_edited"] == 0 < summary["only"]["text_heads"]
    assert sum(summary["only"]["added"] for summary in effects) == sum(signs)
    if method.gamma == 2:
        assert all(signs)


def test_the_last_layer_has_none_to_go_through():
    with pytest.raises(CannotAct, match="layer 8 is the last"):
        attach(model_of("llava"), ONLY(layer=8))


@pytest.mark.parametrize(
    "parameters", [{"add": -1}, {"subtract": -1}, {"gamma": -1}, {"beta": 2}, {"layer": 0}, {"norm": 1}, {"final": "a"}]
)
def test_wrong_parameters_are_refused(parameters):
    with pytest.raises(BadParameter):
        ONLY(**parameters)
