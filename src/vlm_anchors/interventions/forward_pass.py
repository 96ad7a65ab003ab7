"""One forward pass as the attention layers see it, and the generation it belongs to.

A `Generation` rides on the cache object: born with the prompt, gone with the cache; two generations or two models
never meet. A `Pass` is made for each forward of the decoder and handed down as a keyword; it dies with the forward.
Neither holds a module, so a cache can be deep-copied.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .attention_view import AttentionView, Edit
from .method import Method
from .text_rows import TextRows, Visual

STATE_ATTRIBUTE = "_vlm_anchors"
"""The attribute under which a generation rides on its cache."""


class Recorder(Protocol):
    """Sees every layer after the method did; changes nothing."""

    def see(self, view: AttentionView, edit: Edit | None) -> None: ...


@dataclass
class Lifetime:
    """Whether the handle a generation belongs to is still attached; shared by copies of its cache."""

    on: bool = True


@dataclass
class GenerationState:
    """What outlives a forward pass: the method, where the visual keys are, and what the method remembers."""

    method: Method
    depth: int
    attention_layers: frozenset[int]
    recorder: Recorder | None
    visual: Visual
    lifetime: Lifetime = field(default_factory=Lifetime)
    literal: bool = False
    """Edited layers compute full matrices (see `attach`)."""
    text_seen: bool = False
    steps: int = 0
    warned: bool = False
    memory: dict[Any, Any] = field(default_factory=dict)
    kept: dict[Any, Any] = field(default_factory=dict)
    """What the method kept in the pass that held the prompt: `effects` is read from it."""
    prompt: TextRows | None = None
    end: int = 0
    """Keys in the cache once the prompt was read."""
    length: Tensor | None = None
    """Keys in a cache of fixed size, which counts them on the device itself, and so in a compiled graph too."""
    chunk_end: int = 0
    """Rows of the last pass that was not a decoding step, to tell a prompt fed in pieces from a conversation."""

    @property
    def begun(self) -> bool:
        """Whether the prompt's text was read, or there is no image for it to follow: one more token is a decoding step."""
        return self.text_seen or self.visual.index.shape[1] == 0

    def note_length(self, cache: Any) -> None:
        length = None if cache is None else cache.get_seq_length()
        self.length = length if isinstance(length, Tensor) else None

    def count_steps(self) -> None:
        """Add the steps of a compiled graph, which cannot count: there are as many as keys after the prompt."""
        if self.length is not None:
            self.steps = max(self.steps, int(self.length) - self.end)

    def settle_steps(self) -> None:
        """Count for the last time: the cache may serve another prompt now."""
        self.count_steps()
        self.length = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "GenerationState":
        """A copied cache goes on with the same method and watcher, and tables of its own."""
        own = {name: copy.deepcopy(getattr(self, name), memo) for name in ("visual", "memory", "kept", "prompt")}
        return replace(self, **own)


@dataclass(eq=False)
class ForwardState:
    """One forward pass: its text rows, the visual keys, and what was computed once for several layers."""

    generation: GenerationState
    rows: TextRows
    kept: dict[Any, Any]
    latents: bool = False
    idle: bool = False
    """A pass with nothing to do (no text row yet): it only keeps the generation."""
    layers: dict[int, int] | None = None
    """`id(attention module)` -> layer where modules do not know their own index; None: `layer_idx + 1`."""
    offsets: dict[int, int] = field(default_factory=dict)
    """First key position still in the cache, for layers with a sliding window."""
    _memo: list[tuple[tuple[Any, ...], int, Any]] = field(default_factory=list)

    @property
    def visual(self) -> Visual:
        return self.generation.visual

    @property
    def depth(self) -> int:
        return self.generation.depth

    @property
    def memory(self) -> dict[Any, Any]:
        return self.generation.memory

    def layer_of(self, module: nn.Module) -> int | None:
        """The layer of an attention module if it is watched, else None."""
        if self.idle:
            return None
        layer = module.layer_idx + 1 if self.layers is None else self.layers.get(id(module))
        return layer if layer in self.generation.attention_layers or self.generation.recorder is not None else None

    def see(self, view: AttentionView) -> Edit | None:
        generation = self.generation
        edit = generation.method.attention(view) if view.layer in generation.attention_layers else None
        if generation.recorder is not None:
            generation.recorder.see(view, edit)
        return edit

    def columns(self, layer: int, keys: int) -> tuple[Tensor, Tensor]:
        """Index among this layer's keys, and existence, of each visual key."""
        visual, offset = self.visual, self.offsets.get(layer, 0)
        if offset == 0:
            return visual.index, visual.valid
        return self.once((visual.index,), offset, lambda: _shifted(visual, offset))

    def row_mask(self, mask: Tensor | None, query: Tensor, key: Tensor, causal: bool) -> Tensor | None:
        """The mask of the text rows as numbers to add, float32 (b, 1, r, k); None where nothing is masked."""
        q, k = query.shape[2], key.shape[2]
        if mask is None and (not causal or q == 1):
            return None
        return self.once((mask,), k, lambda: row_mask_of(mask, self.rows.index, q, k, query.device))

    def once(self, things: tuple[Any, ...], size: int, make: Callable[[], Any]) -> Any:
        """`make()` once for the same things (by identity) and size; later layers of the pass get the same object."""
        for known, known_size, result in self._memo:
            same = known_size == size and len(known) == len(things)
            if same and all(a is b for a, b in zip(known, things, strict=True)):
                return result
        result = make()
        self._memo.append((things, size, result))
        return result


def _shifted(visual: Visual, offset: int) -> tuple[Tensor, Tensor]:
    index = visual.index - offset
    valid = visual.valid & (index >= 0)
    return index.where(valid, 0), valid


def row_mask_of(mask: Tensor | None, index: Tensor | None, q: int, k: int, device: torch.device) -> Tensor:
    """Rows of a boolean or additive mask; with no mask, causal with the first query at the first key."""
    if mask is None:
        rows = torch.arange(q, device=device)[None] if index is None else index
        allowed = torch.arange(k, device=device)[None, None] <= rows[:, :, None]
        return _additive(allowed[:, None])
    if index is not None:
        b, r = index.shape
        mask = mask.expand(b, -1, -1, -1).gather(2, index[:, None, :, None].expand(b, mask.shape[1], r, mask.shape[3]))
    if mask.dtype == torch.bool:
        return _additive(mask)
    # A half-precision mask's lowest number is far from float32's, by which others tell what is masked.
    return mask.float().masked_fill(mask <= torch.finfo(mask.dtype).min / 2, torch.finfo(torch.float32).min)


def _additive(allowed: Tensor) -> Tensor:
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, torch.finfo(torch.float32).min)
