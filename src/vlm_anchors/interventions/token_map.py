"""Where the images of a prompt stand: its visual tokens, which image each belongs to, and the images' frames.

An image (or video) is all its tiles (or frames). Tags around it and separators inside it are its frame: neither visual
tokens nor text. What stands between two visual tokens of one image is always part of its frame (row newlines, names of
tiles, timestamps between video frames), whether the tokenizer names its tags or not.

Shapes: b samples, q tokens of this pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import CannotAct
from ..models.decoder import AttentionTarget
from ..models.vision import PIXELS, pixel_values
from ..models.vision_features import projected
from .call_context import CallContext


@dataclass
class Marks:
    """What each token of a pass is."""

    visual: Bool[Tensor, "b q"]
    image: Int[Tensor, "b q"]
    """Number of the image a visual token belongs to, counted from 0 in its sample; 0 elsewhere."""
    delimiters: Bool[Tensor, "b q"]
    guessed: bool = False
    """Whether the encoder should have separated the images, but its output was cut for a piece of the prompt."""


def mark_ids(target: AttentionTarget, ids: Int[Tensor, "b q"], call_context: CallContext) -> Marks:
    """Marks of a pass whose token ids are known."""
    visual = is_one_of(ids, target.visual_ids)
    delimiters = is_one_of(ids, target.delimiter_ids)
    if target.enclosing:
        number, inside = _by_enclosing_tags(ids, visual, target.enclosing)
        delimiters = delimiters | (inside & ~visual)
    elif target.first_id is not None:
        number = (ids == target.first_id).cumsum(1) - 1
    elif target.closing_id is not None:
        number = _by_closing_tile(ids, visual, target.closing_id)
    else:
        number = _count(_starts(ids, visual, _encoded_lengths(target, call_context)))
    if target.end_follows:
        delimiters = delimiters | _behind_rows(visual, number)
    return Marks(visual, number.where(visual, 0), delimiters | _between(visual, number), _is_cut(target, call_context))


def mark_masked(target: AttentionTarget, ids: Int[Tensor, "b q"], visual: Bool[Tensor, "b q"]) -> Marks:
    """Marks of a pass whose visual tokens a mask beside the prompt shows: an image is an unbroken run."""
    marks = mark_found(visual)
    return replace(marks, delimiters=is_one_of(ids, target.delimiter_ids) & ~visual)


def mark_found(visual: Bool[Tensor, "b q"]) -> Marks:
    """Marks of a pass of which only the visual tokens are known: an image is an unbroken run."""
    number = _count(visual & ~_before(visual, False))
    return Marks(visual, number.where(visual, 0), torch.zeros_like(visual))


def must_encode(target: AttentionTarget, ids: Int[Tensor, "b q"] | None, kwargs: Mapping[str, Any]) -> bool:
    """Whether the vision tower must run first: the runs of placeholders are not as many as the images given."""
    if target.family.images != "encoder" or ids is None:
        return target.family.images == "encoder"
    grids = [kwargs.get(f"{one}_grid_thw", pixel_values(kwargs, one)) for one in PIXELS]
    visual = is_one_of(ids, target.visual_ids)
    return int((visual & (ids != _before(ids, -1))).sum()) != sum(len(one) for one in grids if one is not None)


def is_one_of(ids: Int[Tensor, "b q"], chosen: tuple[int, ...]) -> Bool[Tensor, "b q"]:
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for one in chosen:
        mask |= ids == one
    return mask


def _is_cut(target: AttentionTarget, call_context: CallContext) -> bool:
    """Chunked prefill joins all images of a piece into one entry, and drops what the tower itself returned."""
    encoded = (call_context.mm_encoder_outputs or {}).values()
    return target.family.images == "encoder" and any(map(_is_piece, encoded))


def _is_piece(encoded: Any) -> bool:
    return getattr(encoded, "last_hidden_state", 0) is None and getattr(encoded, "pooler_output", None) is not None


def _encoded_lengths(target: AttentionTarget, call_context: CallContext) -> dict[int, list[int]]:
    """Placeholder id -> visual tokens of each image in reading order, as the vision tower returned them."""
    encoded = call_context.mm_encoder_outputs or {}
    if target.family.images != "encoder" or _is_cut(target, call_context):
        return {}
    return {
        one: [len(features) for features in projected(encoded[modality])]
        for one, modality in zip(target.visual_ids, target.modalities, strict=True)
        if encoded.get(modality) is not None
    }


def _starts(ids: Int[Tensor, "b q"], visual: Bool[Tensor, "b q"], lengths: dict[int, list[int]]) -> Bool[Tensor, "b q"]:
    """First token of each image: as the encoder's lengths say where they fit, of each unbroken run elsewhere."""
    start = visual & (ids != _before(ids, -1))
    for one, counts in lengths.items():
        tokens = ids == one
        if sum(counts) != int(tokens.sum()):
            continue
        first = torch.zeros(sum(counts), dtype=torch.bool, device=ids.device)
        first[torch.tensor([0, *counts[:-1]], device=ids.device).cumsum(0)] = True
        start[tokens] = first
    return start


