"""Several next tokens of each beam in one forward pass, as siblings: each sees what was said before and itself.

A 4-D mask hides siblings from each other and all of them stand at the same position, so the pass equals one pass a token.
Of each beam that goes on, the cache keeps the entry of the sibling it chose.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from ..errors import CannotAct
from ..interventions.recorders import LastLayerAttention

ROWS = ("position_ids", "token_type_ids", "mm_token_type_ids")
"""Arguments of a forward pass that have one entry a token."""


@dataclass(frozen=True, eq=False)
class SiblingPass:
    """What a pass over siblings showed."""

    logits: Float[Tensor, "b n v"]
    said: Float[Tensor, "b n t"]
    """Last-layer attention of each sibling to the answer's tokens so far, largest over heads, its row summing to 1."""
    own: Float[Tensor, "b n"]
    """The same to itself."""
    image: Float[Tensor, "b n"]
    """The same to the visual tokens, summed."""


class BeamReader:
    """The forward passes of one beam search: the prompt, siblings, and an answer's beginning once more.

    Args:
        model: as transformers hands it to `generate(custom_generate=...)`, with its `kwargs`.
        ids: the prompt, one row a beam, (b, q).
        attention: the recorder that is attached to the model.
    """

    def __init__(
        self, model: Any, ids: Int[Tensor, "b q"], config: Any, kwargs: dict[str, Any], attention: LastLayerAttention
    ):
        self.model, self.ids, self.config, self.kwargs, self.attention = model, ids, config, kwargs, attention
        self.passes = 0
        self.seen = True
        """Whether attention to the image was there to be read."""

    def prompt(self) -> Float[Tensor, "b v"]:
        """Logits of the first token."""
        out = self.model._prefill(self.ids, self.config, self.kwargs)
        self.cache = out.past_key_values
        if not all(type(layer) is DynamicLayer for layer in self.cache.layers):
            kinds = sorted({type(layer).__name__ for layer in self.cache.layers} - {"DynamicLayer"})
            raise CannotAct(
                f"opera keeps and drops single entries of the cache, which this model's ({', '.join(kinds)}) does not allow. "
                "Use beam, or a model whose layers all see the whole prompt."
            )
        self.kwargs["past_key_values"] = self.cache
        self.kwargs.pop("inputs_embeds", None)
        self.end = self.cache.get_seq_length()
        return out.logits[:, -1].float()

    def siblings(self, said: Int[Tensor, "b t"], tokens: Int[Tensor, "b n"]) -> SiblingPass:
        """One pass over n next tokens of each beam; their entries stand at the end of the cache until `keep`."""
        t, n = said.shape[1], tokens.shape[1]
        kwargs = self._after(t + 1)
        for name in ROWS:
            if kwargs.get(name) is not None:
                last = kwargs[name][..., -1:]
                kwargs[name] = torch.cat([kwargs[name][..., :-1], last.expand(*last.shape[:-1], n)], -1)
        mask, real = self._mask(t, n), kwargs.pop("attention_mask", None)
        if real is not None:
            mask[..., : self.end].masked_fill_(~real[:, None, None, : self.end].bool(), torch.finfo(mask.dtype).min)
        inputs = self._inputs(torch.cat([said, tokens], 1), n, kwargs)
        out, rows, visual = self._recorded({**inputs, "attention_mask": mask})
        if rows is None or visual is None:
            self.seen = False
            nothing = torch.zeros(len(said), n, dtype=torch.float64, device=said.device)
            return SiblingPass(out.logits.float(), nothing[..., None].expand(-1, -1, t), nothing, nothing)
        rows = rows.double() / rows.double().sum(-1, keepdim=True)
        own = rows[..., self.end + t :].diagonal(dim1=1, dim2=2)
        image = (rows * visual[:, None]).sum(-1)
        return SiblingPass(out.logits.float(), rows[..., self.end : self.end + t], own, image)

    def keep(self, parents: Int[Tensor, " b"], slots: Int[Tensor, " b"], siblings: int) -> None:
        """Beam i goes on from beam `parents[i]` with its sibling `slots[i]`; all other siblings are forgotten."""
        at = self.cache.get_seq_length() - siblings + slots
        won = [(layer.keys[parents, :, at], layer.values[parents, :, at]) for layer in self.cache.layers]
        self.cache.crop(-siblings)
        self.cache.reorder_cache(parents)
        for number, (key, value) in enumerate(won):
            self.cache.update(key[:, :, None], value[:, :, None], number)

    def move(self, parents: Int[Tensor, " b"]) -> None:
        """Beam i goes on from beam `parents[i]`, no token chosen yet."""
        self.cache.reorder_cache(parents)

    def reread(self, said: Int[Tensor, "b t"]) -> Float[Tensor, "b v"]:
        """Go back to answers that began like this, in one pass: rows of the prompt's cache are alike, whatever moved since."""
        self.cache.crop(self.end - self.cache.get_seq_length())
        inputs = self._inputs(said, said.shape[1], self._after(said.shape[1]))
        self.passes += 1
        return self.model(**inputs, return_dict=True).logits[:, -1].float()

    def _after(self, tokens: int) -> dict[str, Any]:
        """The keywords of `generate` once so many tokens were said."""
        return self.model._update_model_kwargs_for_generation({}, dict(self.kwargs), num_new_tokens=tokens)

    def _inputs(self, said: Int[Tensor, "b t"], newest: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        ids = torch.cat([self.ids, said], 1)
        inputs = self.model.prepare_inputs_for_generation(ids, next_sequence_length=newest, **kwargs)
        return {**inputs, "logits_to_keep": newest} if "logits_to_keep" in inputs else inputs

    def _mask(self, t: int, n: int) -> Float[Tensor, "b 1 n k"]:
        """What is added to the scores of siblings: each sees the prompt, what was said, and itself."""
        dtype, device = self.model.dtype, self.ids.device
        hidden = torch.full((n, n), torch.finfo(dtype).min, dtype=dtype, device=device).fill_diagonal_(0)
        mask = torch.cat([torch.zeros(n, self.end + t, dtype=dtype, device=device), hidden], 1)
        return mask.expand(len(self.ids), 1, -1, -1).clone()

    def _recorded(self, inputs: dict[str, Any]) -> tuple[Any, Tensor | None, Bool[Tensor, "b k"] | None]:
        self.passes += 1
        self.attention.rows, self.attention.on = None, True
        try:
            out = self.model(**inputs, return_dict=True)
        finally:
            self.attention.on = False
        return out, self.attention.rows, self.attention.visual
