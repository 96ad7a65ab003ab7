"""DoLa: decoding by contrasting layers.                                   arXiv 2309.03883, ICLR 2024

What a model knows shows where its last layer departs from an early one. Of some early layers, the one that differs most from
the last is taken, and its log-probabilities are taken off:

    z_l   = lm_head(h_l),  l in "low": 0, 2, 4, ... below half the depth, or "high": from half the depth on; 0 = embeddings
    M     = arg max_l JSD(softmax z_N, softmax z_l)
    score = log softmax(z_N) - alpha log softmax(z_M),    tokens with p_N < cut max p_N are left out

A text method: it looks at no image. It is here because papers of this field compare with it. transformers 5 has DoLa only as
code that is fetched from a hub and run (`trust_remote_code`), which this package never does; so it is written out here.

Where code and paper differ. The paper's early logits are read as all others are, through the final norm; the code's, and
transformers' too, without it: `norm=True` is the paper's way. alpha is ours: 1 in both, 0 = off. The code chooses one layer
for a whole batch; ours each sample's own. Of more than 40 layers a bucket has the 20 nearest to its end of the stack. Papers
on LLaVA-1.5 take the low bucket (0, 2, ..., 14).
"""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..interventions.method import DEFAULTS, Method, Preset
from ..parameters import parameter
from .shared import ONLY_ONE_LEFT, TESTED, implausible, warn_untested

if TYPE_CHECKING:
    from ..interventions.forward_pass import Generation
    from ..interventions.forward_view import ForwardPass
    from ..models.decoder import AttentionTarget


@dataclass
class DoLaState:
    """Of one generation: tokens that were contrasted, and the layer chosen for each sample's first one."""

    contrasted: int = 0
    first_layer: Int[Tensor, " b"] | None = None


@dataclass
class DoLaPassState:
    """Of one forward pass: the last row's state after each layer to choose from."""

    early: dict[int, Float[Tensor, "b d"]] = field(default_factory=dict)


@dataclass(frozen=True)
class DoLa(Method):
    """Decoding by contrasting layers (arXiv 2309.03883).

    Args:
        alpha: weight of the early layer; 0 = off, 1 = the paper's.
        bucket: the early layers to choose from, "low" (long answers) or "high" (short ones).
        cut: tokens less probable than this share of the most probable one are left out; 0 = none.
        norm: whether early layers are read through the final norm.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"hidden", "logits"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = TESTED
    elsewhere: ClassVar[str] = "warns"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llama-7b", "any", "official-code", {"bucket": "low", "cut": 0.1}),
        Preset("llama-7b", "short", "official-code", {"bucket": "high", "cut": 0.1}),
        Preset("llama-7b", "paper", "paper", {"norm": True}),
        DEFAULTS,
    )

    alpha: float = parameter(1.0, 0, slider=(0, 2, 0.05))
    bucket: str = parameter("low", choices=("low", "high"))
    cut: float = parameter(0.1, 0, 1, slider=(0, 1, 0.05), senseless=ONLY_ONE_LEFT)
    norm: bool = parameter(False)

    @property
    def leaves_prefix_alone(self) -> bool:
        return True

    def active_hooks(self) -> frozenset[str]:
        return self.hooks if self.alpha else self.hooks - {"hidden"} if self.cut else frozenset()

    def disabled(self) -> "DoLa":
        return replace(self, alpha=0.0, cut=0.0)

    def check(self, target: "AttentionTarget") -> None:
        warn_untested(self, target)

    def new_state(self) -> DoLaState:
        return DoLaState()

    def new_pass_state(self) -> DoLaPassState:
        return DoLaPassState()

    def hidden_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset(bucket_of(self.bucket, target.depth)) - {0} if self.alpha else frozenset()

    def hidden(self, view: "ForwardPass", layer: int, output: Tensor) -> None:
        view.pass_state.early[layer] = output[:, -1]

    def lm_head(self, view: "ForwardPass", last: Tensor) -> Tensor | None:
        """The layers' states are multiplied together with the last one: the output embedding is read once for all."""
        if not self.alpha:
            return None
        layers = bucket_of(self.bucket, view.depth)
        seen = {0: view.embeds[:, -1], **view.pass_state.early}
        early = torch.stack([seen[layer].to(last) for layer in layers], 1)
        return torch.cat([last[:, None], view.normed(early) if self.norm else early], 1)

    def logits(self, view: "ForwardPass", first: Tensor, second: Tensor | None) -> Tensor:
        state: DoLaState = view.state
        state.contrasted += 1
        scores = first
        if self.alpha:
            assert view.early is not None
            late, early = first.log_softmax(-1), view.early.float().log_softmax(-1)
            chosen = divergence(late, early).argmax(1)
            if view.prompt:
                state.first_layer = torch.tensor(bucket_of(self.bucket, view.depth), device=first.device)[chosen]
            scores = late - self.alpha * early.gather(1, chosen[:, None, None].expand(-1, 1, early.shape[-1]))[:, 0]
        return scores if self.cut == 0 else scores.masked_fill(implausible(first, self.cut), -torch.inf)

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        state: DoLaState = generation.state
        rows = [None] * len(generation.visual.valid) if state.first_layer is None else state.first_layer.tolist()
        return [{"contrasted": state.contrasted, "first_layer_chosen": row} for row in rows]


def bucket_of(bucket: str, depth: int) -> list[int]:
    """Every second layer of a half of the stack, from 0 (the embeddings)."""
    half = depth // 2
    if depth > 40:
        return list(range(0, 20, 2) if bucket == "low" else range(depth - 20, depth, 2))
    return list(range(0, half, 2) if bucket == "low" else range(half, depth, 2))


def divergence(late: Float[Tensor, "b v"], early: Float[Tensor, "b l v"]) -> Float[Tensor, "b l"]:
    """Jensen-Shannon divergence of each early layer from the last one, from log-probabilities."""
    late = late[:, None].expand_as(early)
    middle = torch.logaddexp(late, early) - math.log(2)
    one = (late.exp() * (late - middle)).sum(-1)
    return (one + (early.exp() * (early - middle)).sum(-1)) / 2
