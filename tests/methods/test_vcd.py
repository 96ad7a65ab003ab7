"""VCD against two readings without a cache, the second of an image noised by hand."""

import math
import warnings

import pytest
import tiny_classes
import tiny_processors
import tiny_qformer
import torch
from cases import CASES, STEPS, model_of
from reference_logits import compare, cut, read, whole

from vlm_anchors.errors import AnchorsWarning, BadParameter, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.attanchor import AttAnchor
from vlm_anchors.methods.vcd import VCD, kept_signal, noised


def signal(step):
    kept = 1.0
    for k in range(step + 1):
        ramp = -6 + 12 * k / 999
        kept *= 1 - ((0.005 - 1e-5) / (1 + math.exp(-ramp)) + 1e-5)
    return kept


def noisy(single, step, seed=0):
    """The sample's one image with noise. A flat patch is channel, time, row, column: 3 x 2 x 4 x 4 in the tiny model."""
    pixels, generator = single["pixel_values"], torch.Generator().manual_seed(seed)
    if "image_grid_thw" in single:
        drawn = torch.randn(len(pixels), 3, 4, 4, generator=generator)
        noise = torch.empty(len(pixels), 3, 2, 4, 4)
        for moment in range(2):
            noise[:, :, moment] = drawn
        noise = noise.reshape(pixels.shape)
    else:
        noise = torch.randn(pixels.shape, generator=generator)
    kept = signal(step)
    return {**single, "pixel_values": math.sqrt(kept) * pixels + math.sqrt(1 - kept) * noise}


def reference(case, method):
    def logits(double, single, tokens):
        first, _ = read(case, double, whole(case, single, tokens), STEPS + 1)
        second, _ = read(case, double, whole(case, noisy(single, method.step, method.seed), tokens), STEPS + 1)
        return cut((1 + method.alpha) * first - method.alpha * second, first, method.beta)

    return logits


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(
    "parameters", [{}, {"alpha": 3.0, "beta": 0.8}, {"alpha": 0.0, "beta": 0.9}, {"step": 999, "seed": 3}]
)
def test_equals_the_literal_reference(name, parameters):
    method = VCD(**parameters)
    effects = compare(CASES[name], method, reference(CASES[name], method), moved=0 if not method.alpha else 20)
    for summary in effects:
        assert summary["vcd"]["branch_passes"] == (STEPS + 1 if method.alpha else 0)


def test_the_schedule():
    """The two factors the schedule gives at its usual steps."""
    assert math.sqrt(float(kept_signal()[500])) == pytest.approx(0.863, abs=1e-3)
    assert math.sqrt(1 - float(kept_signal()[999])) == pytest.approx(0.959, abs=1e-3)
    assert float(kept_signal()[321]) == pytest.approx(signal(321), rel=1e-12)


def test_both_copies_of_a_still_image_get_the_same_noise(red):
    """The processor's own copies stay copies, and what the first layer reads has the equation's share of noise."""
    model, step = model_of("qwen2.5-vl"), 500
    made = tiny_processors.qwen2_5_vl().image_processor(red, return_tensors="pt")
    pixels, grid, vision = made["pixel_values"], made["image_grid_thw"], model.config.vision_config
    noise = noised(pixels, step, 0, grid, vision)
    for values in (pixels, noise):
        moments = values.unflatten(1, (vision.in_channels, vision.temporal_patch_size, -1))
        assert torch.equal(moments[:, :, 0], moments[:, :, 1])
    drawn = (noise - math.sqrt(signal(step)) * pixels) / math.sqrt(1 - signal(step))
    assert drawn.std() == pytest.approx(1, abs=0.02)
    with torch.no_grad():
        own, still = model.model.visual.patch_embed(drawn), drawn.unflatten(1, (3, 2, 16))[:, :, 0]
        kernel = model.model.visual.patch_embed.proj.weight.sum(2).flatten(2)
    assert (own - torch.einsum("rcp,ocp->ro", still, kernel)).abs().max() < 1e-4


