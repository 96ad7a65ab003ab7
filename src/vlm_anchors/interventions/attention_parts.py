"""What each text row's attention is made of: the image, the system's words before it, the first token, all other words.

Shapes as in attention_view.py; b samples, h query heads, r text rows, v visual keys, k keys.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .attention_view import AttentionEdit, AttentionView, spread_bias


@dataclass(frozen=True)
class Parts:
    """Attention of one layer's text rows. Masses are in [0, 1]; a row's words are 1 - visual - system."""

    weights: Float[Tensor, "b _h _m v"]
    """To each visual key; 0 where a key is filling. A capture may keep fewer rows of it, or the mean over the heads."""
    visual: Float[Tensor, "b h r"]
    """Mass on all visual keys."""
    system: Float[Tensor, "b h r"]
    """Mass on the keys before the first visual token."""
    first: Float[Tensor, "b h r"]
    """Mass on the first key there is (the `<s>` sink); a part of `system` where the image is not first."""
    norms: Float[Tensor, "2 b h r"] | None
    """|O_P| and |O_V| of Eq. 12: lengths of the linguistic and the visual part of a head's output."""


def parts_of(view: AttentionView, edit: AttentionEdit | None, norms: bool = False) -> tuple[Parts, Parts | None]:
    """The parts as the model has them in this layer, and after the method's edit (None where it edits no weights).

    The scores are computed once; nothing of the size queries x keys is made, only text rows x keys.
    """
    scores = view.scores()
    value = view.value if norms else None
    before = _parts(view, scores, value)
    if edit is None or (edit.bias is None and edit.shift is None and edit.key is None):
        return before, None
    if edit.key is not None:
        scores = view.scores_of(edit.key)
    if edit.shift is not None:
        scores = scores + edit.shift.float()
    if edit.bias is not None:
        scores = scores + spread_bias(edit.bias, view.columns, scores.shape[-1], torch.float32)
    return before, _parts(view, scores, edit.value if norms and edit.value is not None else value)


def keys_seen(view: AttentionView) -> Int[Tensor, "b r"]:
    """How many keys each text row may attend to: what a row's attention would be shared among if it had no taste."""
    mask, (index, _) = view.row_mask, view.columns
    if mask is None:
        return index.new_full((len(index), view.rows_in(view._query.shape[2])), view.key.shape[2])
    return (mask[:, 0] > _FLOOR).sum(-1).expand(len(index), -1)


_FLOOR = torch.finfo(torch.float32).min / 2
"""Masked scores lie below it; -inf as well."""


def _parts(view: AttentionView, scores: Float[Tensor, "b h r k"], value: Float[Tensor, "b g k d"] | None) -> Parts:
    weights = scores.softmax(-1)
    index, valid = view.columns
    b, h, r, _ = weights.shape
    taken = weights.gather(-1, index[:, None, None].expand(b, h, r, -1)) * valid[:, None, None]
    return Parts(
        weights=taken,
        visual=taken.sum(-1),
        system=_mass(weights, view.keys_before()),
        first=weights.gather(-1, _first_key(view)[:, None, None, None].expand(b, h, r, 1))[..., 0],
        norms=None if value is None else _norms(weights, value.float(), view.visual_keys()),
    )


def _mass(weights: Float[Tensor, "b h r k"], keys: Bool[Tensor, "b k"]) -> Float[Tensor, "b h r"]:
    return torch.einsum("bhrk,bk->bhr", weights, keys.to(weights.dtype))


def _first_key(view: AttentionView) -> Int[Tensor, " b"]:
    """The first key that is not padding, as the first text row sees it."""
    mask, (index, _) = view.row_mask, view.columns
    if mask is None:
        return index.new_zeros(len(index))
    return (mask[:, 0, 0] > _FLOOR).int().argmax(-1).expand(len(index))


def _norms(
    weights: Float[Tensor, "b h r k"], value: Float[Tensor, "b g k d"], visual: Bool[Tensor, "b k"]
) -> Float[Tensor, "2 b h r"]:
    b, h, r, k = weights.shape
    groups = weights.reshape(b, value.shape[1], -1, k)
    seen = groups * visual[:, None, None]
    both = ((groups - seen) @ value).norm(dim=-1), (seen @ value).norm(dim=-1)
    return torch.stack([norm.reshape(b, h, r) for norm in both])
