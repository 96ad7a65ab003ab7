"""A contrastive branch read by the whole model, not by its decoder alone.

Some classes hand their decoder more than embeddings (features for deeper layers, masks of image blocks, embeddings per
layer), or change logits after the output embedding. There, the branch calls the model as `generate` did, with other pixels
or other words, and a cache of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .contrastive import ContrastiveBranch

OWN = ("past_key_values", "attention_mask", "use_cache", "labels", "logits_to_keep", "return_dict", "cache_position",
       "output_attentions", "output_hidden_states", "mm_encoder_outputs")  # fmt: skip
"""Arguments that a branch does not share with the first one."""


@dataclass(eq=False)
class ModelInputs:
    """What the whole model reads in a branch.

    Args:
        arguments: Of the model's call.
        real: Which of the branch's tokens are not padding.
        positions: Of the branch's tokens; None where they are those of the first branch.
    """

    arguments: Mapping[str, Any] = field(repr=False)
    real: Bool[Tensor, "b q"]
    positions: Int[Tensor, "*n q"] | None = None
    forward_state: None = None

    def begin(self, config: Any) -> "ModelBranch":
        return ModelBranch(config, self)


def shared(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the first branch's call that hold for another reading of the same tokens."""
    return {name: value for name, value in arguments.items() if name not in OWN}


class ModelBranch(ContrastiveBranch):
    """A branch under way whose steps are calls of the whole model."""

    def first_logits(self, head: Any, stack: nn.Module, inputs: Any, first: Any) -> Float[Tensor, "b n"]:
        own = {} if inputs.positions is None else {"position_ids": inputs.positions}
        return self._call(head.model, {**inputs.arguments, **own})

    def next_logits(self, head: Any, stack: nn.Module, embeds: Tensor, arguments: Any) -> Float[Tensor, "b n"]:
        if self.mask is not None:
            self.mask = nn.functional.pad(self.mask, (0, 1), value=1)
        if self.next is None:
            return self._call(head.model, shared(arguments))
        positions, self.next = self.next, self.next + 1
        return self._call(head.model, {"input_ids": arguments["input_ids"], "position_ids": positions})

    def _call(self, model: nn.Module, arguments: Mapping[str, Any]) -> Float[Tensor, "b n"]:
        out = model(**arguments, attention_mask=self.mask, past_key_values=self.cache, use_cache=True, return_dict=True)
        return out.logits[:, -1].float()


def first_position(stack: nn.Module) -> int:
    """Position of a text's first token: decoders after fairseq's count from behind the padding's id, others from 0."""
    table: Any = getattr(stack, "embed_positions", None)
    return table.padding_idx + 1 if hasattr(table, "create_position_ids_from_input_ids") else 0


def text_positions(real: Bool[Tensor, "b q"], mrope: bool) -> Int[Tensor, "*n q"]:
    """Positions of a text padded on the left, counted from 0."""
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    return positions.expand(3, -1, -1) if mrope else positions


KINDS = ("token_type_ids", "mm_token_type_ids")
"""Arguments that say of each token what it is, and so where a prefix without causal order ends."""


def kept_tokens(
    call: Mapping[str, Any], keep: Bool[Tensor, "b q"], known: tuple[int, ...]
) -> tuple[dict[str, Tensor], Bool[Tensor, "b k"]]:
    """A call's kept tokens, padded on the left with an id that is none of the known ones, and which of them are real."""
    filler = next(one for one in range(len(known) + 1) if one not in known)
    count = max(int(keep.sum(1).max()), 1)
    order = keep.to(torch.int8).argsort(dim=1, stable=True)[:, -count:]
    real = keep.gather(1, order)
    tokens = {"input_ids": call["input_ids"].gather(1, order).masked_fill(~real, filler)}
    return tokens | {name: call[name].gather(1, order) for name in KINDS if call.get(name) is not None}, real
