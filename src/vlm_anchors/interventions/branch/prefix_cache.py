"""System and image prefilled once and shared by the questions about it: exact where the prefix is causal."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from ...errors import CannotAct
from ...models.families import Family
from ..call_context import CallContext, current
from ..forward_pass import STATE_ATTRIBUTE, ForwardState, GenerationState, PrefixRead
from ..forward_view import ForwardPass
from ..insertion.anchored import insertion_of
from ..method import Method
from ..pass_marks import real_rows
from ..text_rows import TextRows
from .branch_prompt import Prompt
from .contrastive import BranchInputs
from .vision_tower import pixels_given_to

_prefilling: ContextVar[bool] = ContextVar("prefilling", default=False)
"""Whether `prefill_prefix` runs. `generate` encodes images ahead too, and a prompt that ends with its image would look alike."""


def reusable(model: Any, family: Family) -> bool:
    """Whether a prefix can be copied and continued: a causal decoder with plain positions and no sliding window."""
    text = model.config.get_text_config()
    windows = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    return (
        family.target == "decoder"
        and family.causal_prefix
        and not family.mrope
        and not windows
        and bool(family.model_types)
    )


def shares_prefix(model: Any, family: Family, methods: Sequence[Method]) -> bool:
    """Whether questions about one image may share what stands before them, under these methods."""
    # A branch is put together from the two pieces where the decoder alone can read it again.
    reads_again = any(type(method).branch is not Method.branch for method in methods)
    return (
        reusable(model, family)
        and not family.end_tag_follows  # the tag would begin the second piece, where nothing says that it is one
        and all(method.leaves_prefix_alone for method in methods)
        and (not reads_again or family.again == "pixels")
    )


@torch.no_grad()
def prefill_prefix(model: Any, tensors: dict[str, Tensor]) -> DynamicCache:
    """The cache after the prefix (b rows of equal length, no padding); a method attached rides on it."""
    cache = DynamicCache(config=model.config.get_text_config())
    token = _prefilling.set(True)
    try:
        model(**tensors, past_key_values=cache, use_cache=True, logits_to_keep=1)
    finally:
        _prefilling.reset(token)
    return cache


def continued(cache: DynamicCache, rows: Tensor) -> dict[str, DynamicCache]:
    """What `generate` takes to go on from the given rows: one a question, each question's image's. The cache becomes this."""
    cache.batch_select_indices(rows)
    generation: GenerationState | None = getattr(cache, STATE_ATTRIBUTE, None)
    if generation is not None:
        visual = generation.visual
        visual.index, visual.valid, visual.image = (t[rows] for t in (visual.index, visual.valid, visual.image))
        if generation.prefix is not None:
            generation.prefix = generation.prefix.of(rows)
    return {"past_key_values": cache}


def note_prefix(
    forward_state: ForwardState,
    embeds: Float[Tensor, "b p d"],
    mask: Any,
    call_context: CallContext | None,
    mrope: bool,
) -> None:
    """Remember a piece without text rows, unless it is unknown what it holds (embeddings only, prepared inputs)."""
    if call_context is None or call_context.input_ids is None or mrope:
        return
    encoded, pixels = call_context.mm_encoder_outputs, call_context.pixels
    if encoded is not None:
        inserted = insertion_of(encoded) is not None
        pixels = pixels_given_to(encoded.get("image")) if _prefilling.get() and not inserted else None
        if pixels is None:
            return
    generation = forward_state.generation
    if generation.prefix is None and call_context.input_ids.shape == embeds.shape[:2]:
        real = real_rows(mask, torch.ones_like(call_context.input_ids, dtype=torch.bool), 0)
        generation.prefix = PrefixRead(embeds, call_context.input_ids, real, pixels, len(embeds))


def whole_prompt(view: ForwardPass, kwargs: Mapping[str, Any], past: int) -> Prompt:
    """The prompt of this pass; with what was read before it, where that is known to be all of it."""
    first = view.forward_state.generation.prefix
    call_context = current.get()
    if first is None or call_context is None or call_context.input_ids is None or first.embeds.shape[1] != past:
        return Prompt(view, kwargs, past)
    return _Joined(view, first, call_context)


class _Joined(Prompt):
    """A prompt that came in two pieces, as if it had come in one: padding, which stood between them, moved to the left."""

    def __init__(self, view: ForwardPass, first: PrefixRead, call_context: CallContext):
        assert view.real is not None and call_context.input_ids is not None
        real = torch.cat([first.real, view.real], 1)
        order = real.to(torch.int8).argsort(dim=1, stable=True)
        embeds = torch.cat([first.embeds, view.embeds], 1)
        embeds = embeds.gather(1, order[..., None].expand_as(embeds))
        ids, real = torch.cat([first.ids, call_context.input_ids], 1).gather(1, order), real.gather(1, order)
        positions = {"position_ids": (real.cumsum(1) - 1).clamp(min=0)}
        super().__init__(replace(view, embeds=embeds, real=real), positions, 0)
        self._prompts = first.prompts
        self._whole, self._rows = replace(call_context, input_ids=ids, pixels=first.pixels), first.rows

    @property
    def call_context(self) -> CallContext:
        return self._whole

    def need_one_piece(self) -> None:
        raise CannotAct(
            f"{self.name} changes rows of the whole prompt, but this one came in two pieces. Feed it in one "
            "piece with an empty cache."
        )

    def edited(self, method: Any, state: Any, rows: TextRows | None = None) -> BranchInputs:
        self.need_one_piece()
        return super().edited(method, state, rows)

    def encode(self, pixels: Mapping[str, Any]) -> list[Float[Tensor, "_n d"]]:
        """Encoded once an image, then given to each of its questions."""
        found = super().encode(pixels)
        if self._rows is not None and len(found) != self._prompts:
            raise CannotAct(
                f"{self.name} reads a shared prefix again where it holds one image in one piece; this one's "
                f"{self._prompts} prompts have {len(found)} encoded pieces. Feed each prompt in one piece."
            )
        return found if self._rows is None else [found[row] for row in self._rows.tolist()]
