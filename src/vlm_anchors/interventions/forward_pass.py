"""One forward pass as the attention layers see it, and the generation it belongs to.

A `GenerationState` rides on the cache object: born with the prompt, gone with the cache; two generations or two models
never meet. A `ForwardState` is made for each forward of the decoder and handed down as a keyword; it dies with the
forward. Neither holds a module, so a cache can be deep-copied.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .attention_view import AttentionEdit, AttentionView
from .composition import Composition
from .text_rows import TextRows, Visual

STATE_ATTRIBUTE = "_vlm_anchors"
"""The attribute under which a generation rides on its cache."""
_FOLLOWS = "follows the beams"
PER_SAMPLE = {_FOLLOWS: True}
"""`field(default=None, metadata=PER_SAMPLE)`: in a method's state a tensor, samples first, that follows the beams."""


class Recorder(Protocol):
    """Sees every layer after the method did; changes nothing."""

    def see(self, view: AttentionView, edit: AttentionEdit | None) -> None: ...


@dataclass
class Lifetime:
    """Whether the handle a generation belongs to is still attached; shared by copies of its cache."""

    on: bool = True


@dataclass(frozen=True, eq=False)
class Setup:
    """What a handle fixed when it was attached: the same for each of its generations, and for copies of their caches."""

    methods: Composition
    depth: int
    attention_layers: frozenset[int] = frozenset()
    hidden_layers: frozenset[int] = frozenset()
    mlp_layers: frozenset[int] = frozenset()
    recorder: Recorder | None = None
    literal: bool = False
    """Edited layers compute full matrices (see `attach`)."""
    processor: Any = None
    lifetime: Lifetime = field(default_factory=Lifetime)


@dataclass(eq=False)
class PrefixRead:
    """The first piece of a prompt as the decoder read it. rows: which of its prompts each row was, where they moved."""

    embeds: Float[Tensor, "b p d"]
    ids: Int[Tensor, "b p"]
    real: Bool[Tensor, "b p"]
    pixels: Mapping[str, Any] | None
    prompts: int
    rows: Int[Tensor, " b"] | None = None

    def of(self, rows: Int[Tensor, " n"]) -> "PrefixRead":
        return PrefixRead(self.embeds[rows], self.ids[rows], self.real[rows], self.pixels, self.prompts, rows)


@dataclass(eq=False)
class GenerationState:
    """What outlives a forward pass: where the visual keys are, what was counted, and each method's own state."""

    setup: Setup
    visual: Visual
    states: tuple[Any, ...]
    """One object a method, made by its `new_state`."""
    prompt_states: tuple[Any, ...] = ()
    """The methods' pass states of the pass that held the prompt: `effects` reads them."""
    branch: Any = None
    """The `contrastive.ContrastiveBranch` under way; None: none."""
    is_branch: bool = False
    """A contrastive branch's own generation: only its edit of attention acts on it."""
    without_image: Bool[Tensor, " b"] | None = None
    """Samples without an image, which no hook changes; None: each has one."""
    prefix: PrefixRead | None = None
    text_seen: bool = False
    steps: int = 0
    edited_rows: Tensor | None = None
    """Text rows of the prompt that an edit of attention changed, (b,)."""
    edited_steps: int = 0
    """Decoding steps in which attention was edited."""
    warned: bool = False
    prompt: TextRows | None = None
    end: int = 0
    """Keys in the cache once the prompt was read."""
    length: Tensor | None = None
    """Keys in a cache of fixed size, which counts them on the device itself, and so in a compiled graph too."""
    chunk_end: int = 0
    """Rows of the last pass that was not a decoding step, to tell a prompt fed in pieces from a conversation."""

    @classmethod
    def born(cls, setup: Setup, visual: Visual) -> "GenerationState":
        return cls(setup, visual, tuple(part.new_state() for part in setup.methods.parts))

    @property
    def begun(self) -> bool:
        """Whether the prompt's text was read, or there is no image for it to follow: one more token is a decoding step."""
        return self.text_seen or self.visual.index.shape[1] == 0

    def check_prompt(self) -> None:
        """Let each method say where the prompt's visual tokens leave it nothing to act on."""
        for part in self.setup.methods.parts if self.setup.attention_layers else ():
            if part.active_hooks():
                part.check_prompt(self.visual)

    def new_pass_states(self) -> tuple[Any, ...]:
        return tuple(part.new_pass_state() for part in self.setup.methods.parts)

    def note_length(self, cache: Any) -> None:
        length = None if cache is None else cache.get_seq_length()
        self.length = length if isinstance(length, Tensor) else None

    def count_steps(self) -> None:
        """Add the steps of a compiled graph, which cannot count: there are as many as keys after the prompt."""
        if self.length is not None:
            more = max(int(self.length) - self.end - self.steps, 0)
            self.steps += more
            self.edited_steps += more if self.edited_rows is not None else 0

    def settle_steps(self) -> None:
        """Count for the last time: the cache may serve another prompt now."""
        self.count_steps()
        self.length = None

    def count_edit(self, rows: TextRows, edited: Bool[Tensor, "b r"] | None) -> None:
        """Called where an edit of attention is applied, once a pass.

        Args:
            edited: Which text rows were edited; None: all of them.
        """
        if rows.valid is None:
            self.edited_steps += 1
            return
        valid = rows.valid if edited is None else rows.valid & edited
        count = valid.sum(1)
        self.edited_rows = count if self.edited_rows is None else self.edited_rows + count

    @property
    def has_followers(self) -> bool:
        """Whether a method's state has a field that follows the beams."""
        states = (state for state in self.states if dataclasses.is_dataclass(state))
        return any(one.metadata.get(_FOLLOWS) for state in states for one in dataclasses.fields(state))

    def follow_beams(self, change: Callable[[Tensor, int], Tensor]) -> None:
        """Change the sample dimension of what follows the beams; `change` gets a tensor and its sample dimension."""
        if self.without_image is not None:
            self.without_image = change(self.without_image, 0)
        for state in self.states:
            for one in dataclasses.fields(state) if dataclasses.is_dataclass(state) else ():
                if one.metadata.get(_FOLLOWS) and getattr(state, one.name) is not None:
                    setattr(state, one.name, change(getattr(state, one.name), 0))

    def __deepcopy__(self, memo: dict[int, Any]) -> "GenerationState":
        """A copied cache goes on with the same methods and recorder, and states of its own."""
        names = ("visual", "states", "prompt_states", "branch", "without_image", "prefix", "prompt", "edited_rows")
        return replace(self, **{name: copy.deepcopy(getattr(self, name), memo) for name in names})


