"""The Q-Former as an attention target: latent queries are the rows, image features the columns (CLVA's Eq. 14).

`generate` of InstructBLIP and BLIP-2 never calls the model's own forward, so the hook sits on the Q-Former itself.
Each of its forwards is a generation of its own: it has no cache.
"""

from typing import Any

import torch
from torch import Tensor

from ..models.attention_target import AttentionTarget
from .forward_pass import ForwardState, GenerationState
from .handle import Handle
from .text_rows import TextRows, Visual


def latent_pass(handle: Handle, target: AttentionTarget, kwargs: dict[str, Any]) -> ForwardState:
    """The pass of one Q-Former forward: all latent queries are rows, all patches visual keys."""
    features = kwargs["encoder_hidden_states"]
    latents = kwargs["query_embeds"].shape[1]
    patches = _patches(target, features, kwargs)
    generation = GenerationState.born(handle.setup, patches)
    generation.prompt = TextRows(None, torch.ones(len(features), latents, dtype=torch.bool), None, None)
    handle.began(generation, None)
    generation.prompt_states = generation.new_pass_states()
    generation.check_prompt()
    return ForwardState(
        generation, TextRows(None, None, None, None), generation.prompt_states, latents=True, layers=target.layers
    )


def _patches(target: AttentionTarget, features: Tensor, kwargs: dict[str, Any]) -> Visual:
    batch, keys = features.shape[:2]
    first = int(target.family.class_token)
    index = torch.arange(first, keys, device=features.device).expand(batch, -1)
    mask = kwargs.get("encoder_attention_mask")
    valid = torch.ones_like(index, dtype=torch.bool) if mask is None else mask[:, first:].bool().expand_as(index)
    return Visual(index, valid, torch.zeros_like(index), 1, bool(valid.all()))
