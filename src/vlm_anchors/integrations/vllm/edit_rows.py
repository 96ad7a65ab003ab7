"""Runs a method on the text rows of one layer, from the queries of this step and the keys of the paged cache."""

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...interventions.attention_view import AttentionEdit, AttentionView, spread_bias
from .row_plan import RowGroup


class PagedCache(Protocol):
    """Reads one layer's cache. g key heads, d head width, n blocks of s keys."""

    def keys(self, blocks: Int[Tensor, "b n"]) -> Float[Tensor, "b g k d"]: ...

    def values(self, blocks: Int[Tensor, "b n"]) -> Float[Tensor, "b g k d"]: ...


def edit_rows(
    group: RowGroup,
    layer: int,
    query: Float[Tensor, "t h d"],
    output: Float[Tensor, "t h d"],
    cache: PagedCache,
    scale: float,
    softcap: float | None,
) -> None:
    """Show one layer to the group's method, and write what its edit makes of the text rows into `output`.

    Args:
        group: The text rows.
        layer: The layer, from 1.
        query: The step's queries, positions rotated in.
        output: What the engine's own kernel put out for every row; text rows of an edited layer are replaced.
        cache: The layer's keys and values, those of this step included.
        scale: Factor on the scores.
        softcap: Bound of the scores, or None.
    """
    rows = query[group.tokens].transpose(1, 2)
    view = AttentionView(
        layer, group.forward, group.rows, rows, cache.keys(group.blocks), group.row_mask,
        (group.visual.index, group.visual.valid), scale, softcap,
    )  # fmt: skip
    edit = group.forward.see(view)
    if edit is None:
        return
    new = (_edited(view, edit, group, cache)).transpose(1, 2).to(output.dtype)
    if group.everywhere:
        output[group.tokens] = new
    else:
        output[group.tokens[group.valid]] = new[group.valid]


def _edited(view: AttentionView, edit: AttentionEdit, group: RowGroup, cache: PagedCache) -> Float[Tensor, "b h r d"]:
    """softmax(scores + edit) values, for the text rows alone."""
    if edit.output is not None:
        return edit.output
    scores = view.scores() if edit.key is None else view.scores_of(edit.key)
    if edit.shift is not None:
        scores = scores + edit.shift.float()
    if edit.bias is not None:
        scores = scores + spread_bias(edit.bias, view.columns, scores.shape[-1], torch.float32)
    weights = scores.softmax(-1)
    values = (cache.values(group.blocks) if edit.value is None else edit.value).float()
    b, h, r, k = weights.shape
    return (weights.reshape(b, values.shape[1], -1, k) @ values).reshape(b, h, r, -1)
