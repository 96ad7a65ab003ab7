"""Every parameter of CLVA: its range when built, its fit at attach, and that it changes what it says it changes."""

import pytest
import tiny
import torch

from vlm_anchors.errors import BadParameter, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods import METHODS
from vlm_anchors.methods.clva import CLVA, at_random, z_mask

BAD = {
    "alpha": ["14", None, float("nan"), float("inf"), True],
    "beta": ["x", float("nan")],
    "lam": [-1, "1"],
    "tau": [-0.1, None],
    "positive_layer": [0, 1.5, True],
    "negative_layer": [0, None, 2.0],
    "layers": [(3,), (5, 4), (0, 3), "3-5", [3, 4], (1.0, 2)],
    "normalise": ["rows", None],
    "refresh": ["always"],
    "empty": ["none"],
    "heads": ["some"],
    "gain": ["mean"],
    "places": ["here"],
    "images": ["one"],
    "target": ["qformer"],
    "latents": ["first"],
    "rows": ["before"],
    "seed": [-1, 1.0],
}


@pytest.mark.parametrize(
    ("parameter", "value"), [(parameter, value) for parameter, values in BAD.items() for value in values]
)
def test_a_dial_out_of_range_is_named(parameter, value):
    with pytest.raises(BadParameter, match=rf"CLVA\.{parameter} must be .*found"):
        CLVA(**{parameter: value})


def test_the_paper_values_are_the_defaults():
    method = CLVA()
    assert (method.alpha, method.beta, method.lam, method.tau) == (14.0, 0.9, 1.0, 2.0)
    assert method.positive(32) == 14 and method.edited(32) == range(15, 33)
    assert method.positive(6) == 2


def test_specs_round_trip():
    method = METHODS.build("clva:alpha=5,beta=0,layers=3-6,normalise=visual")
    assert method == CLVA(alpha=5, beta=0, layers=(3, 6), normalise="visual")
    assert METHODS.build(method.spec()) == method
    assert CLVA().spec() == "clva"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (CLVA(positive_layer=9), "positive_layer = 9: this model's decoder has layers 1 to 8"),
        (CLVA(negative_layer=9, layers=(3, 8)), "negative_layer = 9"),
        (CLVA(layers=(5, 9)), "layers = 9"),
        (CLVA(layers=(2, 8)), "not before the first edited layer 2"),
        (CLVA(negative_layer=4), "not before the first edited layer 3"),
        (CLVA(positive_layer=8), "positive_layer = 8 is the last layer, so none is left to edit"),
        (CLVA(gain="average", alpha=0.0, positive_layer=5, layers=(3, 8)), "positive_layer = 5 is not before"),
    ],
)
def test_a_layer_that_does_not_fit_the_model(method, message):
    with pytest.raises(CannotAct, match=message):
        attach(tiny.llava(), method)


def test_a_model_with_too_few_layers():
    with pytest.raises(CannotAct, match="needs a middle layer and deeper ones; this model has 2"):
        attach(tiny.llava(layers=2), CLVA())


@torch.no_grad()
def last(model, method):
    with attach(model, method) as handle:
        return model(**tiny.llava_batch()).logits[:, -1], handle.effects


VARIANTS = {
    "positive only": CLVA(beta=0.0),
    "negative only": CLVA(alpha=0.0),
    "both": CLVA(),
    "signs reversed, sizes kept": CLVA(alpha=-14.0, beta=-0.9),
    "signs reversed, sizes swapped": CLVA(alpha=-0.9, beta=-14.0),
    "global average": CLVA(gain="average"),
    "all heads": CLVA(heads="all"),
    "concentration": CLVA(heads="concentration"),
    "random places": CLVA(places="random"),
    "visual mass kept": CLVA(normalise="visual"),
    "some layers": CLVA(layers=(5, 6)),
    "another middle": CLVA(positive_layer=4),
    "another first": CLVA(negative_layer=2),
    "lower tau": CLVA(tau=1.0),
    "higher lambda": CLVA(lam=1.2, empty="skip"),
}


def test_every_ablation_is_expressible_and_different():
    model = tiny.llava()
    seen = {name: last(model, method)[0] for name, method in VARIANTS.items()}
    seen["plain"] = last(model, CLVA(alpha=0.0, beta=0.0))[0]
    names = list(seen)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert (seen[one] - seen[other]).abs().max() > 1e-6, (one, other)


def test_random_places_are_as_many_and_the_same_for_every_batch():
    model = tiny.llava()
    _, found = last(model, CLVA())
    one, placed = last(model, CLVA(places="random", seed=1))
    two, _ = last(model, CLVA(places="random", seed=2))
    assert [summary["clva"]["anchors"] for summary in found] == [summary["clva"]["anchors"] for summary in placed]
    assert not torch.equal(one, two)


def test_every_text_row_counts_the_words_before_the_image_too():
    """Under a causal mask they cannot see it, so only the count tells."""
    model = tiny.llava()
    after, summary = last(model, CLVA())
    every, told_all = last(model, CLVA(rows="all"))
    assert (after - every).abs().max() < 1e-5
    before = [6, 4, 8]  # the start token and the words before the image
    rows = [[one["clva"]["rows_edited"] for one in each] for each in (summary, told_all)]
    assert [a + b for a, b in zip(rows[0], before, strict=True)] == rows[1]


def test_refresh_at_the_prompt_keeps_its_anchors():
    """The first token is the same; later ones are chosen with the prompt's anchors."""
    model, batch = tiny.llava(), tiny.llava_batch()
    runs = {}
    for refresh in ("step", "prompt"):
        with attach(model, CLVA(refresh=refresh)):
            out = model.generate(
                **batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
            runs[refresh] = out.logits
    assert torch.equal(runs["step"][0], runs["prompt"][0])
    assert any(not torch.equal(a, b) for a, b in zip(runs["step"][1:], runs["prompt"][1:], strict=True))


class FakeVisual:
    def __init__(self, image):
        self.image = torch.tensor([image])
        self.valid = torch.ones_like(self.image, dtype=torch.bool)
        self.images = max(image) + 1


def test_a_flat_map_has_no_anchor():
    visual = FakeVisual([0] * 10)
    assert not z_mask(torch.full((1, 1, 10), 0.1), visual, visual.valid, 2.0).any()


def test_at_most_one_token_in_five_is_an_anchor():
    """Cantelli: at most n / (1 + tau^2) tokens lie above mu + tau sigma."""
    generator = torch.Generator().manual_seed(0)
    visual = FakeVisual([0] * 576)
    for power in (1, 4, 16):
        saliency = torch.rand(1, 1, 576, generator=generator) ** power
        assert z_mask(saliency, visual, visual.valid, 2.0).sum() <= 576 / 5


def test_each_image_has_its_own_threshold():
    saliency = torch.tensor([[[0.0] * 9 + [1.0] + [0.0] * 9 + [0.2]]])
    visual = FakeVisual([0] * 10 + [1] * 10)
    assert z_mask(saliency, visual, visual.valid, 2.0, "each").nonzero()[:, 2].tolist() == [9, 19]
    assert z_mask(saliency, visual, visual.valid, 2.0, "all").nonzero()[:, 2].tolist() == [9]


def test_random_places_stay_in_their_image():
    visual = FakeVisual([0] * 10 + [1] * 10)
    found = torch.zeros(1, 1, 20, dtype=torch.bool)
    found[..., [1, 2, 3, 15]] = True
    placed = at_random(found, visual, 0)
    assert placed[..., :10].sum() == 3 and placed[..., 10:].sum() == 1
