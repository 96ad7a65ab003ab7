"""Methods in a list: each acts as it does alone where the other leaves off, and two that share a hook are refused."""

import pytest
import test_attanchor as anchoring
import torch
from cases import CASES, model_of, run, tokens_of
from stand_ins import Processor

import vlm_anchors as va
from vlm_anchors.errors import CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.attanchor import AttAnchor
from vlm_anchors.methods.attanchor_i2t import AttAnchorI2T
from vlm_anchors.methods.clearsight import ClearSight
from vlm_anchors.methods.clva import CLVA
from vlm_anchors.methods.deco import DeCo
from vlm_anchors.methods.memvr import MemVR
from vlm_anchors.methods.pai import PAI
from vlm_anchors.methods.shared import contrast
from vlm_anchors.methods.vcd import VCD, noised

PAIRS = [
    [CLVA(tau=1.0), VCD()],
    [ClearSight(), DeCo(alpha=5.0)],
    [CLVA(tau=1.0), MemVR(gamma=0.5)],
    [PAI(gamma=1.0), VCD()],
]


def test_the_second_branch_runs_without_the_first_method():
    """CLVA + VCD: CLVA's logits in the first branch, the plain model's of the noised image in the second."""
    model, batch, vcd = model_of("llava"), CASES["llava"].batch(), VCD(beta=0.0)
    with attach(model, [CLVA(tau=1.0), vcd]) as handle:
        both, tokens = run(model, batch)
        assert [set(summary) for summary in handle.effects] == [{"clva", "vcd"}] * 3
        assert all(
            summary["vcd"]["branch_passes"] == 5 and summary["clva"]["rows_edited"] > 5 for summary in handle.effects
        )
    with attach(model, CLVA(tau=1.0)):
        first, _ = run(model, batch, tokens)
    plain, _ = run(model, batch, tokens)
    with attach(model, vcd):
        alone, _ = run(model, batch, tokens)
    noised = 2 * plain - alone
    wanted = torch.stack([contrast(a, b, 1.0, 0.0) for a, b in zip(first, noised, strict=True)])
    assert (both - wanted).abs().max() < 1e-5


@pytest.mark.grid
@pytest.mark.parametrize("methods", PAIRS, ids=lambda pair: "+".join(type(one).__name__ for one in pair))
def test_pairs_keep_the_promises(methods):
    model, case = model_of("llava"), CASES["llava"]
    batch = case.batch()
    plain, _ = run(model, batch)
    with attach(model, methods):
        together, tokens = run(model, batch)
        beams = tokens_of(model, batch, num_beams=3)
        for sample in range(3):
            single = case.split(batch, sample)
            alone, _ = run(model, single, tokens[sample : sample + 1])
            seen = torch.isfinite(alone[:, 0])
            assert (together[:, sample] - alone[:, 0])[seen].abs().max() < 1e-5
            assert torch.equal(tokens_of(model, single, num_beams=3)[0], beams[sample])
    for method in methods:
        with attach(model, method):
            assert not torch.equal(run(model, batch, tokens)[0], together)
    with attach(model, [method.disabled() for method in methods]):
        assert torch.equal(run(model, batch)[0], plain)


@pytest.mark.parametrize("pair", [[CLVA(), ClearSight()], [VCD(), DeCo()], [CLVA(), PAI()]])
def test_one_door_is_opened_once(pair):
    with pytest.raises(CannotAct, match="cannot run together"):
        attach((model_of("llava"), Processor()), pair)


def test_two_places_of_one_model_are_refused():
    with pytest.raises(CannotAct, match="target='decoder'"):
        attach(model_of("instructblip"), [CLVA(), VCD()])
    with attach(model_of("instructblip"), [CLVA(target="decoder", tau=1.0), VCD()]) as handle:
        run(model_of("instructblip"), CASES["instructblip"].batch())
    assert set(handle.effects[0]) == {"clva", "vcd"}


