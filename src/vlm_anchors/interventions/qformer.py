"""The Q-Former as an attention target: latent queries are the rows, image features the columns (CLVA's Eq. 14).

`generate` of InstructBLIP and BLIP-2 never calls the model's own forward, so the hook sits on the Q-Former itself.
Each of its forwards is a generation of its own: it has no cache.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import CannotAct
from ..models.decoder import AttentionTarget, self_attention
from ..models.families import Family
from .forward_pass import ForwardState, GenerationState
from .text_rows import TextRows, Visual

if TYPE_CHECKING:
    from .attachment import Handle


def qformer_target(base: nn.Module, family: Family) -> AttentionTarget:
    """The Q-Former's cross-attention layers, counted 1..Lc in order (every second block in the released models)."""
    blocks = [block for block in base.qformer.encoder.layer if block.has_cross_attention]
    return AttentionTarget(
        kind="qformer",
        depth=len(blocks),
        heads=base.qformer.config.num_attention_heads,
        family=family,
        stack=base.qformer,
        blocks=len(blocks),
        layers={id(block.crossattention.attention): number for number, block in enumerate(blocks, 1)},
        outer=(),
    )


def language_model_target(base: nn.Module, family: Family) -> AttentionTarget:
    """`target="decoder"`: the language model's attention to the query tokens (the paper's appendix B.1)."""
    if base.language_model.config.is_encoder_decoder:
        raise CannotAct(
            f"Methods inside the language model need a decoder-only one; this {family.title} uses an encoder-decoder. Use "
            f"a checkpoint with a decoder-only language model, or clva with target='auto', which edits the Q-Former."
        )
    stack = base.language_model.get_decoder()
    attention = self_attention(stack)
    return AttentionTarget(
        kind="decoder",
        depth=len(attention),
        blocks=len(attention),
        cache_layers=tuple(module.layer_idx for module in attention),
        heads=stack.config.num_attention_heads,
        family=family,
        stack=stack,
        layers={id(module): layer for layer, module in enumerate(attention, 1)},
        outer=(base, base.language_model),
        visual_features=base.language_projection,
    )


def latent_pass(handle: "Handle", target: AttentionTarget, kwargs: dict[str, Any]) -> ForwardState:
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


def features_among(embeds: Tensor, features: Tensor) -> Tensor:
    """Which rows of `embeds` (b, q, d) are image features (b', n, d) that were just projected; bool (b, q).

    The language model is given embeddings only, expanded to beams at times. Sixteen numbers of each vector tell it
    from a word embedding; comparing all of them would cost more than the method.
    """
    features = features.repeat_interleave(len(embeds) // len(features), dim=0)[..., :16]
    return (embeds[:, :, None, :16] == features[:, None].to(embeds.dtype)).all(-1).any(-1)
