"""Runs a method on the text rows of one layer, from the queries of this step and the keys of the paged cache."""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ...interventions.attention_view import AttentionEdit, AttentionView, spread_bias, take_rows
from .row_plan import PagedRows, RowGroup


class PagedCache(Protocol):
    """Reads one layer's cache through the blocks of some requests. g key heads, d head width, k keys."""

    def keys(self, paged: PagedRows) -> Float[Tensor, "b g k d"]:
        """A copy of the keys, in the order of the request."""

    def scores(self, query: Float[Tensor, "b h r d"], paged: PagedRows, scale: float) -> Float[Tensor, "b h r k"]:
        """Products of rows and keys times `scale`, in the query's dtype; finite where a request has no key."""

    def weighted(self, weights: Float[Tensor, "b h r k"], paged: PagedRows) -> Float[Tensor, "b h r d"]:
        """The values summed by these weights; float32."""


class PagedView(AttentionView):
    """A layer whose keys and values stay in the paged cache: they are copied only where a method asks for them."""

    def __init__(
        self,
        group: RowGroup,
        layer: int,
        query: Float[Tensor, "t h d"],
        cache: PagedCache,
        scale: float,
        softcap: float | None,
    ):
        """The text rows `group` of one layer.

        Args:
            group: The text rows.
            layer: The layer, from 1.
            query: The step's queries, positions rotated in.
            cache: The layer's keys and values, those of this step included.
            scale: Factor on the scores.
            softcap: Bound of the scores, or None.
        """
        self._cache, self._paged = cache, group.paged
        self._copied: Tensor | None = None
        self._found: Tensor | None = None
        rows = query[group.tokens].transpose(1, 2)
        columns = (group.visual.index, group.visual.valid)
        super().__init__(layer, group.forward, group.rows, rows, None, group.row_mask, columns, scale, softcap)

    @property
    def _key(self) -> Float[Tensor, "b g k d"]:
        if self._copied is None:
            self._copied = self._cache.keys(self._paged)
        return self._copied

    @property
    def key_count(self) -> int:
        return self._paged.keys

    def _own_scores(self, query: Float[Tensor, "b h r d"]) -> Float[Tensor, "b h r k"]:
        return self._capped(self._cache.scores(query, self._paged, self._scale))

    def scores(self) -> Float[Tensor, "b h r k"]:
        """As ever; kept, for the output is made of them too."""
        if self._found is None:
            self._found = super().scores()
        return self._found

    def unmasked_scores(self) -> Float[Tensor, "b h r k"]:
        """Scores of the text rows before the softmax, no mask added, float32; the caller's own."""
        return self._own_scores(take_rows(self._query, self.rows.index).float())

    def weighted(self, weights: Float[Tensor, "b h r k"]) -> Float[Tensor, "b h r d"]:
        """The layer's values, summed by these weights; float32."""
        return self._cache.weighted(weights, self._paged)


def write_rows(view: PagedView, edit: AttentionEdit | None, group: RowGroup, output: Float[Tensor, "t h d"]) -> None:
    """Write the attention of text rows, softmax(scores + edit) values, into `output`; no other row is touched."""
    new = _edited(view, edit, group).transpose(1, 2).to(output.dtype)
    if group.everywhere:
        output[group.tokens] = new
    else:
        output[group.tokens[group.valid]] = new[group.valid]


def _edited(view: PagedView, edit: AttentionEdit | None, group: RowGroup) -> Float[Tensor, "b h r d"]:
    if edit is None:
        return view.weighted(view.scores().softmax(-1))
    if edit.output is not None:
        return edit.output
    if edit.bias is not None and edit.only_bias:
        # Layers share a bias, so it and the mask are spread over the keys once.
        bias = edit.bias
        wide = group.once(bias, lambda: _with_mask(view, bias))
        return view.weighted(view.unmasked_scores().add_(wide).softmax(-1))
    scores = view.scores() if edit.key is None else view.scores_of(edit.key)
    if edit.shift is not None:
        scores = scores + edit.shift.float()
    if edit.bias is not None:
        scores = scores + spread_bias(edit.bias, view.columns, scores.shape[-1], torch.float32)
    weights = scores.softmax(-1)
    if edit.value is None:
        return view.weighted(weights)
    b, h, r, k = weights.shape
    values = edit.value.float()
    return (weights.reshape(b, values.shape[1], -1, k) @ values).reshape(b, h, r, -1)


def _with_mask(view: PagedView, bias: Float[Tensor, "b _h _r v"]) -> Float[Tensor, "b _h _r k"]:
    wide, mask = spread_bias(bias, view.columns, view.key_count, torch.float32), view.row_mask
    return wide if mask is None else wide + mask
