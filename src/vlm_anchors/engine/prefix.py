"""System and image prefilled once and shared by the questions about it: exact where the prefix is causal."""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..families import Family
from .passing import RIDER, Generation


def reusable(model: Any, family: Family) -> bool:
    """Whether a prefix can be copied and continued: a causal decoder with plain positions and no sliding window."""
    text = model.config.get_text_config()
    windows = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    return (
        family.site == "decoder"
        and family.causal_prefix
        and not family.mrope
        and not windows
        and bool(family.model_types)
    )


@torch.no_grad()
def prefill_prefix(model: Any, tensors: dict[str, Tensor]) -> DynamicCache:
    """The cache after the prefix (b rows of equal length, no padding); a method attached rides on it."""
    cache = DynamicCache(config=model.config.get_text_config())
    model(**tensors, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def continued(cache: DynamicCache, rows: Tensor) -> dict[str, DynamicCache]:
    """What `generate` takes to go on from copies of the given rows: one a question, each question's image's."""
    twin = copy.deepcopy(cache)
    twin.batch_select_indices(rows)
    generation: Generation | None = getattr(twin, RIDER, None)
    if generation is not None:
        visual = generation.visual
        visual.index, visual.valid, visual.image = (t[rows] for t in (visual.index, visual.valid, visual.image))
    return {"past_key_values": twin}
