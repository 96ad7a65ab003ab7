"""The contrastive branch of contrastive methods: the same prompt read in another way, with a cache of its own.

Each branch reads the same new tokens. The branch's cache follows what `generate` does to the first one (reordering
beams, cropping, repeating, selecting) because the first cache's class is exchanged, on that one object, for a subclass
that passes such calls on: a logits processor could not do it, as it never learns the order of beams. The branch owns
its mask and its positions, and with them what M-RoPE models keep as rope_deltas on the model. No method acts on it.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, StaticLayer

from ..forward_pass import STATE_ATTRIBUTE, ForwardState, GenerationState
from ..text_rows import TextRows

KEYWORD = "forward_state"
"""The one keyword that carries a pass from the decoder to its attention layers."""


@dataclass(eq=False)
class BranchInputs:
    """What a branch reads as its prompt, padded on the left. positions: None lets the decoder count from 0."""

    embeds: Float[Tensor, "b q d"]
    real: Bool[Tensor, "b q"]
    positions: Int[Tensor, "*n q"] | None
    forward_state: ForwardState | None = None
    """The branch's own edit of attention, where it has one; no other hook acts on a branch."""
    shared: int = 0
    """Leading tokens that the first branch reads alike, so that its keys and values serve here too."""
    late_embeds: Callable[[], Float[Tensor, "b q d"]] | None = None
    """Makes the embeddings to read in place of `embeds`, where they depend on the first branch's own pass."""

    def begin(self, config: Any) -> "ContrastiveBranch":
        return ContrastiveBranch(config, self)


class ContrastiveBranch:
    """A branch under way: its cache, the mask of its keys (None: no padding) and the position of its next token."""

    def __init__(self, config: Any, branch_inputs: Any):
        self.cache = DynamicCache(config=config)
        self.mask = None if bool(branch_inputs.real.all()) else branch_inputs.real.long()
        self.next = None if branch_inputs.positions is None else branch_inputs.positions[..., -1:] + 1
        self.generation = None if branch_inputs.forward_state is None else branch_inputs.forward_state.generation

    def first_logits(self, head: Any, stack: nn.Module, inputs: Any, first: Any) -> Float[Tensor, "b n"]:
        """Logits of the token after the prompt. head: the decoder's output embedding, and the model around it."""
        return head.out(self.prefill(stack, inputs, first)).float()

    def next_logits(self, head: Any, stack: nn.Module, embeds: Tensor, arguments: Any) -> Float[Tensor, "b n"]:
        """Logits after one more token. arguments: of the first branch's call of the model."""
        return head.out(self.step(stack, embeds)).float()

    def prefill(self, stack: nn.Module, branch_inputs: BranchInputs, first: Any = None) -> Float[Tensor, "b d"]:
        """Read the branch's prompt.

        Args:
            stack: The decoder.
            branch_inputs: What the branch reads.
            first: The first branch's cache, which holds the prompt by now; None: nothing is shared.

        Returns:
            The last token's final hidden state, (b, d).
        """
        known = branch_inputs.shared if first is not None and holds_all(first) else 0
        positions, forward_state = branch_inputs.positions, branch_inputs.forward_state
        if known:
            for number, own in enumerate(first.layers):
                self.cache.update(own.keys[:, :, :known], own.values[:, :, :known], number)
            positions = None if positions is None else positions[..., known:]
            forward_state = (
                None if forward_state is None else replace(forward_state, rows=forward_state.rows.after(known))
            )
        embeds = branch_inputs.embeds if branch_inputs.late_embeds is None else branch_inputs.late_embeds()
        return self._run(stack, embeds[:, known:], positions, forward_state)

    def step(self, stack: nn.Module, embeds: Float[Tensor, "b 1 d"]) -> Float[Tensor, "b d"]:
        positions = self.next
        if self.mask is not None:
            self.mask = nn.functional.pad(self.mask, (0, 1), value=1)
        if positions is not None:
            self.next = positions + 1
        own = self.generation
        forward_state = (
            None if own is None else ForwardState(own, TextRows(None, None, None, None), own.new_pass_states())
        )
        return self._run(stack, embeds, positions, forward_state)

    def _run(
        self, stack: nn.Module, embeds: Tensor, positions: Tensor | None, forward_state: ForwardState | None
    ) -> Tensor:
        state = {} if forward_state is None else {KEYWORD: forward_state}
        out = stack(
            inputs_embeds=embeds, attention_mask=self.mask, position_ids=positions, past_key_values=self.cache,
            use_cache=True, **state,
        )  # fmt: skip
        return out.last_hidden_state[:, -1]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.cache.reorder_cache(beam_idx)
        self._rows(_FOLLOWED["reorder_cache"](beam_idx))

    def batch_select_indices(self, indices: Tensor) -> None:
        self.cache.batch_select_indices(indices)
        self._rows(_FOLLOWED["batch_select_indices"](indices))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.cache.batch_repeat_interleave(repeats)
        self._rows(_FOLLOWED["batch_repeat_interleave"](repeats))

    def crop(self, tokens_to_remove: int) -> None:
        self.cache.crop(tokens_to_remove)
        if tokens_to_remove == 0:
            return
        if self.mask is not None:
            self.mask = self.mask[:, : -abs(tokens_to_remove)]
        if self.next is not None:
            self.next = self.next - abs(tokens_to_remove)

    def _rows(self, change: Any) -> None:
        """Change the sample dimension of mask and positions."""
        if self.mask is not None:
            self.mask = change(self.mask, 0)
        if self.next is not None:
            self.next = change(self.next, self.next.dim() - 2)


