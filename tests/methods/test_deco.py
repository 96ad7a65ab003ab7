"""DeCo against its equations: candidates, the surest layer, the corrected logits, one row at a time."""

import pytest
import torch
from cases import CASES, STEPS
from reference_logits import compare, early, read, whole

from vlm_anchors.errors import BadParameter
from vlm_anchors.methods.deco import DeCo


def corrected(case, method, double, final, states):
    """One row. final: the last layer's logits. states: layer -> its output for this row."""
    shares = final.softmax(-1)
    order = shares.argsort(descending=True).tolist()
    chosen, mass = [], 0.0
    for token in order[: method.top_k]:
        chosen.append(token)
        mass += float(shares[token])
        if mass >= method.top_p:
            break
    best = (-1.0, None)
    for state in states.values():
        logits = early(case, double, state)
        for token in chosen:
            sure = float(logits.softmax(-1)[token])
            if sure > best[0]:
                best = (sure, logits)
    new = torch.full_like(final, -float("inf")) if method.outside == "cut" else final.clone()
    for token in chosen:
        new[token] = final[token] + method.alpha * best[0] * best[1][token]
    return new


def reference(case, method):
    def logits(double, single, tokens):
        final, states = read(case, double, whole(case, single, tokens), STEPS + 1)
        layers = range(method.layers[0], method.layers[1] + 1)
        rows = []
        for row in range(STEPS + 1):
            own = {layer: states[layer - 1][row - STEPS - 1] for layer in layers}
            rows.append(corrected(case, method, double, final[row], own))
        return torch.stack(rows)

    return logits


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(
    "parameters", [{}, {"alpha": 50.0, "top_p": 0.15}, {"alpha": 50.0, "outside": "kept"}, {"top_k": 3}]
)
def test_equals_the_literal_reference(name, parameters):
    method = DeCo(**{"alpha": 20.0, "layers": (5, 7), **parameters})
    for summary in compare(CASES[name], method, reference(CASES[name], method)):
        assert summary["deco"]["corrected"] == STEPS + 1
        assert 5 <= summary["deco"]["first_layer_chosen"] <= 7


@pytest.mark.parametrize(
    "parameters", [{"alpha": -1}, {"top_k": 0}, {"top_p": 1.5}, {"outside": "x"}, {"layers": (4, 3)}]
)
def test_wrong_dials_are_refused(parameters):
    with pytest.raises(BadParameter):
        DeCo(**parameters)
