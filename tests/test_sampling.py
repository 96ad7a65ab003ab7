"""Keyed noise draws from the right distribution, and the same for everyone; yes and no are found in a vocabulary."""

import pytest
import torch
from jaxtyping import TypeCheckError

from vlm_anchors.generation.decodings import Nucleus
from vlm_anchors.generation.sampling import KeyedNoise, YesNo, gumbel, nucleus, spellings


def test_noise_depends_on_each_key_and_on_nothing_else():
    one = gumbel(0, "a", 0, 50)
    assert torch.equal(one, gumbel(0, "a", 0, 50))
    for other in (gumbel(1, "a", 0, 50), gumbel(0, "b", 0, 50), gumbel(0, "a", 1, 50)):
        assert not torch.equal(one, other)


def test_noise_is_the_same_on_every_machine():
    """Golden values: records made anywhere must be comparable."""
    assert gumbel(7, "sample", 3, 3).tolist() == pytest.approx([-0.0314427, 1.5586936, 2.5973763], abs=1e-6)


def test_noise_is_finite():
    assert torch.isfinite(gumbel(0, "x", 0, 200_000)).all()


def test_draws_follow_the_probabilities():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    expected = (logits / 0.8).softmax(-1)[0]
    decoding = Nucleus(temperature=0.8)
    counts = torch.zeros(4)
    for sample in range(4000):
        counts[KeyedNoise(decoding, [str(sample)])(torch.zeros(1, 1, dtype=torch.long), logits).argmax()] += 1
    error = (expected * (1 - expected) / 4000).sqrt()
    assert ((counts / 4000 - expected).abs() < 4 * error).all()


def test_nucleus_keeps_the_smallest_sufficient_set():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for top_p, kept in [(0.01, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4)]:
        assert torch.isfinite(nucleus(logits, top_p, 1.0)).sum() == kept, top_p


def test_nucleus_agrees_with_transformers():
    from transformers import TopPLogitsWarper

    logits = torch.randn(5, 200, generator=torch.Generator().manual_seed(0)) * 3
    theirs = TopPLogitsWarper(0.7)(None, logits / 1.3)
    assert torch.equal(torch.isfinite(theirs), torch.isfinite(nucleus(logits, 0.7, 1.3)))


def test_top_k_agrees_with_transformers():
    """Temperature, then the k most likely, then of those the smallest set that reaches top_p."""
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(5, 200, generator=torch.Generator().manual_seed(0)) * 3
    for top_k in (1, 7, 200, 500):
        theirs = TopPLogitsWarper(0.9)(None, TopKLogitsWarper(top_k)(None, logits / 1.3))
        assert torch.equal(torch.isfinite(theirs), torch.isfinite(nucleus(logits, 0.9, 1.3, top_k)))
    assert Nucleus(top_k=7).spec() == "nucleus:top_k=7"
    drawn = {
        int(KeyedNoise(Nucleus(top_k=2), [str(n)] * 5)(torch.zeros(5, 1, dtype=torch.long), logits)[0].argmax())
        for n in range(60)
    }
    assert drawn == set(logits[0].topk(2).indices.tolist())


def test_shapes_are_checked_in_tests():
    with pytest.raises(TypeCheckError):
        nucleus(torch.zeros(3), 0.9, 1.0)


class Words:
    """A tokenizer with four words, as a Q-Former's processor or a byte-pair vocabulary might spell them."""

    unk_token_id = 0

    def __init__(self, *words):
        self.words = words

    def encode(self, text, add_special_tokens):
        return [self.words.index(text)] if text in self.words else [0]

    def convert_tokens_to_ids(self, tokens):
        return [self.words.index(token) if token in self.words else None for token in tokens]


def test_spellings_that_only_the_vocabulary_knows():
    assert spellings(Words("?", "\u2581Yes", "\u0120yes"), "yes") == [1, 2]


def test_spellings_are_all_found_and_unknown_ones_are_not():
    assert spellings(Words("?", "Yes", " yes", "no"), "yes") == [1, 2]
    assert spellings(Words("?", "Yes", " yes", "no"), "no") == [3]


def test_yes_no_keeps_the_best_spelling_of_the_first_step_only():
    recorder = YesNo(Words("?", "Yes", " yes", "no"))
    ids = torch.zeros(2, 1, dtype=torch.long)
    scores = torch.tensor([[9.0, 1.0, 2.0, 3.0], [9.0, 5.0, 4.0, -1.0]])
    assert recorder(ids, scores) is scores
    recorder(ids, scores + 1)
    assert recorder.row(0) == (2.0, 3.0)
    assert recorder.row(1) == (5.0, -1.0)


def test_no_such_word():
    recorder = YesNo(Words("?", "Yes"))
    recorder(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 2))
    assert recorder.row(0) is None
