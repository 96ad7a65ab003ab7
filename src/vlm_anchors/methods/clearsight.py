"""ClearSight's VAF: visual amplification fusion.                                       arXiv 2503.13107

Text and image meet in the middle layers. There, text rows' attention to the image is amplified and their attention to
the system prompt lowered, by multiplying scores before the softmax:

    z(i, j)  <-  enhance  * z(i, j)     j a visual token
    z(i, j)  <-  suppress * z(i, j)     j before the first visual token        (i: text rows; layers 10-15 of 32)

A score is linear in its key, so the edit is a scaled copy of those keys, seen by text rows only: the cache keeps the
raw ones and no matrix of scores is made.

Where code and paper differ. The official code edits every head; the paper (as we remember it) leaves out heads that look
at the image very little or very much: `heads="selected"`, with `spare` the share of heads left out at each end, per layer
and sample, by their mass on the image. Our `spare` has no official value; it is rounded down to whole heads. A score
below zero is pushed further down by a factor above 1, in code and by default; `negative="raised"` uses
z + (factor - 1) |z| instead. "System" is every key before the first visual token, and "text rows" are found by
position; the code has fixed numbers (35, 611) that hold for one prompt and one image size. A prompt that begins with
its image has no system key, so `suppress` does nothing there and a warning says so. Official code exists for LLaVA-1.5
only, and its layers are 10-15 (9-14 from 0) at any depth, for the 13B model's 40 layers too; ours scale with the depth:
`layers=(10, 15)` is the code's form there.
"""

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import AnchorsWarning, BadParameter, CannotAct
from ..interventions.attention_view import AttentionEdit, AttentionView
from ..interventions.method import DEFAULTS, Method, Preset
from ..parameters import parameter
from .shared import TESTED, layer_range, warn_untested

if TYPE_CHECKING:
    from ..interventions.forward_pass import Generation
    from ..interventions.text_rows import Visual
    from ..models.decoder import AttentionTarget

LAYERS = (10, 15)


@dataclass
class ClearSightState:
    """Of one generation: layers that were edited."""

    layers: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class ClearSight(Method):
    """ClearSight's VAF (arXiv 2503.13107): scores of text rows scaled up on the image, down on the system prompt.

    Args:
        enhance: Factor on scores to visual tokens; 1 = off.
        suppress: Factor on scores to everything before the image; 1 = off.
        layers: (first, last), from 1; None = 10-15 of 32, scaled to the model's depth.
        heads: "all" as in the code, or "selected".
        spare: Share of heads left alone at each end when heads are selected.
        negative: a score below zero is "lowered" by a factor above 1, as in the code, or "raised".
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"attention"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = TESTED
    elsewhere: ClassVar[str] = "warns"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "pope", "official-code", {"enhance": 1.15, "suppress": 0.95}),
        DEFAULTS,
    )

    enhance: float = parameter(
        1.15, 0, slider=(1, 2, 0.05), senseless=(("<", 1, "lowers the attention to the image it should raise"),)
    )
    suppress: float = parameter(
        0.95, 0, slider=(0, 1, 0.05), senseless=((">", 1, "raises the attention to the system prompt it should lower"),)
    )
    layers: tuple[int, int] | None = parameter(None, layers=True, optional=True)
    heads: str = parameter("all", choices=("all", "selected"))
    spare: float = parameter(0.25, 0, 0.49)
    negative: str = parameter("lowered", choices=("lowered", "raised"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads == "all" and self.spare != ClearSight.spare:
            raise BadParameter(
                f"ClearSight.spare leaves heads alone, and heads='all' edits every one; found {self.spare!r}. "
                "Set heads='selected' as well."
            )

    @property
    def off(self) -> bool:
        return self.enhance == 1 and self.suppress == 1

    def active_hooks(self) -> frozenset[str]:
        return frozenset() if self.off else self.hooks

    @property
    def leaves_prefix_alone(self) -> bool:
        return True

    def disabled(self) -> "ClearSight":
        return replace(self, enhance=1.0, suppress=1.0)

    def check(self, target: "AttentionTarget") -> None:
        warn_untested(self, target)
        layer_range(self.layers, LAYERS, target)
        if self.heads == "selected" and not self.off and not self._spared(target.heads):
            raise CannotAct(
                f"clearsight's heads='selected' leaves out no head of this model: spare = {self.spare:g} of {target.heads} heads "
                f"is less than one. Set spare to 1/{target.heads} or more, or heads='all'."
            )

    def check_prompt(self, visual: "Visual") -> None:
        """In a batch padded on the left, the longest prompt shows whether anything stands before its image."""
        begins = (visual.valid & (visual.index == 0)).any()
        if self.suppress != 1 and bool(begins):
            rest = ", and nothing is changed, as enhance is 1" if self.enhance == 1 else ""
            warnings.warn(
                f"A prompt begins with its image, so clearsight's suppress = {self.suppress:g} finds no key before it{rest}. "
                "Put a system prompt before the image, or set suppress=1.",
                AnchorsWarning,
                stacklevel=2,
            )

    def new_state(self) -> ClearSightState:
        return ClearSightState()

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset() if self.off else frozenset(layer_range(self.layers, LAYERS, target))

    def attention(self, view: AttentionView) -> AttentionEdit | None:
        state: ClearSightState = view.state
        state.layers.add(view.layer)
        factors = self._factors(view)
        if self.heads == "all" and self.negative == "lowered":
            return AttentionEdit(key=view.key * factors[:, None, :, None])
        scores = view.plain_scores()
        shift = (scores if self.negative == "lowered" else scores.abs()) * (factors - 1)[:, None, None]
        if self.heads == "selected":
            shift = shift * self._selected(view)[:, :, None, None].to(shift.dtype)
        return AttentionEdit(shift=shift)

    def _factors(self, view: AttentionView) -> Float[Tensor, "b k"]:
        """What each key's scores are multiplied by."""

        def make() -> Tensor:
            factors = torch.ones(view.key.shape[0], view.key.shape[2], dtype=view.dtype, device=view.key.device)
            factors = factors.masked_fill(view.visual_keys(), self.enhance)
            return factors.masked_fill(view.keys_before(), self.suppress)

        return view.once(make, "factors", view.visual_keys())

    def _selected(self, view: AttentionView) -> Bool[Tensor, "b h"]:
        """Heads whose mass on the image, averaged over the text rows, is neither among the lowest nor the highest."""
        mass = view.row_mean(view.weights().sum(-1))[..., -1]
        left = self._spared(mass.shape[1])
        rank = mass.argsort(-1).argsort(-1)
        return (rank >= left) & (rank < mass.shape[1] - left)

    def _spared(self, heads: int) -> int:
        """How many of so many heads are left alone at each end."""
        return int(self.spare * heads + 1e-9)

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        state: ClearSightState = generation.state
        effects = {"layers": sorted(state.layers), "visual_tokens": 0}
        return [{**effects, "visual_tokens": sum(counts)} for counts in generation.visual.per_image()]