def _by_closing_tile(ids: Int[Tensor, "b q"], visual: Bool[Tensor, "b q"], closing: int) -> Int[Tensor, "b q"]:
    """An image ends with the tile whose tag (the last token before it that is not visual) is the closing one."""
    tag = _nearest(~visual, ids, from_left=True)
    return (ids == closing).cumsum(1) - (visual & (tag == closing)).long()


def _by_enclosing_tags(
    ids: Int[Tensor, "b q"], visual: Bool[Tensor, "b q"], pairs: tuple[tuple[int, int], ...]
) -> tuple[Int[Tensor, "b q"], Bool[Tensor, "b q"]]:
    """Numbers where all that stands between two tags is one image (or video), and which tokens stand between such."""
    inside = torch.zeros_like(visual)
    for start, end in pairs:
        opened, closed = (ids == start).cumsum(1), (ids == end).cumsum(1)
        if bool(((opened[:, -1] != closed[:, -1]) & visual.any(1)).any()):
            raise CannotAct(
                "An image or video is cut: its start and end tags are not as many. Feed the prompt in one piece."
            )
        inside = inside | (opened > closed)
    one_image = visual | inside
    return _count(one_image & ~_before(one_image, False)), inside


def _between(visual: Bool[Tensor, "b q"], number: Int[Tensor, "b q"]) -> Bool[Tensor, "b q"]:
    """Tokens with visual tokens of one and the same image on both sides."""
    last = _nearest(visual, number, from_left=True)
    following = _nearest(visual, number, from_left=False)
    return ~visual & (last == following) & (last >= 0)


def _behind_rows(visual: Bool[Tensor, "b q"], number: Int[Tensor, "b q"]) -> Bool[Tensor, "b q"]:
    """The token right behind each image that row breaks interrupt: its end tag, whatever its id."""
    before = _nearest(visual, number, from_left=True)
    following = torch.nn.functional.pad(_nearest(visual, number, from_left=False)[:, 1:], (0, 1), value=-1)
    breaks = torch.zeros_like(number).scatter_add_(1, before.clamp(min=0), _between(visual, number).long())
    last = visual & (following != number) & (breaks.gather(1, number.clamp(min=0)) > 0)
    return _before(last, False) & ~visual


def _nearest(where: Bool[Tensor, "b q"], values: Int[Tensor, "b q"], from_left: bool) -> Int[Tensor, "b q"]:
    """Value of the nearest token on one side (or the token itself) for which `where` holds; -1 if there is none."""
    if not from_left:
        return _nearest(where.flip(1), values.flip(1), from_left=True).flip(1)
    place = torch.arange(where.shape[1], device=where.device).expand_as(values).where(where, -1).cummax(1).values
    return values.gather(1, place.clamp(min=0)).where(place >= 0, -1)


def _before(values: Tensor, first: int | bool) -> Tensor:
    """Each token's left neighbour."""
    return torch.nn.functional.pad(values[:, :-1], (1, 0), value=first)


def _count(start: Bool[Tensor, "b q"]) -> Int[Tensor, "b q"]:
    return start.cumsum(1) - 1
