"""MemVR against its equations: each pass's entropy test, and the image memory in the next layer's MLP."""

import math
from types import SimpleNamespace

import pytest
import torch
from cases import CASES, STEPS, model_of
from reference_logits import compare, early, hooked, whole

from vlm_anchors.errors import BadParameter, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.memvr import MemVR


class Passes:
    """The prompt's rows are one pass, each answer row one of its own; hooks replay what each pass decided."""

    def __init__(self, case, model, method, layout, prompt, total):
        assert method.activation in ("none", "silu")
        self.case, self.model, self.method, self.layout = case, model, method, layout
        self.groups = [list(range(prompt)), *([row] for row in range(prompt, total))]
        self.done, self.fire, self.image, self.near = set(), {}, None, 0

    def hooks(self):
        stack = self.case.stack(self.model)
        yield stack.register_forward_pre_hook(self.see_image, with_kwargs=True)
        first, last = self.method.layers
        for layer in range(first, last + 1):
            yield stack.layers[layer - 1].register_forward_hook(self.test(layer))
            yield stack.layers[layer].mlp.register_forward_hook(self.inject(layer + 1))

    def see_image(self, module, args, kwargs):
        self.image = kwargs["inputs_embeds"][0, self.layout.visual]

    def test(self, layer):
        def hook(module, args, output):
            for number, rows in enumerate(self.groups):
                top = early(self.case, self.model, output[0, rows[-1]], self.method.norm).topk(10).values.softmax(-1)
                unsure = -sum(float(p) * math.log(p) for p in top) / math.log(10)
                self.near += abs(unsure - self.method.gamma) < 1e-5
                if unsure > self.method.gamma and number not in self.done:
                    self.done.add(number)
                    self.fire[number] = layer + 1

        return hook

    def inject(self, layer):
        def hook(module, args, output):
            output = output.clone()
            for number, rows in enumerate(self.groups):
                if self.fire.get(number) != layer:
                    continue
                x, own = args[0][0, rows], output[0, rows]
                recalled = self.memory(x, module)
                scale = own.abs().mean() / recalled.abs().mean()
                output[0, rows] = (1 - self.method.alpha) * own + self.method.alpha * recalled * scale
            return output

        return hook

    def memory(self, x, mlp):
        if self.method.activation == "none":
            return (x @ self.image.T) @ self.image
        size = self.image.abs().mean()
        keys = self.image * mlp.up_proj.weight.abs().mean() / size
        values = self.image * mlp.down_proj.weight.abs().mean() / size
        image_mass = x @ keys.T
        return (image_mass / (1 + (-image_mass).exp())) @ values


def reference(case, method, fired):
    def logits(double, single, tokens):
        prompt = single["input_ids"].shape[1]
        passes = Passes(case, double, method, case.layout(single), prompt, prompt + STEPS)
        with hooked(*passes.hooks()), torch.no_grad():
            out = double(**whole(case, single, tokens)).logits[0][-STEPS - 1 :]
        assert not passes.near
        fired.append(dict(passes.fire))
        return out

    return logits


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("gamma", [0.5, 0.998])
def test_equals_the_literal_reference(name, gamma):
    method = MemVR(alpha=0.4, gamma=gamma, layers=(2, 6))
    fired = []
    effects = compare(CASES[name], method, reference(CASES[name], method, fired), moved=0)
    assert [summary["memvr"]["triggers"] for summary in effects] == [len(one) for one in fired]
    if gamma == 0.5:
        assert all(len(one) == STEPS + 1 for one in fired)


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("norm", [True, False])
def test_the_form_of_the_code_for_qwen_vl(name, norm):
    method = MemVR(alpha=0.4, gamma=0.5, layers=(2, 6), activation="silu", norm=norm)
    fired = []
    compare(CASES[name], method, reference(CASES[name], method, fired))
    assert all(fired)


def test_an_mlp_without_known_weights_is_refused():
    model = model_of("llava")
    mlp = CASES["llava"].stack(model).layers[2].mlp
    weights, mlp.up_proj.weight = mlp.up_proj.weight, torch.nn.Parameter(torch.ones(4, dtype=torch.int8), False)
    try:
        with pytest.raises(CannotAct, match="weights that widen an MLP"):
            attach(model, MemVR(activation="silu", layers=(2, 3)))
        with attach(model, MemVR(layers=(2, 3))):
            pass
    finally:
        mlp.up_proj.weight = weights


@pytest.mark.parametrize(
    "parameters",
    [{"alpha": 1.5}, {"gamma": -1}, {"layers": (3, 1)}, {"activation": "relu"}, {"norm": "yes"}, {"norm": 1}],
)
def test_wrong_dials_are_refused(parameters):
    with pytest.raises(BadParameter):
        MemVR(**parameters)


@pytest.mark.parametrize("layers", [(8, 8), (6, 8)])
def test_a_layer_with_none_after_it_is_refused(layers):
    """Testing fewer layers than were asked for would go unnoticed."""
    with pytest.raises(CannotAct, match="layer 8 is the last. Let layers end before it"):
        attach(model_of("llava"), MemVR(layers=layers))
    with attach(model_of("llava"), MemVR(layers=layers).disabled()):
        pass


@pytest.mark.parametrize("depth", [2, 3, 8, 9, 32, 80])
def test_the_published_layers_leave_one_after_them(depth):
    target = SimpleNamespace(depth=depth, blocks=depth)
    assert 0 < max(MemVR().hidden_layers(target)) < depth == max(depth, *MemVR().mlp_layers(target))
