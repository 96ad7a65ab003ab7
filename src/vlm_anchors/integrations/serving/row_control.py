"""What differs between the rows of one batch: how tokens are drawn, where each row ends, and who hears of its tokens.

`generate` runs as greedy search for the whole batch. A sampled row gets Gumbel noise keyed by (seed, choice, step), of which
the largest entry is exactly a draw (generation/sampling.py), so that each row's tokens do not depend on its batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase, StoppingCriteria

from ...generation.sampling import gumbel, nucleus
from .chat_request import ChatRequest


@dataclass(eq=False)
class ChoiceRow:
    """One choice of one request while it is answered.

    Args:
        request: What was asked for.
        index: Which choice this is, from 0.
        on_text: Called with new text as it becomes final, from the generating thread; None: nobody listens.
        is_cancelled: Whether the client has gone.
        limit: Most new tokens.
    """

    request: ChatRequest
    index: int
    on_text: Callable[[str], None] | None = None
    is_cancelled: Callable[[], bool] = lambda: False
    limit: int = 1
    tokens: list[int] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    text: str = ""
    sent: int = 0
    finish: str | None = None
    effects: dict[str, Any] = field(default_factory=dict)

    def take(self, token: int, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> None:
        """Add a token; decide whether the row ends here; pass on the text that cannot change any more."""
        if self.is_cancelled():
            self.finish = "cancelled"
            return
        self.tokens.append(token)
        if token in ends:
            self.finish = "stop"
        self.text = tokenizer.decode(self.tokens, skip_special_tokens=True)
        cut = min((at for at in map(self.text.find, self.request.stop) if at >= 0), default=-1)
        if cut >= 0:
            self.text, self.finish = self.text[:cut], "stop"
        elif self.finish is None and len(self.tokens) >= self.limit:
            self.finish = "length"
        self._pass_on()

    def _pass_on(self) -> None:
        """Half a character, or what may be the beginning of a stop text, is held back until the row ends."""
        if self.on_text is None:
            return
        ready = len(self.text)
        if self.finish is None:
            if self.text.endswith("\ufffd"):
                ready = len(self.text.rstrip("\ufffd"))
            for stop in self.request.stop:
                begun = next((n for n in range(len(stop) - 1, 0, -1) if self.text[:ready].endswith(stop[:n])), 0)
                ready = min(ready, len(self.text[:ready]) - begun)
        if ready > self.sent:
            self.on_text(self.text[self.sent : ready])
            self.sent = ready


class RowSampling(LogitsProcessor):
    """Draws the next token of rows with a temperature, and notes log-probabilities for rows that want them."""

    def __init__(self, rows: Sequence[ChoiceRow]):
        self.rows, self.step = tuple(rows), 0

    def __call__(self, input_ids: Int[Tensor, "b q"], scores: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        scores = scores.float().clone()
        for number, row in enumerate(self.rows):
            request = row.request
            if row.finish is not None:
                continue
            logp = scores[number].log_softmax(-1) if request.top_logprobs is not None else None
            if request.temperature > 0:
                kept = nucleus(scores[number : number + 1], request.top_p, request.temperature)[0]
                noise = gumbel(request.seed, f"choice-{row.index}", self.step, scores.shape[-1])
                scores[number] = kept + noise.to(kept.device)
            if logp is not None:
                self._note(row, logp, int(scores[number].argmax()))
        self.step += 1
        return scores

    @staticmethod
    def _note(row: ChoiceRow, logp: Float[Tensor, " n"], token: int) -> None:
        best = logp.topk(row.request.top_logprobs or 0)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        row.logprobs.append({"token": token, "logprob": float(logp[token]), "top": list(pairs)})


class RowEnds(StoppingCriteria):
    """Ends each row by its own rule, and hands it its tokens as they come."""

    def __init__(self, rows: Sequence[ChoiceRow], tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]):
        self.rows, self.tokenizer, self.ends = tuple(rows), tokenizer, ends

    def __call__(self, input_ids: Int[Tensor, "b q"], scores: Any, **kwargs: Any) -> Bool[Tensor, " b"]:
        for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            if row.finish is None:
                row.take(token, self.tokenizer, self.ends)
        return torch.tensor([row.finish is not None for row in self.rows], device=input_ids.device)
