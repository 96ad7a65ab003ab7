"""Runs a method on the text rows of one layer, from the queries of this step and the keys of the paged cache."""

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...interventions.attention_view import AttentionEdit, AttentionView, spread_bias
from .row_plan import RowGroup

LEAST = 0.05
"""Of a row's mass that must be left by a correction; below it, the row is computed anew, as differences would cancel."""


class PagedCache(Protocol):
    """Reads one layer's cache. g key heads, d head width, n blocks of s keys."""

    def keys(self, blocks: Int[Tensor, "b n"]) -> Float[Tensor, "b g k d"]: ...

    def values(self, blocks: Int[Tensor, "b n"]) -> Float[Tensor, "b g k d"]: ...

    def values_at(self, blocks: Int[Tensor, "b n"], keys: Int[Tensor, "b a"]) -> Float[Tensor, "b g a d"]: ...


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
    kernel = output[group.tokens].transpose(1, 2).float()
    new = _corrected(view, edit, group, cache, kernel) if edit.only_bias and edit.bias is not None else None
    if new is None:
        new = _edited(view, edit, group, cache)
    new = new.transpose(1, 2).to(output.dtype)
    if group.everywhere:
        output[group.tokens] = new
    else:
        output[group.tokens[group.valid]] = new[group.valid]


def _corrected(
    view: AttentionView, edit: AttentionEdit, group: RowGroup, cache: PagedCache, kernel: Float[Tensor, "b h r d"]
) -> Float[Tensor, "b h r d"] | None:
    """What a bias on few keys makes of the kernel's output; None where it is on many, or takes nearly all of a row.

    With weights p and factors f, which are 1 but at the anchors: (sum p f v) / (sum p f) is
    (output + sum over anchors of p (f - 1) v) / (1 + sum over anchors of p (f - 1)). Values are read at the anchors only.
    """
    anchors, factors = group.once(edit.bias, lambda: _anchors_of(edit, group))
    if anchors.shape[1] * 4 > group.visual.index.shape[1]:
        return None
    if not anchors.shape[1]:
        return kernel
    b, h, r, _ = kernel.shape
    weights = view.scores().softmax(-1)
    grown = weights.gather(-1, anchors[:, None, None].expand(b, h, r, -1)) * factors
    left = 1 + grown.sum(-1, keepdim=True)
    if bool((left < LEAST).any()):
        return None
    values = cache.values_at(group.blocks, anchors).float()
    added = (grown.reshape(b, values.shape[1], -1, grown.shape[-1]) @ values).reshape(kernel.shape)
    return (kernel + added) / left


def _anchors_of(edit: AttentionEdit, group: RowGroup) -> tuple[Int[Tensor, "b a"], Float[Tensor, "b _h _r a"]]:
    """Positions of the keys whose bias is not 0, and f - 1 there; shorter lists are filled with keys whose f is 1."""
    assert edit.bias is not None
    bias = edit.bias * group.visual.valid[:, None, None]
    marked = (bias != 0).any(1).any(1)
    places = marked.logical_not().argsort(dim=1, stable=True)[:, : int(marked.sum(1).max())]
    one, two = bias.shape[1:3]
    factors = bias.gather(-1, places[:, None, None].expand(-1, one, two, -1)).expm1()
    return group.visual.index.gather(1, places), factors


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
