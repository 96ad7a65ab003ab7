"""Positions with three parts (time, height, width): the model's own on the original sequence, then inserted."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ...errors import CannotAct
from .plan import Plan, insert_positions

GRIDS = {"image": "image_grid_thw", "video": "video_grid_thw"}


def has_mrope(inner: nn.Module) -> bool:
    """Whether the model tells positions in three parts, as Qwen2-VL and those after it do."""
    return callable(getattr(inner, "get_rope_index", None))


def original_positions(inner: nn.Module, tensors: Mapping[str, Any], kinds: Int[Tensor, "b t"]) -> Int[Tensor, "3 b t"]:
    """What the model's own `get_rope_index` says of the sequence before anything is inserted into it.

    It reads an unbroken run of visual tokens as one image, so it cannot be asked afterwards. kinds: 0 text, 1 image,
    2 video, for a processor that did not say.
    """
    position_ids = tensors.get("position_ids")
    if position_ids is not None and position_ids.dim() == 3:
        return position_ids[-3:]
    wanted = inspect.signature(inner.get_rope_index).parameters
    if "image_grid_thw" in wanted and all(tensors.get(grid) is None for grid in GRIDS.values()):
        raise CannotAct(
            "Expected image_grid_thw beside the images, as the processor returns it: without it no patch has a position. "
            "Pass everything the processor returned."
        )
    known = {name: tensors[name] for name in wanted if tensors.get(name) is not None}
    if "mm_token_type_ids" in wanted:
        known.setdefault("mm_token_type_ids", kinds.int())
    positions, _ = inner.get_rope_index(**known)
    return positions


def inserted_positions(
    inner: nn.Module,
    plan: Plan,
    original: Int[Tensor, "3 b t"],
    at: Int[Tensor, "b s"],
    real: Bool[Tensor, "b s"],
    closed: Bool[Tensor, "b t"] | None = None,
    text_row: bool = True,
) -> Int[Tensor, "n b s"]:
    """Positions for `generate` and forward passes: the order of the text, then time, height and width.

    The model keeps the distance between a sequence's length and its last position on itself (`rope_deltas`), for the
    steps after a prompt; whoever gives positions must set it as well.
    """
    parts = insert_positions(plan, original, at, plan.advances, closed).masked_fill(~real, 0)
    last = parts.amax(0).amax(1)
    inner.rope_deltas = (last + 1 - real.sum(1))[:, None]
    if not text_row:
        return parts
    order = (real.long().cumsum(1) - 1).masked_fill(~real, 0)
    return torch.cat([order[None], parts])


def has_text_row(model: nn.Module, tensors: Mapping[str, Any], kinds: Int[Tensor, "b t"], parts: int) -> bool:
    """Whether this model's `generate` puts the order of the text before a position's parts (Qwen's do, Hunyuan's not)."""
    earlier = tensors.get("position_ids")
    if earlier is not None and earlier.dim() == 3:  # of another method's insertion, whose images the model cannot read
        return len(earlier) > parts
    prepare = getattr(model, "_prepare_position_ids_for_generation", None)
    if prepare is None:
        return True
    known = {"mm_token_type_ids": kinds.int(), **{name: one for name, one in tensors.items() if one is not None}}
    return len(prepare(tensors["input_ids"], known)) > parts
