"""VCD against two readings without a cache, the second of an image noised by hand."""

import math

import pytest
import torch
from cases import CASES, STEPS, model_of
from reference_logits import compare, cut, read, whole

from vlm_anchors.engine import attach
from vlm_anchors.errors import BadDial, CannotAct
from vlm_anchors.methods.vcd import VCD, kept_signal


def signal(step):
    kept = 1.0
    for k in range(step + 1):
        ramp = -6 + 12 * k / 999
        kept *= 1 - ((0.005 - 1e-5) / (1 + math.exp(-ramp)) + 1e-5)
    return kept


def noisy(single, step, seed=0):
    """The sample's one image with noise."""
    pixels = single["pixel_values"]
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
    kept = signal(step)
    return {**single, "pixel_values": math.sqrt(kept) * pixels + math.sqrt(1 - kept) * noise}


def reference(case, method):
    def logits(double, single, tokens):
        first, _ = read(case, double, whole(case, single, tokens), STEPS + 1)
        second, _ = read(case, double, whole(case, noisy(single, method.step, method.seed), tokens), STEPS + 1)
        return cut((1 + method.alpha) * first - method.alpha * second, first, method.beta)

    return logits


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(
    "dials", [{}, {"alpha": 3.0, "beta": 0.8}, {"alpha": 0.0, "beta": 0.9}, {"step": 999, "seed": 3}]
)
def test_equals_the_literal_reference(name, dials):
    method = VCD(**dials)
    acted = compare(CASES[name], method, reference(CASES[name], method), moved=0 if not method.alpha else 20)
    for told in acted:
        assert told["vcd"]["branch_passes"] == (STEPS + 1 if method.alpha else 0)


def test_the_schedule():
    """The two factors the schedule gives at its usual steps."""
    assert math.sqrt(float(kept_signal()[500])) == pytest.approx(0.863, abs=1e-3)
    assert math.sqrt(1 - float(kept_signal()[999])) == pytest.approx(0.959, abs=1e-3)
    assert float(kept_signal()[321]) == pytest.approx(signal(321), rel=1e-12)


def test_images_that_were_encoded_before_are_refused():
    model, single = model_of("llava"), CASES["llava"].split(CASES["llava"].batch(), 0)
    features = model.get_image_features(single.pop("pixel_values"), return_dict=True)
    with attach(model, VCD()), pytest.raises(CannotAct, match="pixel_values"):
        model(**single, mm_encoder_outputs={"image": features})


@pytest.mark.parametrize("dials", [{"alpha": -1}, {"beta": 1.5}, {"step": 1000}, {"seed": 0.5}])
def test_wrong_dials_are_refused(dials):
    with pytest.raises(BadDial):
        VCD(**dials)