@dataclass(frozen=True, eq=False)
class Generation:
    """One generation as one of its methods sees it afterwards, to tell its effects."""

    _whole: GenerationState = field(repr=False)
    _number: int

    @property
    def state(self) -> Any:
        """The method's own state."""
        return self._whole.states[self._number]

    @property
    def prompt_state(self) -> Any:
        """The method's own pass state of the pass that held the prompt."""
        states = self._whole.prompt_states
        return states[self._number] if states else None

    @property
    def visual(self) -> Visual:
        return self._whole.visual

    @property
    def depth(self) -> int:
        return self._whole.setup.depth

    @property
    def steps(self) -> int:
        """Decoding steps after the prompt's pass."""
        return self._whole.steps


@dataclass(eq=False)
class ForwardState:
    """One forward pass: its text rows, the visual keys, and what was computed once for several layers."""

    generation: GenerationState
    rows: TextRows
    states: tuple[Any, ...]
    """One object a method, made by its `new_pass_state`."""
    latents: bool = False
    idle: bool = False
    """A pass with nothing to do (no text row yet): it only keeps the generation."""
    layers: dict[int, int] | None = None
    """`id(attention module)` -> layer where modules do not know their own index; None: `layer_idx + 1`."""
    offsets: dict[int, int] = field(default_factory=dict)
    """First key position still in the cache, for layers with a sliding window."""
    _counted: bool = False
    _memo: list[tuple[tuple[Any, ...], Any]] = field(default_factory=list)

    @property
    def visual(self) -> Visual:
        return self.generation.visual

    @property
    def depth(self) -> int:
        return self.generation.setup.depth

    def layer_of(self, module: nn.Module) -> int | None:
        """The layer of an attention module if it is watched, else None."""
        if self.idle:
            return None
        setup = self.generation.setup
        layer = module.layer_idx + 1 if self.layers is None else self.layers.get(id(module))
        return layer if layer in setup.attention_layers or setup.recorder is not None else None

    @property
    def acts(self) -> bool:
        """Whether any layer is seen or changed in this pass."""
        setup = self.generation.setup
        return bool(setup.attention_layers or setup.hidden_layers or setup.mlp_layers or setup.recorder)

    def see(self, view: AttentionView) -> AttentionEdit | None:
        setup = self.generation.setup
        part = setup.methods.at("attention") if view.layer in setup.attention_layers else None
        edit = None if part is None else part.method.attention(view.of(part.number))
        if setup.recorder is not None:
            setup.recorder.see(view, edit)
        return edit

    def count_edit(self, edit: AttentionEdit) -> None:
        """Called where an edit is applied; a pass counts once, whichever of its layers it is."""
        if not self._counted and not torch.compiler.is_compiling():
            self._counted = True
            rows = self.generation.prompt if self.latents else self.rows
            assert rows is not None
            self.generation.count_edit(rows, edit.rows)

    def columns(self, layer: int, keys: int) -> tuple[Tensor, Tensor]:
        """Index among this layer's keys, and existence, of each visual key."""
        visual, offset = self.visual, self.offsets.get(layer, 0)
        if offset == 0:
            return visual.index, visual.valid
        return self.once(lambda: _shifted(visual, offset), visual.index, offset)

    def row_mask(self, mask: Tensor | None, query: Tensor, key: Tensor, causal: bool) -> Tensor | None:
        """The mask of the text rows as numbers to add, float32 (b, 1, r, k); None where nothing is masked."""
        q, k = query.shape[2], key.shape[2]
        if mask is None and (not causal or q == 1):
            return None
        return self.once(lambda: row_mask_of(mask, self.rows.index, q, k, query.device), "row mask", mask, k)

    def once(self, make: Callable[[], Any], *things: Any) -> Any:
        """`make()` once for the same things (texts and numbers by value, all else by identity); then the same object."""
        for known, result in self._memo:
            if len(known) == len(things) and all(map(_same, known, things)):
                return result
        result = make()
        self._memo.append((things, result))
        return result


def _same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, (str, int)) and type(one) is type(other) and one == other)


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
    return torch.zeros(allowed.shape, dtype=torch.float32, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(torch.float32).min
    )