def test_moments_of_a_moving_image_have_noise_of_their_own():
    vision = model_of("qwen2.5-vl").config.vision_config
    noise = noised(torch.zeros(2 * 4, 96), 999, 0, torch.tensor([[2, 2, 2]]), vision).unflatten(1, (3, 2, 16))
    assert (noise[:, :, 0] - noise[:, :, 1]).abs().min(-1).values.max() > 0


WHOLE = ("qwen3_vl", "gemma3", "cohere2_vision", "llava_next")
"""Features for deeper layers; image blocks told by token types; scaled logits; a tower that is not given what was made."""


@pytest.mark.parametrize("name", WHOLE)
def test_a_branch_read_by_the_whole_model_equals_two_readings_without_a_cache(name):
    one = tiny_classes.tiny(name)
    inputs, _, _ = one.prompt(1)
    steps = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    with torch.no_grad():
        with pytest.warns(AnchorsWarning, match="vcd is tested on"), attach(one.model, VCD(beta=0.0)) as handle:
            out = one.model.generate(
                **inputs, **steps, output_logits=True, output_scores=True, return_dict_in_generate=True
            )
            called = one.model(**inputs).logits[:, -1]
        assert handle.effects[0]["vcd"]["branch_passes"] == 1
        grid = inputs.get("image_grid_thw")
        noise = noised(inputs["pixel_values"], 500, 0, grid, one.model.config.vision_config)
        for step in range(3):
            more = out.sequences[:, inputs["input_ids"].shape[1] :][:, :step]
            longer = {**inputs, "input_ids": torch.cat([inputs["input_ids"], more], 1)}
            for kind in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
                if kind in inputs:
                    longer[kind] = torch.nn.functional.pad(inputs[kind], (0, step), value=int(kind == "attention_mask"))
            first, second = (
                one.model(**{**longer, "pixel_values": x}).logits[:, -1] for x in (inputs["pixel_values"], noise)
            )
            assert (out.logits[step] - (2 * first - second)).abs().max() < 1e-4
            assert (first - second).abs().max() > 1e-2
    assert (called - out.logits[0]).abs().max() < 1e-5


def test_a_whole_branch_follows_beams_and_anchored_prompts():
    one = tiny_classes.tiny("qwen3_vl")
    inputs, _, _ = one.prompt(1, after=8)
    beams = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 3, "do_sample": False}
    prepared = AttAnchor(tau=0.0, tokens="all").prepare(one.model, inputs)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for asked in (inputs, prepared):
            plain = one.model.generate(**asked, **beams)
            with attach(one.model, VCD(beta=0.0)):
                assert one.model.generate(**asked, **beams).shape[0] == plain.shape[0] == 2
                copies = one.model(**asked).logits[:, -1]
            assert (copies - one.model(**asked).logits[:, -1]).abs().max() > 1e-3


def test_an_encoder_decoder_is_refused_in_words_that_fit():
    """VCD has no parameter `target` that could be left alone."""
    with pytest.raises(
        CannotAct, match="inside the language model need a decoder-only one.* or clva with target='auto'"
    ):
        attach(tiny_qformer.instructblip("t5"), VCD())


def test_images_that_were_encoded_before_are_refused():
    model, single = model_of("llava"), CASES["llava"].split(CASES["llava"].batch(), 0)
    features = model.get_image_features(single.pop("pixel_values"), return_dict=True)
    with attach(model, VCD()), pytest.raises(CannotAct, match="pixel_values"):
        model(**single, mm_encoder_outputs={"image": features})


@pytest.mark.parametrize("parameters", [{"alpha": -1}, {"beta": 1.5}, {"step": 1000}, {"seed": 0.5}])
def test_wrong_dials_are_refused(parameters):
    with pytest.raises(BadParameter):
        VCD(**parameters)
