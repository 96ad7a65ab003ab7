"""Where methods act in models with a Q-Former: in its cross-attention, or in the language model behind it."""

from torch import nn

from ..errors import CannotAct
from .attention_target import AttentionTarget, self_attention
from .families import Family


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