def holds_all(cache: Any) -> bool:
    """Whether a cache's layers hold every key where the model put it: no window, no other precision, none elsewhere."""
    return all(type(layer) in (DynamicLayer, StaticLayer) for layer in cache.layers) and not cache.offloading


_FOLLOWED: dict[str, Callable[..., Callable[[Tensor, int], Tensor]]] = {
    "reorder_cache": lambda beams: lambda tensor, dim: tensor.index_select(dim, beams.to(tensor.device)),
    "batch_select_indices": lambda chosen: lambda tensor, dim: tensor.index_select(dim, _numbers(chosen, tensor)),
    "batch_repeat_interleave": lambda times: lambda tensor, dim: tensor.repeat_interleave(times, dim=dim),
}
"""What `generate` does to the samples of a cache, and what the same is for any tensor and its sample dimension."""


def _numbers(chosen: Tensor, tensor: Tensor) -> Tensor:
    chosen = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen
    return chosen.to(tensor.device)


class FollowedCache:
    """Marks the classes of caches whose generation follows them. `plain` is the class such a cache had before."""

    plain: type


@functools.cache
def _followed_class(plain: type) -> type:
    def passing_on(name: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = getattr(plain, name)(self, *args, **kwargs)
            generation: GenerationState | None = getattr(self, STATE_ATTRIBUTE, None)
            if generation is None:
                return result
            if name in _FOLLOWED:
                generation.follow_beams(_FOLLOWED[name](*args, **kwargs))
            if generation.branch is not None:
                getattr(generation.branch, name)(*args, **kwargs)
            return result

        return method

    methods = {name: passing_on(name) for name in (*_FOLLOWED, "crop") if hasattr(plain, name)}
    return type(plain.__name__, (FollowedCache, plain), {**methods, "plain": plain, "__module__": plain.__module__})


def follow_cache(cache: Any) -> None:
    """From now on, the generation that rides on this cache follows its beams, and so does its contrastive branch."""
    if not isinstance(cache, FollowedCache):
        kind: Any = type(cache)
        cache.__class__ = _followed_class(kind)


def stop_following(cache: Any) -> None:
    if isinstance(cache, FollowedCache):
        cache.__class__ = cache.plain


def left_padded(branch_inputs: BranchInputs, keep: Bool[Tensor, "b q"], mrope: bool) -> BranchInputs:
    """The kept tokens of a branch, padded on the left, positions counted anew from 0."""
    count = max(int(keep.sum(1).max()), 1)
    order = keep.to(torch.int8).argsort(dim=1, stable=True)[:, -count:]
    real = keep.gather(1, order)
    embeds = branch_inputs.embeds.gather(1, order[..., None].expand(-1, -1, branch_inputs.embeds.shape[-1]))
    positions = (real.cumsum(1) - 1).clamp(min=0)
    return BranchInputs(embeds, real, positions.expand(3, -1, -1) if mrope else positions)
