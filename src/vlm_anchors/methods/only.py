"""ONLY: one-layer intervention.                                            arXiv 2507.00898, ICCV 2025

One extra output is made from the heads of one layer that lean on text, in one pass. It is added where it agrees with the
model and taken off where it does not:

    A'_h     = A_h(last row) without text weights above mean + sigma of the text's, and image weights above the image's
    r_h      = H(A'_h on text) / H(A'_h on image)            entropies of each part normalised;  layer l = 1
    o        = output projection of [ A'_h V_h  if r_h >= mean over heads of r,  else 0 ]
    y        = residual h + N(o),    y <- y + MLP(N'(y))      h: input of the last layer; N, MLP, N' are the last layer's
    z'       = lm_head( norm(y) + final norm(h_last) )
    d        = sum |softmax z - softmax z'|
    z       <- z + add z'  if d < gamma,    else (1 + subtract) z - subtract z';   tokens with p < beta max p are left out

Only the row that chooses the next token is computed: no other row of the extra output is read.

Where code and paper differ. All of this is the official code's; what the paper calls the layer's text-enhanced logits it makes
by way of the last layer, with residual 0.2 and final 0.5, which are parameters here. The first token of the prompt, where it is
no visual one, keeps its weight and counts for neither side. The code for InstructBLIP skips N (`norm=False`) and takes the
prompt's weights without their causal mask, which the last row does not notice. d has no factor 1/2, and is summed over a batch;
ours is each sample's. The distance is called Jensen-Shannon in the code's parameters (`js_gamma`) and computed as above. The
positions of image and text are fixed numbers there and each prompt's own here.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import CannotAct
from ..interventions.attention_view import AttentionEdit, AttentionView
from ..interventions.hooks import layers_of
from ..interventions.method import DEFAULTS, Method, Preset
from ..parameters import name_of, parameter
from .shared import ONLY_ONE_LEFT, implausible

if TYPE_CHECKING:
    from ..interventions.forward_pass import Generation
    from ..interventions.forward_view import ForwardPass
    from ..models.decoder import AttentionTarget

FAMILIES = (
    "llava", "llava-next", "llava-onevision", "qwen2-vl", "qwen2.5-vl", "qwen3-vl", "internvl", "idefics3", "smolvlm",
    "mistral3", "instructblip",
)  # fmt: skip
"""Their layers are Llama's: a norm before attention, one before the MLP, and none after either."""
PARTS = ("input_layernorm", "post_attention_layernorm", "mlp")
TINY = 1e-6


@dataclass
class ONLYState:
    """Of one generation: steps, those in which the extra logits were added, and heads that lean on text at first."""

    steps: int = 0
    added: Int[Tensor, " b"] | None = None
    heads: Int[Tensor, " b"] | None = None


@dataclass
class ONLYPassState:
    """Of one forward pass: heads that lean on text, their output, and what enters the last layer, of the last row."""

    heads: Int[Tensor, " b"] | None = None
    output: Float[Tensor, "b d"] | None = None
    entering: Float[Tensor, "b d"] | None = None


