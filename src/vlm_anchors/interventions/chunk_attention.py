"""Edits of keys, values, single scores and outputs of text rows: the parts of an `AttentionEdit` beyond its bias.

As with a bias, a prompt runs the base kernel untouched and then once more for the text rows alone; a decoding step is
one call. The cache is never written to: replaced keys and values live as long as the layer's forward.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CannotAct
from .attention_view import AttentionEdit, AttentionView, spread_bias, take_rows
from .forward_pass import ForwardState

Kernel = Callable[..., tuple[Tensor, Tensor | None]]


def edited_rows(
    kernel: Kernel,
    forward_state: ForwardState,
    edit: AttentionEdit,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    view: AttentionView,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """The attention function's result, (b, q, h, d) and weights where the kernel gives them."""
    if forward_state.generation.setup.literal:
        raise CannotAct(
            "literal=True is the literal form of a bias (CLVA); this method's own tests hold its literal form."
        )
    index = forward_state.rows.index
    own = None if edit.output is None else edit.output.transpose(1, 2).to(query.dtype)
    if index is None and own is not None:
        return own, None
    keys = key if edit.key is None else edit.key
    values = value if edit.value is None else edit.value
    if index is None:
        mask = _row_mask(forward_state, edit, view, attention_mask, query)
        return kernel(module, query, keys, values, mask, *args, **kwargs)
    out, weights = kernel(module, query, key, value, attention_mask, *args, **kwargs)
    if own is not None:
        return put_rows(out, own, forward_state, dim=1), weights
    rows, mask = take_rows(query, index), _row_mask(forward_state, edit, view, attention_mask, query)
    row_out, row_weights = kernel(module, rows, keys, values, mask, *args, **{**kwargs, "is_causal": False})
    out = put_rows(out, row_out, forward_state, dim=1)
    return out, weights if weights is None or row_weights is None else put_rows(
        weights, row_weights, forward_state, dim=2
    )


def _row_mask(
    forward_state: ForwardState, edit: AttentionEdit, view: AttentionView, attention_mask: Tensor | None, query: Tensor
) -> Tensor | None:
    """What is added to the scores of the text rows, in the query's dtype; None where that is nothing."""
    plain = view.row_mask
    if edit.shift is None and edit.bias is None:
        if forward_state.rows.index is None or plain is None:
            return attention_mask if forward_state.rows.index is None else None
        return forward_state.once(
            lambda: plain.to(query.dtype).clamp(min=torch.finfo(query.dtype).min), "text rows", plain
        )
    shift = edit.shift
    if edit.bias is not None:
        wide = spread_bias(edit.bias, view.columns, view.key.shape[2], query.dtype)
        shift = wide if shift is None else shift + wide
    assert shift is not None
    if plain is None:
        rows = view.rows_in(query.shape[2])
        return shift if shift.shape[2] == rows else shift.expand(-1, -1, rows, -1)
    own = forward_state.once(lambda: plain.to(query.dtype), "own dtype", plain)
    return (shift + own).clamp_(min=torch.finfo(query.dtype).min)


def put_rows(whole: Tensor, rows: Tensor, forward_state: ForwardState, dim: int) -> Tensor:
    """`whole` with the text rows replaced (rows that are only filling keep what they had)."""
    index, valid = forward_state.rows.index, forward_state.rows.valid
    if index is None or valid is None:
        return rows
    shape = [1] * whole.dim()
    shape[0], shape[dim] = index.shape
    target = index.view(shape).expand_as(rows)
    return whole.scatter(dim, target, torch.where(valid.view(shape), rows.to(whole.dtype), whole.gather(dim, target)))
