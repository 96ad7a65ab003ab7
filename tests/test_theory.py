"""AttAnchor's theorems measured: every count against plain loops, logits and weights against the model's own projections."""

import math

import pytest
import test_attanchor_ask
import torch
from test_family_table import PROCESSORS, noise

from vlm_anchors import scenes
from vlm_anchors.analysis import samples, theory
from vlm_anchors.analysis.anchor_distances import anchor_table, cosines, posted, prompts_of
from vlm_anchors.analysis.image_grid import ImageGrid
from vlm_anchors.errors import CannotAct
from vlm_anchors.generation.generate import read_sample
from vlm_anchors.inputs.prompt_builder import prepare
from vlm_anchors.methods.attanchor import AttAnchor

vlm = test_attanchor_ask.vlm
"""A fixture: every family, with a template in the words it has."""
TAUS = [0.0, 0.125, 0.25, 0.5, 1.0]


def literal_counts(cosine, right, tau):
    words = anchored = hits = wanted = 0
    for of_word, right_of_word in zip(cosine.tolist(), right.tolist(), strict=True):
        words += 1
        best = 0
        for patch, value in enumerate(of_word):
            if value > of_word[best]:
                best = patch
        wanted += any(right_of_word)
        if tau < 1 and of_word[best] >= tau:
            anchored += 1
            hits += right_of_word[best]
    return {"tau": tau, "words": words, "anchored": anchored, "right": hits, "wanted": wanted}


@pytest.mark.parametrize("seed", range(20))
def test_selection_counts_as_plain_loops_do(seed):
    """Cosines in eighths, so that ties and values of exactly tau occur."""
    torch.manual_seed(seed)
    cosine, right = torch.randint(-8, 9, (6, 5)) / 8, torch.rand(6, 5) < 0.2
    assert theory.selection(cosine, right, TAUS) == [literal_counts(cosine, right, tau) for tau in TAUS]


def test_quality_by_hand():
    """Four words; one names something. At 0.2 it and another are anchored, it rightly; at 0.6 nothing is."""
    cosine = torch.tensor([[0.5, 0.1], [0.3, 0.4], [0.1, 0.0], [0.0, 0.1]])
    right = torch.tensor([[True, False], [False, False], [False, False], [False, False]])
    rows = theory.over_scenes([theory.selection(cosine, right, [0.2, 0.6])], "tau", theory.quality, draws=20)
    assert {name: rows[0][name] for name in ("anchored", "precision", "recall")} == {
        "anchored": 0.5, "precision": 0.5, "recall": 1.0
    }  # fmt: skip
    assert rows[0]["f1"] == pytest.approx(2 / 3) and rows[0]["f1_low"] == pytest.approx(2 / 3)
    assert rows[1]["precision"] is None and rows[1]["precision_low"] is None and rows[1]["f1"] == 0.0


