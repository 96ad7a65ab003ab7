"""VISTA: visual information steering with token-logit augmentation.                      arXiv 2502.03628, ICML 2025

What the image adds to the last token's state is measured once a prompt, and every layer's MLP is steered towards it; the
logits of late middle layers are mixed into the last one's:

    v_l   = h_l(prompt) - h_l(prompt without its image)                        last token, after layer l
    x    <- |x| normalise( x / |x| + lam (1 + max(0, cos(x, -v_l))) v_l / |v_l| )    x: output of layer l's MLP, all rows
    z    <- (1 - mix) z + mix mean over layers 26-31 of 32 of lm_head(h_l)

Where code and paper differ. The official code takes the principal component of the one difference there is, whose remainder
is zero; what its decomposition of zero adds is 1 to the first coordinate of layer 1's vector, and nothing else. `pca=True`
does the same, and the official presets have it; by default v_l is the plain difference. Its early logits skip the final norm
and so do ours (`norm=True` applies it, as DeCo does). Its lam differs from task to task: 0.17 for captions, 0.01 for POPE,
0.1 for MMHal. After the last layer, v_l is taken before the final norm. Costs two more prefills a prompt.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..interventions.method import DEFAULTS, Method, Preset
from ..models.families import read_again
from ..parameters import parameter
from .shared import layer_range, refuse_untested, warn_untested

if TYPE_CHECKING:
    from ..interventions.branch.branch_prompt import Prompt
    from ..interventions.forward_pass import Generation
    from ..interventions.forward_view import ForwardPass
    from ..models.decoder import AttentionTarget

LAYERS = (26, 31)


@dataclass
class VISTAState:
    """Of one generation: each layer's steering direction, its mean length before it was made one, and what was done."""

    directions: Float[Tensor, "b l d"] | None = None
    length: Float[Tensor, " b"] | None = None
    steered: int = 0
    mixed: int = 0


@dataclass
class VISTAPassState:
    """Of one forward pass: the last row's state after each late layer, and whether steering was counted."""

    late: list[Float[Tensor, "b d"]] = field(default_factory=list)
    steered: bool = False


@dataclass(frozen=True)
class VISTA(Method):
    """Visual information steering (arXiv 2502.03628).

    Args:
        lam: Strength of steering; 0 = off.
        mix: Weight of the late layers' logits; 0 = off.
        layers: (first, last) layer whose logits are mixed in, from 1; None = 26-31 of 32, scaled to the model's
            depth.
        norm: Whether those pass the final norm.
        pca: Whether 1 is added to the first coordinate of layer 1's difference, as the official code does.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"hidden", "mlp", "logits"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = read_again("words")
    elsewhere: ClassVar[str] = "refused"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "chair", "official-code", {"lam": 0.17, "mix": 0.3, "pca": True}),
        Preset("llava-1.5-7b", "pope", "official-code", {"lam": 0.01, "mix": 0.3, "pca": True}),
        Preset("llava-1.5-7b", "mmhal", "official-code", {"lam": 0.1, "mix": 0.3, "pca": True}),
        DEFAULTS,
    )

    lam: float = parameter(0.1, 0, slider=(0, 1, 0.01))
    mix: float = parameter(0.3, 0, 1, slider=(0, 1, 0.05))
    layers: tuple[int, int] | None = parameter(None, layers=True, optional=True)
    norm: bool = parameter(False)
    pca: bool = parameter(False)

    def active_hooks(self) -> frozenset[str]:
        return self.hooks if self.lam or self.mix else frozenset()

    def disabled(self) -> "VISTA":
        return replace(self, lam=0.0, mix=0.0)

    def check(self, target: "AttentionTarget") -> None:
        refuse_untested(self, target)
        warn_untested(self, target)
        layer_range(self.layers, LAYERS, target, "blocks")

    def new_state(self) -> VISTAState:
        return VISTAState()

    def new_pass_state(self) -> VISTAPassState:
        return VISTAPassState()

    def hidden_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset(layer_range(self.layers, LAYERS, target, "blocks")) if self.mix else frozenset()

    def mlp_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset(range(1, target.blocks + 1)) if self.lam else frozenset()

    def begin(self, prompt: "Prompt") -> None:
        if not self.lam:
            return
        prompt.need_one_piece()
        seen = prompt.last_outputs(prompt.as_prompted())
        without_image = prompt.last_outputs(prompt.without_image())
        change = (seen - without_image).float()
        if self.pca:
            change[:, 0, 0] += 1
        length = change.norm(dim=-1)
        prompt.state.directions = torch.nn.functional.normalize(change, dim=-1)
        prompt.state.length = length.mean(-1)

    def mlp(self, view: "ForwardPass", layer: int, inputs: Tensor, output: Tensor) -> Tensor | None:
        if not view.pass_state.steered:
            view.pass_state.steered = True
            view.state.steered += 1
        return steered(output, view.state.directions[:, layer - 1], self.lam)

    def hidden(self, view: "ForwardPass", layer: int, output: Tensor) -> None:
        view.pass_state.late.append(output[:, -1])

    def lm_head(self, view: "ForwardPass", last: Tensor) -> Tensor | None:
        """The output embedding is linear: means and mixtures of logits are made before it, and it is read once."""
        if not self.mix:
            return None
        view.state.mixed += 1
        late = torch.stack(view.pass_state.late, 1)
        late = view.normed(late) if self.norm else late
        return last.float().lerp(late.float().mean(1), self.mix).to(last.dtype)[:, None]

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        state: VISTAState = generation.state
        effects: list[dict[str, Any]] = [{"mixed": state.mixed} if self.mix else {} for _ in generation.visual.valid]
        if state.length is not None:
            for one, row in zip(effects, state.length.tolist(), strict=True):
                one |= {"steered": state.steered, "steering_vector": round(row, 4)}
        return effects


def steered(x: Float[Tensor, "b q d"], direction: Float[Tensor, "b d"], lam: float) -> Float[Tensor, "b q d"]:
    """x turned towards a unit direction, its length kept; more where it points away."""
    wide, along = x.float(), direction[:, None]
    length = wide.norm(dim=-1, keepdim=True)
    # Everything is multiplied by |x|, which the normalisation takes off again.
    weight = torch.maximum(length, torch.baddbmm(length, wide, direction[..., None], alpha=-1))
    turned = torch.addcmul(wide, weight, along, value=lam)
    return (turned * (length / turned.norm(dim=-1, keepdim=True).clamp(min=1e-30))).to(x.dtype)
