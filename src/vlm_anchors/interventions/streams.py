"""Decoders that carry several streams of hidden states from layer to layer, and how each joins them into one.

What a single layer would say is read as the model reads its last layer: its streams joined in the same way, then the final
norm and the output embedding. Shapes: b samples, q tokens, n streams, d width of the decoder.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import CannotAct
from ..models.decoder import AttentionTarget
from ..parameters import name_of

Join = Callable[[Tensor], Float[Tensor, "b q d"]]
COUNTS = ("altup_num_inputs", "hc_mult", "hc_count")
"""Config attributes that count the streams."""
MODULES = ("hc_head", "hyper_connection_mixer")
"""Names by which decoders have the module that joins their hyper-connections' streams."""


def join_of(target: AttentionTarget, method: Any) -> Join:
    """What makes one hidden state a token of a layer's output.

    Raises:
        CannotAct: the decoder has several streams, and joins them in a way that is not known here.
    """
    stack: Any = target.stack
    count = next((one for name in COUNTS if (one := getattr(target.config, name, None) or 0) > 1), 1)
    if count == 1:
        return lambda output: output
    if hasattr(stack, "altup_unembed_projections"):
        return lambda output: _altup(stack.altup_unembed_projections, output)
    module = next((getattr(stack, name) for name in MODULES if hasattr(stack, name)), None)
    if module is None:
        raise CannotAct(
            f"{name_of(method)} reads what single layers would say, but {target.family.title}'s layers hand on {count} "
            "streams of hidden states, and how they are joined is not known. Use another method."
        )
    return module


def _altup(projections: nn.ModuleList, streams: Float[Tensor, "n b q d"]) -> Float[Tensor, "b q d"]:
    """Gemma 3n's: the other streams are projected back, brought to the first one's size, and all are averaged."""
    first = streams[0]
    size = first.square().mean(-1, keepdim=True).sqrt()
    joined = [first]
    for projection, stream in zip(projections, streams[1:], strict=True):
        back = projection(stream).to(first.dtype)
        joined.append(back * size / back.square().mean(-1, keepdim=True).clamp(min=1e-5).sqrt())
    return torch.stack(joined).mean(0)
