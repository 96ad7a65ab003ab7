"""IMCCD against its equations: image keys at their closed-up positions, the blurred branch with every matrix written out."""

import sys

import pytest
import torch
from cases import CASES, STEPS, model_of, run
from reference_clva import _repeat, _softmax, literal
from reference_logits import compare, cut, whole

from vlm_anchors.errors import BadParameter, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.imccd import IMCCD


class Closed:
    """A kernel for prompt and answer in one piece. passes: rows of each pass, whose scores share one mean."""

    def __init__(self, layout, frequencies, rate, passes, blurred):
        self.visual, self.frequencies, self.rate = layout.visual, frequencies, rate
        self.passes, self.blurred, self.near = passes, blurred, 0
        self.image_mass = {"scores": [], "weights": []}

    def turned(self, key):
        """Image keys as if rotated at s + (1 - r) N + r i instead of s + i."""
        key, count = key.clone(), len(self.visual)
        for i, j in enumerate(self.visual):
            shift = (1 - self.rate) * count + self.rate * i - i
            half = key.shape[-1] // 2
            for f in range(half):
                angle = torch.tensor(shift * float(self.frequencies[f]), dtype=torch.float64)
                a, b = key[0, :, j, f].clone(), key[0, :, j, f + half].clone()
                key[0, :, j, f] = a * angle.cos() - b * angle.sin()
                key[0, :, j, f + half] = b * angle.cos() + a * angle.sin()
        return key

    def __call__(self, module, query, key, value, attention_mask, scaling=None, softcap=None, **kwargs):
        plain = _softmax(query, key, attention_mask, scaling)
        values = _repeat(value, query)
        out = plain @ values
        moved = _softmax(query, self.turned(key), attention_mask, scaling)
        raw = query @ _repeat(self.turned(key), query).transpose(-1, -2) * scaling
        for name, seen in (("scores", raw), ("weights", moved)):
            lasts = [seen[0, :, rows[-1]][:, self.visual].sum(-1).mean() for rows in self.passes]
            self.image_mass[name].append(torch.stack(lasts))
        for rows in self.passes:
            image_mass = raw[0][:, rows][:, :, self.visual]
            mean = float(image_mass.mean())
            self.near += int(((image_mass - mean).abs() < 1e-7).sum())
            for i in rows:
                out[0, :, i] = torch.stack(
                    [self.row(moved[0, h, i], raw[0, h, i], values[0, h], mean) for h in range(query.shape[1])]
                )
        return out.transpose(1, 2).contiguous(), None

    def row(self, weights, scores, values, mean):
        image = values[self.visual].mean()
        total = torch.zeros_like(values[0])
        for j in range(len(weights)):
            strong = self.blurred and j in set(self.visual) and float(scores[j]) > mean
            total = total + weights[j] * (image.expand_as(values[j]) if strong else values[j])
        return total


def reference(case, method, rate, window=30):
    def logits(double, single, tokens):
        layout = case.layout(single)
        prompt = single["input_ids"].shape[1]
        passes = [layout.text, *([prompt + t] for t in range(STEPS))]
        frequencies = case.stack(double).rotary_emb.inv_freq
        found, image_mass = [], None
        for blurred in (False, True):
            kernel = Closed(layout, frequencies, rate, passes, blurred)
            with literal(double, kernel, case.stack) as edited, torch.no_grad():
                found.append(edited(**whole(case, single, tokens)).logits[0][-STEPS - 1 :])
            assert not kernel.near
            image_mass = image_mass if blurred else kernel.image_mass
        first, second = found
        alpha = torch.full((len(first), 1), method.alpha, dtype=first.dtype)
        if method.gate != "off":
            mean = torch.stack(image_mass[method.gate]).mean(0)
            for t in range(1, len(mean)):
                # A window of the last steps holds the step itself.
                earlier = mean[:t][:window] if method.window == "first" else mean[:t][1 - window :]
                if mean[t] < earlier.mean():
                    alpha[t] = 0
        return cut((1 + alpha) * first - alpha * second, first, method.beta)

    return logits


@pytest.mark.grid
@pytest.mark.parametrize(("name", "rate"), [("llava", 1 / 3), ("instructblip", 2 / 3), ("qwen2.5-vl", 1.0)])
@pytest.mark.parametrize("alpha", [1.0, pytest.param(0.0, marks=pytest.mark.slow)])
def test_equals_the_literal_reference(name, rate, alpha):
    method = IMCCD(alpha=alpha, beta=0.5, rate=1.0 if name == "qwen2.5-vl" else None)
    effects = compare(CASES[name], method, reference(CASES[name], method, rate), moved=0)
    for summary in effects:
        assert summary["imccd"]["branch_passes"] == (STEPS + 1 if alpha else 0)


@pytest.mark.grid
@pytest.mark.parametrize(("name", "rate"), [("llava", 1 / 3), pytest.param("qwen2.5-vl", 1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("gate", "window"), [("scores", "first"), ("weights", "last")])
def test_the_caption_gate(name, rate, gate, window, monkeypatch):
    monkeypatch.setattr(sys.modules[IMCCD.__module__], "WINDOW", 2)
    method = IMCCD(rate=rate, gate=gate, window=window)
    effects = compare(CASES[name], method, reference(CASES[name], method, rate, 2), moved=0)
    assert sum(summary["imccd"]["gated"] for summary in effects)


@pytest.mark.parametrize(("rate", "rows"), [(1.0, 0), (0.5, None)])
def test_rows_that_the_gate_only_looks_at_are_not_edited(rate, rows):
    model, batch = model_of("llava"), CASES["llava"].batch()
    with attach(model, IMCCD(rate=rate, gate="weights")) as handle:
        run(model, batch)
        for summary in handle.effects:
            assert (
                summary["imccd"]["rows_edited"] == rows if rows is not None else summary["imccd"]["rows_edited"] > STEPS
            )
            assert summary["imccd"]["branch_passes"] == STEPS + 1


def test_a_window_without_a_gate_is_refused():
    with pytest.raises(
        BadParameter, match="gate='off' has none; found 'last'. Set gate='scores' or gate='weights' as well"
    ):
        IMCCD(window="last")
    assert IMCCD(gate="scores", window="last").disabled() == IMCCD(alpha=0.0, beta=0.0, rate=1.0)


def test_mrope_has_no_definition():
    with pytest.raises(CannotAct, match="rate=1"):
        attach(model_of("qwen2.5-vl"), IMCCD())
    with pytest.raises(CannotAct, match="rate=1"):
        attach(model_of("qwen2.5-vl"), IMCCD(rate=0.5))


@pytest.mark.parametrize(
    "parameters",
    [
        {"alpha": -1},
        {"beta": 1.5},
        {"rate": 0},
        {"rate": 2},
        {"gate": "on"},
        {"gate": "scores", "alpha": 0.0},
        {"window": 30},
    ],
)
def test_wrong_dials_are_refused(parameters):
    with pytest.raises(BadParameter):
        IMCCD(**parameters)
