"""The vectorised plan against plain loops, on random cases with many ties, empty sets and ragged batches."""

import random

import pytest
import torch
from reference_attanchor import image_into_text, text_into_image, text_into_image_variant
from torch import nn

from vlm_anchors.interventions.insertion.batch import Listed, Prompts
from vlm_anchors.interventions.insertion.plan import PAUSE, Copies, insert, insert_positions, insert_tokens
from vlm_anchors.interventions.token_map import Marks
from vlm_anchors.methods.attanchor import AttAnchor
from vlm_anchors.methods.attanchor_i2t import AttAnchorI2T


class Planned(Prompts):
    """Prompts that stop at the plan."""

    def inserted(self, copies, of_patch):
        return insert(self.ids.shape[1], copies, pad_left=True)

    def row_ends(self):
        """Rows of three patches, from the left."""
        rows = [rows_of(visual.tolist()) for visual in self.marks.visual]
        return torch.tensor([[max(i for i, other in enumerate(row) if other == own) for own in row] for row in rows])


def rows_of(visual):
    """The row of each token: three patches are one; other tokens are rows of their own."""
    return [(sum(visual[:i]) // 3, 0) if patch else (i, 1) for i, patch in enumerate(visual)]


def random_case(seed):
    """Tokens with vectors of 16 signs: cosines are multiples of 1/8, exact in float32 and often tied."""
    draw = random.Random(seed)
    b, t = draw.randint(1, 3), draw.randint(1, 14)
    kind = [[draw.choice("wwppp.") for _ in range(t)] for _ in range(b)]
    if draw.random() < 0.2:
        kind[0] = [draw.choice("w.") for _ in range(t)]
    if draw.random() < 0.2:
        kind[-1] = [draw.choice("p.") for _ in range(t)]
    palette = [[draw.choice((-1.0, 1.0)) for _ in range(16)] for _ in range(draw.randint(1, 8))]
    vectors = [[draw.choice(palette) for _ in range(t)] for _ in range(b)]
    images = [[sum(k != "p" for k in row[: i + 1]) // 3 for i in range(t)] for row in kind]
    return kind, vectors, images


def prompts_of(kind, vectors, images):
    b, t = len(kind), len(kind[0])
    flat = torch.tensor([vector for row in vectors for vector in row])
    model = nn.Module()
    model.get_input_embeddings = lambda: lambda ids: flat[ids]
    ids = torch.arange(b * t).view(b, t)
    word, patch = (torch.tensor([[k == letter for k in row] for row in kind]) for letter in "wp")
    marks = Marks(patch, torch.tensor(images), torch.zeros_like(patch))
    real = torch.ones_like(patch)
    return Planned(
        "test",
        None,
        model,
        None,
        {"input_ids": ids},
        marks,
        real,
        Listed.of(word),
        patch,
        Listed.of(patch),
        flat,
        ids,
        {},
    )


def of_sample(plan, sample):
    own = ~plan.fill[sample]
    pairs = zip(plan.source[sample][own].tolist(), plan.host[sample][own].tolist(), strict=True)
    return [(None if source == PAUSE else source, host) for source, host in pairs]


@pytest.mark.parametrize("order", ["prompt", "reverse"])
@pytest.mark.parametrize("images", ["best", "each"])
def test_words_into_the_image_equal_plain_loops(order, images):
    inserted = 0
    for seed in range(150):
        kind, vectors, image_of = random_case(seed)
        tau = random.Random(seed).choice((0, 0.125, 0.25, 0.5, 0.999))
        if not any("p" in row for row in kind):
            continue
        plan = AttAnchor(tau=tau, order=order, images=images).anchored(prompts_of(kind, vectors, image_of))
        for sample, row in enumerate(kind):
            words, patches = ([i for i, k in enumerate(row) if k == letter] for letter in "wp")
            expected = text_into_image(len(row), words, patches, vectors[sample], tau, order, images, image_of[sample])
            assert of_sample(plan, sample) == expected, seed
            inserted += len(expected) - len(row)
    assert inserted > 100


@pytest.mark.grid
@pytest.mark.parametrize("each", ["word", "patch"])
@pytest.mark.parametrize("place", ["patch", "row", "image"])
@pytest.mark.parametrize("keep", ["all", "others", "anchors"])
def test_variants_equal_plain_loops(each, place, keep):
    differ = 0
    for seed in range(25):
        kind, vectors, image_of = random_case(seed)
        tau = random.Random(seed).choice((0, 0.125, 0.25, 0.5))
        if not all(any(letter in row for row in kind for letter in both) for both in "wp"):
            continue
        plan = AttAnchor(tau=tau, each=each, place=place, keep=keep).anchored(prompts_of(kind, vectors, image_of))
        for sample, row in enumerate(kind):
            words, patches = ([i for i, k in enumerate(row) if k == letter] for letter in "wp")
            rows = rows_of([k == "p" for k in row])
            arguments = (len(row), words, patches, vectors[sample], tau)
            expected = text_into_image_variant(*arguments, each, place, keep, image_of[sample], rows, len(row) - 1)
            assert of_sample(plan, sample) == expected, seed
            differ += expected != text_into_image(*arguments)
    assert (differ > 8) == ((each, place, keep) != ("word", "patch", "all"))


def test_positions_close_up_behind_words_that_left():
    """Word 3 of five tokens moves behind patch 1; what stood behind it moves back."""
    removed = torch.tensor([[False, False, False, True, False]])
    copies = Copies(torch.tensor([[3]]), torch.tensor([[1]]), torch.tensor([[True]]), torch.tensor([[False]]),
                    torch.ones(1, 1), removed=removed)  # fmt: skip
    plan = insert(5, copies, True)
    assert plan.source.tolist() == [[0, 1, 3, 2, 4]] and plan.slots(5).tolist() == [[0, 1, 3, -1, 4]]
    assert plan.originals(5).tolist() == [[0, 1, 2, 3, 4]], "what moved is a copy of nothing that is left"
    parts = torch.tensor([[[0, 1, 1, 2, 3]], [[0, 1, 1, 2, 3]], [[0, 1, 2, 2, 3]]])
    found = insert_positions(plan, parts, plan.host, plan.advances, removed)
    assert found[:, 0].tolist() == [[0, 1, 1, 1, 2], [0, 1, 1, 1, 2], [0, 1, 1, 2, 2]]


@pytest.mark.grid
@pytest.mark.parametrize("order", ["raster", "cosine"])
@pytest.mark.parametrize("pauses", [0, 3])
def test_patches_into_the_prompt_equal_plain_loops(order, pauses):
    inserted = 0
    for seed in range(150):
        kind, vectors, image_of = random_case(seed)
        tau = random.Random(seed).choice((0, 0.125, 0.25, 0.5, 0.999, 1))
        if not any("w" in row for row in kind) or (tau == 1 and not pauses):
            continue
        plan = AttAnchorI2T(tau=tau, order=order, pause_tokens=pauses).anchored(prompts_of(kind, vectors, image_of))
        for sample, row in enumerate(kind):
            words, patches = ([i for i, k in enumerate(row) if k == letter] for letter in "wp")
            expected = image_into_text(len(row), words, patches, vectors[sample], tau, order, pauses, len(row) - 1)
            assert of_sample(plan, sample) == expected, seed
            inserted += len(expected) - len(row)
    assert inserted > 100


def test_every_copy_knows_the_token_it_was_made_of():
    for seed in range(50):
        kind, vectors, image_of = random_case(seed)
        if not all(any(letter in row for row in kind) for letter in "wp"):
            continue
        for method in (AttAnchor(tau=0.0), AttAnchorI2T(tau=0.0, pause_tokens=1)):
            plan = method.anchored(prompts_of(kind, vectors, image_of))
            length = len(kind[0])
            originals = plan.originals(length)
            for sample in range(len(kind)):
                for slot in range(plan.source.shape[1]):
                    copied = bool(plan.copy[sample, slot]) and int(plan.source[sample, slot]) != PAUSE
                    original = int(originals[sample, slot])
                    assert (original != slot) == copied
                    assert not copied or not (plan.copy | plan.fill)[sample, original]
                    assert not copied or plan.source[sample, original] == plan.source[sample, slot]


def two_ragged():
    """Sample 1 gets one copy, sample 2 two: tokens 1 and 2 behind token 0."""
    return Copies(
        source=torch.tensor([[1, 0], [1, 2]]),
        host=torch.tensor([[0, 0], [0, 0]]),
        chosen=torch.tensor([[True, False], [True, True]]),
        advances=torch.zeros(2, 2, dtype=torch.bool),
        cosine=torch.ones(2, 2),
    )


@pytest.mark.parametrize("left", [True, False])
def test_everything_with_a_value_for_each_token_grows_along(left):
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]]) if left else torch.tensor([[1, 1, 0], [1, 1, 1]])
    tensors = {
        "input_ids": torch.tensor([[10, 11, 12], [20, 21, 22]]),
        "attention_mask": mask,
        "labels": torch.tensor([[-100, -100, 12], [-100, -100, 22]]),
        "token_type_ids": torch.tensor([[1, 0, 0], [1, 0, 0]]),
        "mm_token_type_ids": torch.tensor([[1, 0, 0], [1, 0, 0]]),
    }
    inserted = insert_tokens(insert(3, two_ragged(), left), tensors, pad_id=9)
    first = [9, 10, 11, 11, 12] if left else [10, 11, 11, 12, 9]
    assert inserted["input_ids"].tolist() == [first, [20, 21, 22, 21, 22]]
    assert inserted["attention_mask"].tolist()[0] == ([0, 0, 1, 1, 1] if left else [1, 1, 1, 0, 0])
    assert inserted["labels"].tolist()[1] == [-100, -100, -100, -100, 22]
    assert inserted["labels"].tolist()[0] == ([-100] * 4 + [12] if left else [-100] * 3 + [12, -100])
    assert inserted["token_type_ids"].tolist()[1] == [1, 1, 1, 0, 0], "a copy belongs to its host's block"
    assert inserted["mm_token_type_ids"].tolist()[1] == [1, 0, 0, 0, 0], "a copied word stays a word"


def test_without_a_mask_one_is_made_where_new_padding_needs_it():
    tensors = {"input_ids": torch.tensor([[10, 11, 12], [20, 21, 22]])}
    assert insert_tokens(insert(3, two_ragged(), True), tensors, 9)["attention_mask"].tolist()[0] == [0, 1, 1, 1, 1]


def test_positions_of_three_parts():
    """An image of two patches at (1, 1, 1) and (1, 1, 2), between words at 0 and 3."""
    original = torch.tensor([[[0, 1, 1, 3]], [[0, 1, 1, 3]], [[0, 1, 2, 3]]])
    plan = insert(
        4, Copies(*(torch.tensor([[n]]) for n in (3, 1)), *[torch.tensor([[True]])] * 2, torch.ones(1, 1)), True
    )
    off = torch.zeros_like(plan.advances)
    assert insert_positions(plan, original, plan.host, off)[:, 0].tolist() == [
        [0, 1, 1, 1, 3], [0, 1, 1, 1, 3], [0, 1, 1, 2, 3]
    ]  # fmt: skip
    assert insert_positions(plan, original, plan.host, plan.advances)[:, 0].tolist() == [
        [0, 1, 2, 2, 4], [0, 1, 2, 2, 4], [0, 1, 2, 3, 4]
    ]  # fmt: skip
    one_part = torch.arange(4)[None]
    assert insert_positions(plan, one_part, plan.host, plan.copy).tolist() == [[0, 1, 2, 3, 4]]
