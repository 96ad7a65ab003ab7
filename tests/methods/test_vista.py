"""VISTA against its equations: the steering vector, every row of every MLP, and the late layers' logits."""

import pytest
import torch
from cases import CASES, STEPS
from reference_logits import compare, early, hooked, read, whole, without_image

from vlm_anchors.errors import BadParameter
from vlm_anchors.methods.vista import VISTA


def turn(x, v, lam):
    """One row of one MLP's output."""
    cosine = float(torch.nn.functional.cosine_similarity(x, -v, dim=0))
    y = x / x.norm() + lam * (1 + max(0.0, cosine)) * v / v.norm()
    return y / y.norm() * x.norm()


def reference(case, method):
    def logits(double, single, tokens):
        none = tokens[:, :0]
        _, seen = read(case, double, whole(case, single, none), 1)
        _, blind = without_image(case, double, single, none, 1)
        change = [a[-1] - b[-1] for a, b in zip(seen, blind, strict=True)]
        if method.pca:
            change[0] = change[0] + torch.eye(len(change[0]), dtype=change[0].dtype)[0]

        def forward_state(layer):
            return lambda module, args, out: torch.stack([turn(x, change[layer], method.lam) for x in out[0]])[None]

        layers = case.stack(double).layers
        hooks = (
            [layer.mlp.register_forward_hook(forward_state(n)) for n, layer in enumerate(layers)] if method.lam else []
        )
        with hooked(*hooks):
            final, states = read(case, double, whole(case, single, tokens), STEPS + 1)
        first, last = method.layers
        late = torch.stack(
            [early(case, double, states[n - 1][-STEPS - 1 :], method.norm) for n in range(first, last + 1)]
        )
        return (1 - method.mix) * final + method.mix * late.mean(0)

    return logits


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("parameters", [{}, {"lam": 0.0}, {"mix": 0.0}, {"norm": True}, {"pca": True}])
def test_equals_the_literal_reference(name, parameters):
    method = VISTA(**{"lam": 0.3, "mix": 0.4, "layers": (5, 7), **parameters})
    for summary in compare(CASES[name], method, reference(CASES[name], method)):
        assert summary["vista"].get("steered") == (STEPS + 1 if method.lam else None)
        assert summary["vista"].get("mixed") == (STEPS + 1 if method.mix else None)
        assert (summary["vista"].get("steering_vector", 0) > 0) == (method.lam > 0)


@pytest.mark.parametrize(
    "parameters", [{"lam": -1}, {"mix": 1.5}, {"layers": (3, 1)}, {"norm": "yes"}, {"norm": 1}, {"pca": 1}]
)
def test_wrong_dials_are_refused(parameters):
    with pytest.raises(BadParameter):
        VISTA(**parameters)
