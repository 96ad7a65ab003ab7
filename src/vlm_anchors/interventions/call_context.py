"""What the outer modules of a model were called with: token ids and labels never reach the decoder, so they are noted."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Optional

from torch import Tensor, nn

_NOTED = (
    "input_ids",
    "inputs_embeds",
    "labels",
    "logits_to_keep",
    "mm_encoder_outputs",
    "use_cache",
    "pixel_values_videos",
)


@dataclass(frozen=True)
class CallContext:
    """Arguments of the calls around the decoder; an inner module's word counts where it says something."""

    outer: Optional["CallContext"] = None
    input_ids: Tensor | None = None
    inputs_embeds: Tensor | None = None
    labels: Tensor | None = None
    logits_to_keep: int | Tensor = 0
    mm_encoder_outputs: Mapping[str, Any] | None = None
    use_cache: bool | None = None
    projected: Tensor | None = None
    """Image features the projector just made, where the decoder is given embeddings only."""
    pixels: Mapping[str, Any] | None = None
    """What the vision tower was given inside this call."""
    pixel_values_videos: Tensor | None = None

    @staticmethod
    def seen(
        outer: Optional["CallContext"], module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "CallContext":
        """CallContext of one call inside `outer`. A first positional argument is `input_ids`, as in every transformers model."""
        noted = {name: kwargs[name] for name in _NOTED if kwargs.get(name) is not None}
        if args and isinstance(args[0], Tensor):
            noted.setdefault("input_ids", args[0])
        return replace(outer or CallContext(), outer=outer, **noted)


current: ContextVar[CallContext | None] = ContextVar("vlm_anchors_facts", default=None)
"""CallContext of the calls that are running in this context, the innermost one's; None outside of any."""