KINDS = ["i..", ".i.", "i...."]


def spread(method, anchored, name, clean, other):
    """The features `other` in the order and number in which prepared inputs hold the features `clean`."""
    held = anchored["mm_encoder_outputs"]["image"].pooler_output
    rows = torch.cat([row.reshape(-1, row.shape[-1]) for row in held])
    same = (rows[:, None] == clean[None]).all(-1)
    assert bool(same.any(1).all()) and (len(rows) > len(clean)) == isinstance(method, AttAnchorI2T)
    return other[same.int().argmax(1)]


def single_of(name, sample):
    family = anchoring.tiny.FAMILIES[name]
    return anchoring.tiny.batch(family, [anchoring.batch_of(name, KINDS)[1][sample]])


def features_of(model, arguments):
    wanted = {k: v for k, v in arguments.items() if k in ("pixel_values", "image_grid_thw")}
    return torch.cat([row.reshape(-1, row.shape[-1]) for row in model.get_image_features(**wanted).pooler_output])


@pytest.mark.grid
@pytest.mark.parametrize(
    "method", [AttAnchor(tau=0.2), AttAnchorI2T(tau=0.3, pause_tokens=1)], ids=["words", "patches"]
)
@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl"])
def test_attanchor_and_vcd_prepared_before_the_method_is_attached(name, method):
    """The contrastive branch reads the noised image in every place that shows it, copies included, whatever ran in between."""
    vcd, model = VCD(beta=0.0), anchoring.model_of(name)
    batch, _ = anchoring.batch_of(name, KINDS)
    anchored = anchoring.prepared(name, method, batch)
    assert sum(anchoring.inserted(anchored)) > 3
    with torch.no_grad(), attach(model, vcd) as handle:
        anchoring.prepared(name, method, anchoring.batch_of(name, KINDS, seed=1)[0])  # another image
        both, tokens = run(model, anchored)
        beams = tokens_of(model, anchored, num_beams=2)
        assert [summary["vcd"]["branch_passes"] > 0 for summary in handle.effects] == [True] * 6
    first, _ = run(model, anchored, tokens)
    grid = batch.get("image_grid_thw")
    noise = noised(batch["pixel_values"], vcd.step, vcd.seed, grid, model.config.vision_config)
    with torch.no_grad():
        clean, other = features_of(model, batch), features_of(model, {**batch, "pixel_values": noise})
    seen = dict(anchored)
    held = seen["mm_encoder_outputs"]["image"]
    rows = spread(method, anchored, name, clean, other)
    counts = [row.reshape(-1, row.shape[-1]).shape[0] for row in held.pooler_output]
    held.pooler_output = list(rows.split(counts))
    second, _ = run(model, seen, tokens)
    wanted = torch.stack([contrast(a, b, 1.0, 0.0) for a, b in zip(first, second, strict=True)])
    assert (both - wanted).abs().max() < 1e-5 and (first - second).abs().max() > 1e-3
    for sample in range(3):
        single = anchoring.prepared(name, method, single_of(name, sample))
        with attach(model, vcd):
            assert torch.equal(tokens_of(model, single, num_beams=2)[0], beams[sample])


@pytest.mark.grid
@pytest.mark.parametrize(
    "spec", ["attanchor:tau=0.1+vcd", "attanchor-i2t:tau=0.1+vcd", "attanchor:tau=0.1+clva:tau=1+vcd"]
)
@pytest.mark.parametrize("decoding", ["greedy", "beam:num_beams=2"])
def test_ask_runs_attanchor_and_vcd(tiny, red, spec, decoding):
    answer = va.ask(tiny, red, "Is there a dog in the image?", method=spec, decoding=decoding, max_new_tokens=3)
    assert set(answer.effects) == {part.split(":")[0] for part in spec.split("+")}
    assert answer.effects["vcd"]["branch_passes"] > 0 < answer.effects[spec.split(":")[0]]["tokens_inserted"]
