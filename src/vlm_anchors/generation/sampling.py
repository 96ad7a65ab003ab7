"""What happens to next-token logits here: nucleus sampling with keyed noise, and the yes/no logits kept for later.

Adding Gumbel noise to log-probabilities and taking the largest is exactly a draw from them. The noise is a function of
(seed, sample id, step) alone, so generation stays a plain arg-max and a sample's answer does not depend on its batch.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from .decodings import Nucleus


def gumbel(seed: int, sample: str, step: int, size: int) -> Float[Tensor, " n"]:
    """Standard Gumbel noise in float32 on the CPU: the same three keys give the same numbers on every machine."""
    key = hashlib.blake2b(f"{seed}/{sample}/{step}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
    uniform = torch.rand(size, generator=generator, dtype=torch.float64).clamp_(1e-300, 1 - 1e-16)
    return (-(-uniform.log()).log()).float()


def nucleus(logits: Float[Tensor, "b n"], top_p: float, temperature: float, top_k: int = 0) -> Float[Tensor, "b n"]:
    """Log-probabilities at `temperature` of the smallest set of tokens that reaches `top_p`; -inf elsewhere.

    With `top_k` the set is one of the k most likely tokens, whose probabilities are taken to sum to 1.
    """
    logits = logits.float() / temperature
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    logp = logits.log_softmax(-1)
    ordered, order = logp.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    outside = (before >= top_p).scatter(-1, order, before >= top_p)
    outside.scatter_(-1, order[:, :1], False)
    return logp.masked_fill(outside, -torch.inf)


class KeyedNoise(LogitsProcessor):
    """Turns greedy search into nucleus sampling. One object a generation; `samples` are the ids of its rows."""

    def __init__(self, decoding: Nucleus, samples: Sequence[str]):
        self.decoding = decoding
        self.samples = tuple(samples)
        self.step = 0

    def __call__(self, input_ids: Int[Tensor, "b q"], scores: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        kept = nucleus(scores, self.decoding.top_p, self.decoding.temperature, self.decoding.top_k)
        size = scores.shape[-1]
        noise = torch.stack([gumbel(self.decoding.seed, sample, self.step, size) for sample in self.samples])
        self.step += 1
        return kept + noise.to(kept.device)


class YesNo(LogitsProcessor):
    """Keeps, at the first step only, the best logit among the spellings of "yes" and of "no", a row each.

    Under beam search transformers hands over log-probabilities instead of logits; their difference is the same.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.yes = spellings(tokenizer, "yes")
        self.no = spellings(tokenizer, "no")
        self.rows: list[tuple[float, float]] | None = None
        self.steps = 0
        """Tokens chosen so far, a row; the batch's longest row sets it."""

    def __call__(self, input_ids: Int[Tensor, "b q"], scores: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        self.steps += 1
        if self.rows is None and self.yes and self.no:
            best = torch.stack([scores[:, self.yes].amax(-1), scores[:, self.no].amax(-1)], dim=-1)
            self.rows = [(float(yes), float(no)) for yes, no in best.float().tolist()]
        return scores

    def row(self, index: int) -> tuple[float, float] | None:
        """(yes, no) of a row; None where the tokenizer has no single token for one of them."""
        return None if self.rows is None else self.rows[index]


class Broken:
    """A logits processor that notes logits which are no numbers. It reads its note when asked: no step waits for it."""

    def __init__(self) -> None:
        self._seen: Any = False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._seen = scores.isnan().any() | self._seen
        return scores

    @property
    def seen(self) -> bool:
        return bool(self._seen)


def spellings(tokenizer: PreTrainedTokenizerBase, word: str) -> list[int]:
    """Ids of the single tokens that spell the word: in three cases, with and without a space before.

    Both ways to find them are needed: a tokenizer may change what it reads (so a vocabulary entry is never reached by
    encoding), and may write a space in its own way (so an entry is only reached by encoding).
    """
    found: set[int | None] = set()
    for cased in (word, word.capitalize(), word.upper()):
        for text in (cased, f" {cased}"):
            ids = tokenizer.encode(text, add_special_tokens=False)
            found.add(ids[0] if len(ids) == 1 else None)
        found.update(tokenizer.convert_tokens_to_ids([cased, f"\u2581{cased}", f"\u0120{cased}"]))
    return sorted(each for each in found - {None, tokenizer.unk_token_id} if each is not None)
