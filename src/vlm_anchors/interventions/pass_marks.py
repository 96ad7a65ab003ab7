"""What the rows of one forward pass are: visual tokens, tags around an image, padding."""

from typing import Any

import torch
from torch import Tensor

from ..models.decoder import AttentionTarget
from .call_context import CallContext
from .insertion.anchored import insertion_of
from .token_map import Marks, mark_found, mark_ids, mark_masked


def pass_marks(target: AttentionTarget, call_context: CallContext, kwargs: dict[str, Any], q: int) -> Marks:
    """Which tokens of this pass are visual, of which image, and which are tags around or inside one."""
    ids = call_context.input_ids
    if target.visual_features is not None:
        embeds = kwargs.get("inputs_embeds")
        like = kwargs["input_ids"] if embeds is None else embeds
        visual = torch.zeros(like.shape[:2], dtype=torch.bool, device=like.device)
        if embeds is not None and call_context.projected is not None:
            visual = features_among(embeds, call_context.projected)
        return mark_found(visual)
    if (inserted := insertion_of(call_context.mm_encoder_outputs)) is not None:
        return inserted.marks_of(*kwargs["inputs_embeds"].shape[:2])
    if ids is None or ids.shape[1] != q:
        ids = _ids_of_embeddings(target, call_context.inputs_embeds)
    if name := target.family.visual_mask:
        mask = kwargs.get(name)
        return mark_masked(
            target, ids, torch.zeros_like(ids, dtype=torch.bool) if mask is None else mask[:, -q:].bool()
        )
    return mark_ids(target, ids, call_context)


def _ids_of_embeddings(target: AttentionTarget, embeds: Tensor) -> Tensor:
    """Placeholders and tags found by their embedding, as transformers itself does when it is given no ids; -1 elsewhere."""
    table = target.stack.get_input_embeddings()
    ids = torch.full(embeds.shape[:2], -1, device=embeds.device)
    for one in target.known_ids:
        if one < table.num_embeddings:
            own = table(torch.tensor(one, device=embeds.device))
            ids = ids.masked_fill((embeds == own).all(-1), one)
    return ids


def real_rows(mask: Any, like: Tensor, past: int) -> Tensor:
    """Rows of this pass that are not padding, (b, q); from a 2-D mask, or from the diagonal of a prepared 4-D one."""
    if isinstance(mask, dict):
        mask = next(m for m in mask.values() if isinstance(m, Tensor) or m is None)
    if mask is None:
        return torch.ones_like(like)
    q = like.shape[1]
    if mask.dim() == 2:
        return mask[:, past : past + q].bool().expand_as(like)
    own = mask[:, 0].diagonal(offset=past, dim1=1, dim2=2)[:, :q]
    return (own if own.dtype == torch.bool else own >= 0).expand_as(like)


def features_among(embeds: Tensor, features: Tensor) -> Tensor:
    """Which rows of `embeds` (b, q, d) are image features (b', n, d) that were just projected; bool (b, q).

    The language model is given embeddings only, expanded to beams at times. Sixteen numbers of each vector tell it
    from a word embedding; comparing all of them would cost more than the method.
    """
    if len(embeds) % len(features):  # several frames a sample: a vector is one of all that were projected
        features = features.flatten(0, 1).expand(len(embeds), -1, -1)
    features = features.repeat_interleave(len(embeds) // len(features), dim=0)[..., :16]
    return (embeds[:, :, None, :16] == features[:, None].to(embeds.dtype)).all(-1).any(-1)
