"""Each measure on a case worked out by hand, and the whole chain against the literal reference of CLVA."""

import math

import pytest
import tiny
import torch
from reference_clva import literal
from test_clva import reference_for, split

from vlm_anchors.analysis import Capture, Trace, measures
from vlm_anchors.errors import CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.clva import CLVA


def trace(weights, system=0.0, keys=None, norms=None, image=None):
    """A trace from weights (l, h, r, v); system mass the same everywhere."""
    weights = torch.tensor(weights, dtype=torch.float32)
    layers, _, rows, visual = weights.shape
    mass = weights.sum(-1)
    return Trace(
        tuple(range(1, layers + 1)), weights, mass, torch.full_like(mass, system), torch.zeros_like(mass),
        torch.full((rows,), keys or visual + 2), torch.tensor(image or [0] * visual), None, norms,
    )  # fmt: skip


ONE = trace([[[[0.1, 0.3], [0.2, 0.2]], [[0.0, 0.0], [0.1, 0.1]]]], system=0.25)
"""One layer, two heads, two rows, two visual tokens: masses .4 .4 and 0 .2."""


def test_head_intensity_eq_1():
    rows = measures.head_intensity(ONE)
    assert [(row["layer"], row["head"]) for row in rows] == [(1, 1), (1, 2)]
    assert [row["visual"] for row in rows] == pytest.approx([0.4, 0.1])
    assert [row["words"] for row in rows] == pytest.approx([0.35, 0.65])


def test_head_sets_eq_2_3():
    """Intensities .1 .1 .1 .5: mean .2, sigma sqrt(.03) = .173; only the last stands out, nobody falls out."""
    four = trace([[[[0.1]], [[0.1]], [[0.1]], [[0.5]]]])
    rows = measures.head_sets(four)
    assert [row["set"] for row in rows] == ["", "", "", "sensitive"]
    assert rows[3]["z"] == pytest.approx(0.3 / math.sqrt(0.03), rel=1e-4)
    insensitive = measures.heads_of(four.visual.mean(-1), "insensitive")
    assert insensitive[0].tolist() == [True, False, False, False], "the most extreme one stands in"


def test_saliency_eq_4_is_the_last_rows():
    assert measures.saliency_maps(ONE, "all")[0].tolist() == pytest.approx([0.15, 0.15])
    assert measures.saliency_maps(ONE, "sensitive")[0].tolist() == pytest.approx([0.2, 0.2])
    rows = measures.saliency(ONE, "insensitive")
    assert [(row["token"], row["heads"]) for row in rows] == [(0, "insensitive"), (1, "insensitive")]
    assert rows[0]["saliency"] == pytest.approx(0.1)


def test_entropy_eq_5_as_it_is_and_normalised():
    row = measures.entropy(trace([[[[0.25, 0.25]]]]))[0]
    assert row["entropy"] == pytest.approx(0.5 * math.log(4))
    assert row["entropy_normalised"] == pytest.approx(math.log(2))
    assert measures.entropy(trace([[[[0.0, 0.5]]]]))[0]["entropy_normalised"] == pytest.approx(0)


def test_norms_eq_12_take_all_heads_together():
    parts = torch.tensor([[[[3.0], [4.0]]], [[[0.0], [5.0]]]])
    row = measures.norms(trace([[[[0.1]], [[0.1]]]], norms=parts))[0]
    assert (row["linguistic"], row["visual"], row["visual_part"]) == pytest.approx((5, 5, 0.5))
    with pytest.raises(CannotAct, match=r"were not captured. Use Capture\(norms=True\)"):
        measures.norms(ONE)


