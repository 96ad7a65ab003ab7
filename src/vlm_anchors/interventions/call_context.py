"""What is under way in this context: the handles that are attached, and the calls around the decoder.

Both are context-local (`ContextVar`), so threads and async tasks may use different methods on one model. Token ids and
labels never reach the decoder, so what the outer modules of a model were called with is noted here.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from torch import Tensor, nn

from ..models.vision import pixel_values

_NOTED = (
    "input_ids",
    "inputs_embeds",
    "labels",
    "logits_to_keep",
    "mm_encoder_outputs",
    "use_cache",
    "pixel_values",
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
    pixel_values: Tensor | None = None
    pixel_values_videos: Tensor | None = None
    called: nn.Module | None = None
    """The module whose call this is."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What it was called with, by name."""

    def arguments_of(self, module: nn.Module) -> Mapping[str, Any] | None:
        """What the call of `module` around this one was given; None where there is none."""
        here: CallContext | None = self
        while here is not None and here.called is not module:
            here = here.outer
        return None if here is None else here.arguments

    @property
    def brings_images(self) -> bool:
        """Whether placeholders among the tokens may stand for an image; else an answer holds them as words."""
        images = (self.pixel_values, self.pixel_values_videos, self.mm_encoder_outputs, self.projected)
        return any(one is not None for one in images)

    @staticmethod
    def seen(
        outer: Optional["CallContext"], module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "CallContext":
        """The context of one call inside `outer`. A first positional argument is `input_ids`, as in every transformers model."""
        noted = {name: kwargs[name] for name in _NOTED if kwargs.get(name) is not None}
        if (pixels := pixel_values(kwargs)) is not None:
            noted["pixel_values"] = pixels
        if args and isinstance(args[0], Tensor):
            noted.setdefault("input_ids", args[0])
        known = None if outer is None else outer.mm_encoder_outputs
        if getattr(known, "inserted", None) is not None:
            # accelerate rebuilds what it hands to a module of its own, and what rides on it is lost.
            noted.pop("mm_encoder_outputs", None)
        names = inspect.signature(module.forward).parameters if args else ()
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        return replace(outer or CallContext(), outer=outer, called=module, arguments=arguments, **noted)


current: ContextVar[CallContext | None] = ContextVar("vlm_anchors_call", default=None)
"""The context of the calls that are running in this context, the innermost one's; None outside of any."""
active: ContextVar[tuple[Any, ...]] = ContextVar("vlm_anchors_active", default=())
"""Handles attached in this context, the innermost one last."""
NO_METHOD: Any = type("NoMethod", (tuple,), {})()
"""The value of `active` while a contrastive branch runs: no method acts, not even one that is enabled everywhere."""


@contextmanager
def methods_off() -> Iterator[None]:
    """A contrastive branch: no method acts on what runs inside."""
    before, call_context = active.set(NO_METHOD), current.set(current.get())
    try:
        yield
    finally:
        current.reset(call_context)
        active.reset(before)
