"""DeCo: dynamic correction decoding.                                       arXiv 2410.11779, ICLR 2025

Middle layers often know better what is in the image than the last one says. Among the tokens the last layer finds
likely, the one that a middle layer is surest of marks that layer, and its logits are added:

    C          = smallest set of the most probable tokens of the last layer that reaches top_p, at most top_k
    z_l        = lm_head(norm(h_l)),  l in layers 20-28 of 32
    l*, c*     = arg max over l and c in C of softmax(z_l)(c)
    z(c)      <- z(c) + alpha softmax(z_l*)(c*) z_l*(c)   for c in C,   -inf elsewhere

Where code and paper differ. The official scripts run with alpha 0.6; the README of the same repository lists
0.5, which nothing in it uses (preset "readme"). Indices 20..28 of the code
point into a list that begins with the embeddings, so they are layers counted from 1. The code takes one layer for a whole
batch; ours each sample's own. Outside C the code forbids a token, and so do we: alpha = 0 alone is not the plain
model; `outside="kept"` leaves those tokens their logits. Official code exists for LLaVA-1.5 only.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..interventions.method import DEFAULTS, Method, Preset
from ..parameters import parameter
from .shared import TESTED, layer_range, warn_untested

if TYPE_CHECKING:
    from ..interventions.forward_pass import Generation
    from ..interventions.forward_view import ForwardPass
    from ..models.decoder import AttentionTarget

LAYERS = (20, 28)


@dataclass
class DeCoState:
    """Of one generation: steps that were corrected, and the layer chosen for each sample's first token."""

    corrected: int = 0
    first_layer: Int[Tensor, " b"] | None = None


@dataclass
class DeCoPassState:
    """Of one forward pass: the last row's state after each layer to choose from."""

    early: dict[int, Float[Tensor, "b d"]] = field(default_factory=dict)


@dataclass(frozen=True)
class DeCo(Method):
    """Dynamic correction decoding (arXiv 2410.11779).

    Args:
        alpha: Weight of the chosen layer's logits.
        layers: (first, last) layer to choose from, from 1; None = 20-28 of 32, scaled to the model's depth.
        top_p: Candidates are the last layer's most probable tokens up to this share of the probability ...
        top_k: ... and at most this many.
        outside: Tokens that are no candidates are "cut" or "kept".
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"hidden", "logits"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = TESTED
    elsewhere: ClassVar[str] = "warns"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "any", "official-code", {"alpha": 0.6, "top_p": 0.9, "top_k": 20}),
        Preset("llava-1.5-7b", "readme", "official-readme", {"alpha": 0.5}),
        DEFAULTS,
    )

    alpha: float = parameter(0.6, 0, slider=(0, 2, 0.05))
    layers: tuple[int, int] | None = parameter(None, layers=True, optional=True)
    top_p: float = parameter(0.9, 0, 1)
    top_k: int = parameter(20, 1, whole=True)
    outside: str = parameter("cut", choices=("cut", "kept"))

    @property
    def off(self) -> bool:
        return self.alpha == 0 and self.outside == "kept"

    def active_hooks(self) -> frozenset[str]:
        return frozenset() if self.off else self.hooks

    @property
    def leaves_prefix_alone(self) -> bool:
        return True

    def disabled(self) -> "DeCo":
        return replace(self, alpha=0.0, outside="kept")

    def check(self, target: "AttentionTarget") -> None:
        warn_untested(self, target)
        layer_range(self.layers, LAYERS, target, "blocks")

    def new_state(self) -> DeCoState:
        return DeCoState()

    def new_pass_state(self) -> DeCoPassState:
        return DeCoPassState()

    def hidden_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset() if self.off else frozenset(layer_range(self.layers, LAYERS, target, "blocks"))

    def hidden(self, view: "ForwardPass", layer: int, output: Tensor) -> None:
        view.pass_state.early[layer] = output[:, -1]

    def lm_head(self, view: "ForwardPass", last: Tensor) -> Tensor | None:
        """The layers' states ride along with the last one: the output embedding is read once for all."""
        return torch.cat([last[:, None], view.normed(torch.stack(list(view.pass_state.early.values()), 1))], 1)

    def logits(self, view: "ForwardPass", first: Tensor, second: Tensor | None) -> Tensor:
        assert view.early is not None
        state: DeCoState = view.state
        state.corrected += 1
        tokens, member = candidates(first, self.top_p, self.top_k)
        chosen, sure, own = surest(view.early.float(), tokens, member)
        if view.prompt:
            state.first_layer = chosen + min(view.pass_state.early)
        old = first.gather(1, tokens)
        kept = old if self.outside == "kept" else -torch.inf
        new = torch.where(member, old + self.alpha * sure[:, None] * own, kept)
        start = first if self.outside == "kept" else torch.full_like(first, -torch.inf)
        return start.scatter(1, tokens, new)

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        state: DeCoState = generation.state
        rows = [None] * len(generation.visual.valid) if state.first_layer is None else state.first_layer.tolist()
        return [{"corrected": state.corrected, "first_layer_chosen": row} for row in rows]


def candidates(
    logits: Float[Tensor, "b n"], top_p: float, top_k: int
) -> tuple[Int[Tensor, "b c"], Bool[Tensor, "b c"]]:
    """The top_k most probable tokens, and which of them are needed to reach top_p."""
    shares, tokens = logits.softmax(-1).topk(min(top_k, logits.shape[-1]), dim=-1)
    before = shares.cumsum(-1) - shares
    member = before < top_p
    member[:, 0] = True
    return tokens, member


def surest(
    middle: Float[Tensor, "b l n"], tokens: Int[Tensor, "b c"], member: Bool[Tensor, "b c"]
) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"], Float[Tensor, "b c"]]:
    """Which of the layers gives a candidate the highest probability, that probability, and its logits of candidates."""
    own = middle.gather(-1, tokens[:, None].expand(-1, middle.shape[1], -1))
    shares = (own - middle.logsumexp(-1, keepdim=True)).exp()
    sure, layer = shares.masked_fill(~member[:, None], -1.0).amax(-1).max(-1)
    return layer, sure, own.gather(1, layer[:, None, None].expand(-1, 1, own.shape[-1]))[:, 0]