def test_pearson_and_drift_eq_6():
    a, b = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [5.0, 5.0, 5.0]]), torch.tensor([2.0, 4.0, 6.0])
    assert measures.pearson(a, b).tolist() == pytest.approx([1, -1, 0])
    maps = [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]
    rows = measures.drift(trace([[[row]] for row in maps]))
    assert [row["to_negative"] for row in rows] == pytest.approx([1, -1, 1, 1])
    assert [row["to_positive"] for row in rows] == pytest.approx([-1, 1, -1, -1])
    with pytest.raises(CannotAct, match="Layer 9 was not captured; this trace holds 1, 2, 3, 4"):
        measures.drift(trace([[[row]] for row in maps]), positive_layer=9)


def test_anchor_masks_eq_8_9_are_per_image():
    """Five 0s and a 1: mean 1/6, sigma .373, so the 1 is 2.24 sigmas above; and again in a second, fainter image."""
    one = [0.0] * 5 + [1.0]
    mask = measures.anchor_mask(torch.tensor(one + [v / 100 for v in one]), torch.tensor([0] * 6 + [1] * 6))
    assert mask.nonzero()[:, 0].tolist() == [5, 11]
    assert not measures.anchor_mask(torch.ones(4), torch.zeros(4, dtype=torch.long)).any(), "flat: no anchor"


def test_shares_against_counting():
    row = measures.shares(ONE, ONE)[0]
    assert row["visual"] == row["visual_edited"] == pytest.approx(0.25)
    assert row["counting"] == pytest.approx(2 / 4)


def test_average_over_a_folder():
    tables = [[{"layer": 1, "visual": 0.2, "heads": "all"}], [{"layer": 1, "visual": 0.4, "heads": "all"}]]
    (row,) = measures.average(tables)
    assert row == {
        "layer": 1, "visual": pytest.approx(0.3), "visual_se": pytest.approx(0.1), "heads": "all", "n": 2,
    }  # fmt: skip


def test_a_token_of_which_only_the_mean_was_kept():
    mean = trace([[[[0.1, 0.3]]]])
    both = Trace(mean.layers, mean.weights, *(mean.visual.expand(1, 2, 1),) * 3, mean.keys, mean.image, None)
    assert measures.saliency_maps(both)[0].tolist() == pytest.approx([0.1, 0.3])
    with pytest.raises(CannotAct, match="Only the mean over heads was kept"):
        measures.saliency_maps(both, "sensitive")


@pytest.mark.parametrize("sample", [0, 1, 2])
def test_anchors_are_those_of_the_literal_reference_and_of_clva(sample):
    model, single = tiny.llava(), split(tiny.llava_batch(), sample)
    seen = Capture(dtype=torch.float32)
    with torch.no_grad(), attach(model, CLVA(), recorder=seen) as handle:
        model(**single)
    counts = handle.effects[0]["clva"]["anchors"]
    masks = measures.anchor_masks(seen.of()[0])
    assert {sign: [int(mask.sum())] for sign, mask in masks.items()} == counts
    reference = reference_for(single, 8)
    with literal(model, reference) as double, torch.no_grad():
        double(**{**single, "pixel_values": single["pixel_values"].double()})
    assert not reference.near, "with this seed no decision lies on its threshold"
    first = reference.visual[0]
    for sign, name in (("+", "positive"), ("-", "negative")):
        found = {token - first for token, z in reference.z[sign].items() if z}
        assert set(masks[name].nonzero()[:, 0].tolist()) == found
    table = measures.anchors(seen.of()[0])
    assert len(table) == sum(int(mask.sum()) for mask in masks.values())


def test_clva_raises_the_share_that_it_says_it_raises():
    model, batch = tiny.llava(), tiny.llava_batch()
    seen = Capture()
    with torch.no_grad(), attach(model, CLVA(tau=1.0, beta=0.0), recorder=seen):
        model(**batch)
    rows = measures.shares(seen.of(0)[0], seen.of(0, edited=True)[0])
    for row in rows:
        if row["layer"] in CLVA().edited(8):
            assert row["visual_edited"] > row["visual"]
        else:
            assert row["visual_edited"] == row["visual"]