def two_scenes():
    """One where every anchor is right, one where none is."""
    counts = {"words": 10, "anchored": 4, "wanted": 4}
    return [[{"tau": 0.1, **counts, "right": right}, {"tau": 0.2, **counts, "right": right // 2}] for right in (4, 0)]


def test_intervals_are_those_of_draws_of_scenes():
    row, _ = theory.over_scenes(two_scenes(), "tau", theory.quality, draws=400)
    assert (row["precision"], row["precision_low"], row["precision_high"]) == (0.5, 0.0, 1.0)
    alike, _ = theory.over_scenes([two_scenes()[0]] * 5, "tau", theory.quality, draws=50)
    assert (alike["f1"], alike["f1_low"], alike["f1_high"]) == (1.0, 1.0, 1.0)


def test_the_best_tau_is_the_one_of_the_highest_f1_and_of_equals_the_highest():
    right, wrong = two_scenes()
    assert theory.best_tau([right] * 3, draws=50) == {"tau": 0.1, "tau_low": 0.1, "tau_high": 0.1, "f1": 1.0}
    assert theory.best_tau([wrong], draws=50)["tau"] == 0.2
    torn = [[{"tau": tau, "words": 9, "anchored": 3, "wanted": 3, "right": r[i]} for i, tau in enumerate((0.1, 0.2))]
            for r in ((3, 1), (0, 1))]  # fmt: skip
    found = theory.best_tau(torn, draws=200)
    assert (found["tau"], found["tau_low"], found["tau_high"]) == (0.1, 0.1, 0.2)


def test_added_sums_rows_of_one_value():
    rows = [{"tau": 0.2, "n": 1, "m": 2}, {"tau": 0.1, "n": 5, "m": 0}, {"tau": 0.2, "n": 3, "m": True}]
    assert theory.added(rows, "tau") == [{"tau": 0.1, "n": 5, "m": 0}, {"tau": 0.2, "n": 4, "m": 3}]


@pytest.fixture
def inputs(tiny, red):
    return prepare(tiny, [read_sample(red, "Is there a dog in the image?")]).tensors


@pytest.mark.parametrize("alignment", [0.0, 0.3, 1.0])
def test_misaligned_patches_keep_that_cosine_and_their_length(tiny, inputs, alignment):
    prompts = prompts_of(tiny, inputs)
    turned = theory.misaligned(prompts, alignment, seed=1)
    close = {"atol": 1e-5, "rtol": 1e-4}
    same = torch.cosine_similarity(prompts.features, turned.features)
    torch.testing.assert_close(same, torch.full_like(same, alignment), **close)
    torch.testing.assert_close(turned.features.norm(dim=-1), prompts.features.norm(dim=-1), **close)
    assert not torch.equal(turned.features, theory.misaligned(prompts, alignment, seed=2).features) or alignment == 1


def test_named_patches_are_those_on_the_named_object_s_box(tiny):
    scene = scenes.from_objects(["cup", "fork"])
    things = tuple((thing.name, thing.box, thing.visibility) for thing in scene.objects)
    question = "Is there a cup in the image?"
    cosine, right = theory.named_patches(tiny, samples.Probe(scenes.render(scene), question, things, "cup"))
    words, plain = cosines(prompts_of(tiny, prepare(tiny, [read_sample(scenes.render(scene), question)]).tensors))
    assert torch.equal(cosine, plain)
    (box,) = [thing.box for thing in scene.objects if thing.name == "cup"]
    side = math.isqrt(cosine.shape[1])
    for at, word in enumerate(words):
        for patch in range(cosine.shape[1]):
            x, y = ((patch % side + 0.5) * 128 / side, (patch // side + 0.5) * 128 / side)
            middle = (box[0] + box[2]) / 2 * side // 128, (box[1] + box[3]) / 2 * side // 128
            inside = (box[0] <= x < box[2] and box[1] <= y < box[3]) or middle == (patch % side, patch // side)
            assert bool(right[at, patch]) == (word == "cup" and inside)
    absent = samples.Probe(scenes.render(scene), "Is there a dog in the image?", things, "dog")
    assert not theory.named_patches(tiny, absent)[1].any()


def test_cropped_images_are_refused(tiny, monkeypatch):
    monkeypatch.setattr(ImageGrid, "shows_all_of", lambda self, image: False)
    with pytest.raises(CannotAct, match="sees its images cropped or in tiles, so boxes do not lie where patches are"):
        theory.named_patches(tiny, samples.from_scenes(1)[0])


@pytest.mark.parametrize(
    ("words", "name", "found"),
    [
        (["a", "dining", "table", "?"], "dining table", range(1, 3)),
        (["a", "din", "ing", "tables"], "dining table", range(1, 4)),
        (["Dogs", "?"], "dog", range(1)),
        (["hot", "dog"], "dog", range(1, 2)),
        (["a", "hotdogstand"], "hot dog", range(0)),
        ([], "dog", range(0)),
        (["s", "dog"], "", range(0)),
    ],
)
def test_naming(words, name, found):
    assert list(samples.naming(words, name)) == list(found)


def rotated(vector, position, base=10_000.0):
    """Rotary embedding of one head's vector, pair by pair (halves), in double precision."""
    half = len(vector) // 2
    out = [0.0] * len(vector)
    for i in range(half):
        angle = position * base ** (-2 * i / len(vector))
        a, b = vector[i], vector[i + half]
        out[i], out[i + half] = a * math.cos(angle) - b * math.sin(angle), b * math.cos(angle) + a * math.sin(angle)
    return out


def test_pulls_are_the_model_s_own_scores(tiny, inputs):
    """From each layer's projections: rotate, multiply, divide by the root of the width, soften over the keys before."""
    method = AttAnchor(tau=0.0)
    rows = theory.pulls(tiny, inputs, method)
    posts = anchor_table(tiny, inputs, method)
    decoder = tiny.model.get_decoder()
    assert len(rows) == len(posts) * len(decoder.layers) * tiny.model.config.text_config.num_attention_heads > 0

    seen = {}
    hooks = [
        getattr(layer.self_attn, name).register_forward_hook(
            lambda m, a, out, at=(number, name): seen.update({at: out[0].double()})
        )
        for number, layer in enumerate(decoder.layers, 1)
        for name in ("q_proj", "k_proj")
    ]
    anchored = method.prepare(tiny, inputs)
    with torch.no_grad():
        tiny.model(**anchored)
    for hook in hooks:
        hook.remove()

    ids = anchored["input_ids"][0].tolist()
    width = decoder.layers[0].self_attn.head_dim
    grouped = decoder.layers[0].self_attn.num_key_value_groups
    image = tiny.model.config.image_token_id
    patches = [place for place, token in enumerate(ids) if token == image]
    side = math.isqrt(len(patches))
    table = iter(rows)
    for layer in range(1, len(decoder.layers) + 1):
        for post in posts:
            patch = patches[post["row"] * side + post["column"]]
            copy = patch + post["after"]
            (word,) = [place for place in range(patches[-1] + 1, len(ids)) if ids[place] == ids[copy]]
            for head in range(tiny.model.config.text_config.num_attention_heads):
                row = next(table)
                assert (row["layer"], row["head"], row["word"]) == (layer, head + 1, post["word"])
                keys = seen[layer, "k_proj"][:, width * (head // grouped) :][:, :width].tolist()
                for name, place in (("word", word), ("copy", copy)):
                    query = rotated(seen[layer, "q_proj"][place, width * head :][:width].tolist(), place)
                    scores = [
                        sum(q * k for q, k in zip(query, rotated(keys[key], key), strict=True)) / math.sqrt(width)
                        for key in range(place + 1)
                    ]
                    assert row[f"logit_{name}"] == pytest.approx(scores[patch], abs=1e-4)
                    total = sum(math.exp(score - max(scores)) for score in scores)
                    weight = math.exp(scores[patch] - max(scores)) / total
                    assert row[f"weight_{name}"] == pytest.approx(weight, abs=1e-4)
                    assert row[f"keys_{name}"] == place + 1


@pytest.mark.grid
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers' own processors
@pytest.mark.parametrize("vlm", PROCESSORS, indirect=True)
def test_pulled_weights_are_eager_s_on_every_family(vlm):
    method = AttAnchor(tau=0.0)
    inputs = prepare(vlm, [read_sample(noise(40, 20), "w40 w41 w42")]).tensors
    rows = theory.pulls(vlm, inputs, method)
    _, posts = posted(prompts_of(vlm, inputs), method)
    vlm.model.set_attn_implementation("eager")
    with torch.no_grad():
        eager = vlm.model(**method.prepare(vlm, inputs), output_attentions=True).attentions
    vlm.model.set_attn_implementation("sdpa")
    ours = torch.tensor([[row["weight_word"], row["weight_copy"]] for row in rows]).view(len(eager), len(posts), -1, 2)
    for layer, whole in zip(ours, eager, strict=True):
        for pair, (_, post) in zip(layer, posts, strict=True):
            theirs = torch.stack([whole[0, :, post.word, post.patch], whole[0, :, post.copy, post.patch]], -1)
            torch.testing.assert_close(pair, theirs, atol=2e-6, rtol=1e-4)


def test_without_an_anchor_there_is_no_pull(tiny, inputs):
    assert theory.pulls(tiny, inputs, AttAnchor(tau=0.9999)) == []


def test_pull_counts_by_hand():
    """Two pairs in layer 1. The first copy's logit rises; its weight rises, but only as it shares it among fewer keys."""
    one = {"word": "dog", "cosine": 0.5, "layer": 1, "head": 1, "before": 10, "after": 1, "logit_word": 0.0, "logit_copy": 1.0,
           "weight_word": 0.1, "weight_copy": 0.15, "keys_word": 20, "keys_copy": 10}  # fmt: skip
    other = {**one, "head": 2, "before": 20, "logit_copy": -1.0, "weight_copy": 0.4}
    (row,) = theory.over_scenes([theory.pull_counts([one, other])], "layer", theory.pulled, draws=20)
    summary = {name: value for name, value in row.items() if not name.endswith(("_low", "_high"))}
    assert summary == pytest.approx({
        "layer": 1, "before": 15, "after": 1, "logit_word": 0, "logit_copy": 0, "weight_word": 0.1, "weight_copy": 0.275,
        "uniform_word": 0.05, "uniform_copy": 0.1, "logit_rises": 0.5, "weight_rises": 1.0, "lift_rises": 0.5,
    })  # fmt: skip