@dataclass(frozen=True)
class ONLY(Method):
    """One-layer intervention (arXiv 2507.00898).

    Args:
        add: Weight of the extra logits where they are close to the model's.
        subtract: How much of the extra logits is taken off where they are not.
        gamma: Distance of the two distributions, in [0, 2], from which they are not close.
        beta: Tokens less probable than this share of the most probable one are left out; 0 = none.
        layer: The layer, from 1, whose heads make the extra output.
        residual: Weight of the last layer's input in it.
        final: Weight of the model's own final state in it.
        norm: Whether the heads' output passes the last layer's first norm.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"attention", "hidden", "logits"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = FAMILIES
    elsewhere: ClassVar[str] = "refused"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "pope", "official-code", {"add": 3.0, "subtract": 1.0, "beta": 0.1, "gamma": 0.2}),
        Preset("llava-1.5-7b", "chair", "official-code", {"add": 3.0, "subtract": 1.0, "beta": 0.1, "gamma": 0.25}),
        Preset("instructblip-7b", "mme", "official-code", {"beta": 0.4, "gamma": 0.25, "norm": False}),
        Preset("instructblip-7b", "any", "official-code", {"beta": 0.1, "gamma": 0.2, "norm": False}),
        DEFAULTS,
    )

    add: float = parameter(3.0, 0, slider=(0, 5, 0.1))
    subtract: float = parameter(1.0, 0, slider=(0, 3, 0.1))
    gamma: float = parameter(0.2, 0, slider=(0, 2, 0.05))
    beta: float = parameter(0.1, 0, 1, senseless=ONLY_ONE_LEFT)
    layer: int = parameter(1, 1, whole=True)
    residual: float = parameter(0.2, 0)
    final: float = parameter(0.5, 0)
    norm: bool = parameter(True)

    @property
    def leaves_prefix_alone(self) -> bool:
        return True

    def active_hooks(self) -> frozenset[str]:
        if self.add or self.subtract:
            return self.hooks
        return frozenset({"logits"}) if self.beta else frozenset()

    def disabled(self) -> "ONLY":
        return replace(self, add=0.0, subtract=0.0, beta=0.0)

    def check(self, target: "AttentionTarget") -> None:
        if target.family.name not in self.families:
            raise CannotAct(
                f"{name_of(self)} makes its extra output with layers like Llama's, which is tested on "
                f"{', '.join(self.families)}; on {target.family.title} it is not. Use a model of one of these, or another method."
            )
        target.require_layer(self.layer, "layer")
        if self.layer == target.depth:
            raise CannotAct(
                f"only's extra output goes through the last layer after `layer`, and layer {self.layer} is the last. "
                "Choose an earlier one."
            )
        layers = layers_of(target)
        if not all(hasattr(layers[-1], part) for part in PARTS) or _projection(layers[self.layer - 1]) is None:
            raise CannotAct(
                f"only needs a layer with {', '.join(PARTS)} and self_attn.o_proj, and {type(layers[-1]).__name__} is another. "
                "Use another method."
            )

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset({self.layer}) if self.add or self.subtract else frozenset()

    def hidden_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset({target.depth - 1}) if self.add or self.subtract else frozenset()

    def new_state(self) -> ONLYState:
        return ONLYState()

    def new_pass_state(self) -> ONLYPassState:
        return ONLYPassState()

    def attention(self, view: AttentionView) -> AttentionEdit | None:
        weights = view.last_row_weights()
        image = view.visual_keys()
        real = view.last_row_keys()
        first = real & (real.cumsum(1) == 1) & ~image
        text_heavy, heads = from_text(weights, real & ~image & ~first, image)
        view.pass_state.heads = heads.sum(1)
        view.pass_state.output = view.weighted(text_heavy).flatten(1)
        return None

    def hidden(self, view: "ForwardPass", layer: int, output: Tensor) -> None:
        view.pass_state.entering = output[:, -1]

    def lm_head(self, view: "ForwardPass", last: Tensor) -> Tensor | None:
        if not (self.add or self.subtract):
            return None
        layers = layers_of(view.target)
        projection, final = _projection(layers[self.layer - 1]), layers[-1]
        assert projection is not None
        extra = projection(view.pass_state.output.to(last.dtype))
        extra = final.input_layernorm(extra) if self.norm else extra
        extra = self.residual * view.pass_state.entering + extra
        # Not by a call: hooks on the MLP are for the model's own rows.
        extra = extra + final.mlp.forward(final.post_attention_layernorm(extra)[:, None])[:, 0]
        return torch.stack([last, view.normed(extra) + self.final * last], 1)

    def logits(self, view: "ForwardPass", first: Tensor, second: Tensor | None) -> Tensor:
        state: ONLYState = view.state
        state.steps += 1
        mixed = first
        if view.early is not None:
            extra = view.early[:, 0].float()
            close = (first.softmax(-1) - extra.softmax(-1)).abs().sum(-1) < self.gamma
            if view.prompt:
                state.heads = view.pass_state.heads
            state.added = close.long() + (0 if state.added is None else state.added)
            near, far = first + self.add * extra, extra.lerp(first, 1 + self.subtract)
            mixed = torch.where(close[:, None], near, far)
        return mixed if self.beta == 0 else mixed.masked_fill(implausible(first, self.beta), -torch.inf)

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        state: ONLYState = generation.state
        steps = state.steps
        if state.added is None or state.heads is None:
            return [{"steps": steps} for _ in generation.visual.valid]
        return [
            {"steps": steps, "added": n, "subtracted": steps - n, "text_heads": m}
            for n, m in zip(state.added.tolist(), state.heads.tolist(), strict=True)
        ]


def _projection(layer: nn.Module) -> nn.Module | None:
    """What an attention layer multiplies its heads' outputs by."""
    return getattr(getattr(layer, "self_attn", None), "o_proj", None)


def from_text(
    weights: Float[Tensor, "b h 1 k"], text: Bool[Tensor, "b k"], image: Bool[Tensor, "b k"]
) -> tuple[Float[Tensor, "b h 1 k"], Bool[Tensor, "b h"]]:
    """The weights of heads that lean on text, outliers set to 0 and other heads too; and which heads these are."""
    inside = [member[:, None, None] for member in (text, image)]
    entropies = []
    for member in inside:
        weights = weights.masked_fill(member & (weights > _threshold(weights, member)), 0)
        entropies.append(_entropy(weights * member))
    on_text, on_image = entropies
    ratio = on_text.nan_to_num(nan=0.0) / on_image.nan_to_num(nan=torch.inf)
    heads = ratio >= ratio.mean(1, keepdim=True)
    return weights * heads[..., None, None], heads


def _threshold(weights: Float[Tensor, "b h 1 k"], member: Bool[Tensor, "b 1 1 k"]) -> Float[Tensor, "b h 1 1"]:
    """Mean plus standard deviation (n - 1 in the denominator) over the members of a row."""
    number_of = member.sum(-1, keepdim=True)
    mean = (weights * member).sum(-1, keepdim=True) / number_of
    variance = ((weights - mean) * member).square().sum(-1, keepdim=True) / (number_of - 1)
    return mean + variance.sqrt()


def _entropy(weights: Float[Tensor, "b h 1 k"]) -> Float[Tensor, "b h"]:
    """Entropy of a row's weights, normalised; NaN where there are none."""
    shares = weights / weights.sum(-1, keepdim=True)
    return -(shares * (shares + TINY).log()).sum(-1)[..., 0]
