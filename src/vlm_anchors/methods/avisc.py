"""AvisC: attentional vision calibration.                                  arXiv 2405.17820

Some visual tokens draw much attention whatever is asked ("blind" tokens). A second branch sees those alone; what it says
does not come from the rest of the image, and is taken off:

    a_l(j)   = mean over heads of A_h(last row of the prompt, j) in layer l        (j a visual token)
    s_l      = sum_j a_l(j) / sum over layers and j
    L        = the fewest layers, largest s_l first, whose s_l reach gamma;   a(j) = mean over L of a_l(j)
    v'_j     = v_j  if a(j) >= mean + lam sigma of a over the visual tokens,  else 0         (embeddings the decoder reads)
    z        = (1 + alpha) z(v) - alpha z(v'),    tokens with p < beta max p are left out

Where code and paper differ. The blind tokens are found once, with the prompt, in the official code and here. sigma is that of
a sample (n - 1 in the denominator). The code can fill with ones or noise as well; its scripts use zeros, ours has "zeros" and
"ones". It stands for a branch whose logits are NaN with the first branch's; ours raises. Its scripts for POPE and MME have the
method switched off as shipped, with the values that the presets quote; the one for AMBER has it on. The programs' own default
of lam differs (0.99, 0.95, 100), and the scripts set 1. One image at fixed positions (35 to 610) is read there; ours
takes all visual tokens of a sample. Where the decoder reads a Q-Former's queries, those are the visual tokens, there and here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..interventions.attention_view import AttentionEdit, AttentionView
from ..interventions.method import DEFAULTS, Method, Preset
from ..models.families import read_again
from ..parameters import INF, parameter
from .shared import ONLY_ONE_LEFT, Counted, refuse_untested

if TYPE_CHECKING:
    from ..interventions.branch.branch_prompt import Prompt
    from ..interventions.branch.contrastive import BranchInputs
    from ..interventions.forward_pass import Generation
    from ..interventions.forward_view import ForwardPass
    from ..models.decoder import AttentionTarget

FILL = {"zeros": 0.0, "ones": 1.0}


@dataclass
class AvisCState(Counted):
    """Of one generation: blind tokens of each sample, and how many layers were averaged to find them."""

    blind: Int[Tensor, " b"] | None = None
    layers: Int[Tensor, " b"] | None = None


@dataclass
class AvisCPassState:
    """Of one forward pass: the last row's attention to the image in each layer."""

    looks: list[Float[Tensor, "b v"]] = field(default_factory=list)


@dataclass(frozen=True)
class AvisC(Method):
    """Attentional vision calibration (arXiv 2405.17820).

    Args:
        alpha: How much of the logits of the blind tokens alone is taken off; 0 = no contrastive branch.
        beta: Tokens less probable than this share of the most probable one are left out; 0 = none.
        gamma: Share of all attention to the image that the layers which are averaged hold together, in [0, 1].
        lam: How many standard deviations above the mean a visual token's attention must be for it to be blind.
        fill: What the other visual tokens become in the branch, "zeros" or "ones".
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"attention", "logits"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = read_again("words")
    elsewhere: ClassVar[str] = "refused"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "pope", "official-code", {"alpha": 1.0, "beta": 0.1, "gamma": 0.5, "lam": 1.0}),
        Preset("llava-1.5-7b", "amber", "official-code", {"alpha": 2.5, "beta": 0.1, "gamma": 0.5, "lam": 1.0}),
        Preset("instructblip-7b", "mme", "official-code", {"alpha": 1.0, "beta": 0.1, "gamma": 0.5, "lam": 1.0}),
        DEFAULTS,
    )

    alpha: float = parameter(1.0, 0, slider=(0, 3, 0.1))
    beta: float = parameter(0.1, 0, 1, slider=(0, 1, 0.05), senseless=ONLY_ONE_LEFT)
    gamma: float = parameter(0.5, 0, 1)
    lam: float = parameter(
        1.0, -INF, slider=(0, 3, 0.1), senseless=(("<", 0, "takes tokens of less than mean attention for outliers"),)
    )
    fill: str = parameter("zeros", choices=tuple(FILL))

    @property
    def leaves_prefix_alone(self) -> bool:
        return True

    def active_hooks(self) -> frozenset[str]:
        return self.hooks if self.alpha else self.hooks - {"attention"} if self.beta else frozenset()

    def disabled(self) -> "AvisC":
        return replace(self, alpha=0.0, beta=0.0)

    def check(self, target: "AttentionTarget") -> None:
        refuse_untested(self, target)

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset(range(1, target.depth + 1)) if self.alpha else frozenset()

    def attention(self, view: AttentionView) -> AttentionEdit | None:
        if view.rows.index is not None:
            looks = view.at_visual(view.last_row_weights()).mean(1)[:, 0]
            view.pass_state.looks.append(looks)
        return None

    def new_state(self) -> AvisCState:
        return AvisCState()

    def new_pass_state(self) -> AvisCPassState:
        return AvisCPassState()

    def branch(self, prompt: "Prompt") -> "BranchInputs | None":
        if not self.alpha:
            return None
        return replace(
            prompt.as_prompted(), late_embeds=partial(self._blind_alone, prompt.view, prompt.filler(FILL[self.fill]))
        )

    def _blind_alone(self, view: "ForwardPass", fill: Callable[[Tensor], Tensor]) -> Float[Tensor, "b q d"]:
        """The prompt as the branch reads it, once the first branch's attention to the image is known."""
        valid = view.visual.valid
        blind, layers = blind_tokens(torch.stack(view.pass_state.looks, 1), valid, self.gamma, self.lam)
        view.state.blind, view.state.layers = blind.sum(1), layers
        return fill(valid & ~blind)

    def logits(self, view: "ForwardPass", first: Tensor, second: Tensor | None) -> Tensor:
        return view.state.contrast(first, second, self.alpha, self.beta)

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        state: AvisCState = generation.state
        effects: list[dict[str, Any]] = [dict(state.effects()) for _ in generation.visual.valid]
        if state.blind is None or state.layers is None:
            return effects
        visual = [sum(counts) for counts in generation.visual.per_image()]
        found = zip(effects, visual, state.blind.tolist(), state.layers.tolist(), strict=True)
        return [{**one, "visual_tokens": n, "blind_tokens": m, "layers_averaged": k} for one, n, m, k in found]


def blind_tokens(
    looks: Float[Tensor, "b l v"], valid: Bool[Tensor, "b v"], gamma: float, lam: float
) -> tuple[Bool[Tensor, "b v"], Tensor]:
    """Visual tokens that draw outlying attention, and how many layers were averaged to find them.

    Args:
        looks: Attention of the prompt's last row to each visual token, mean over heads, for each layer; 0 at filling.
        valid: Which visual tokens there are.
        gamma: Share of the attention that the averaged layers hold.
        lam: Standard deviations above the mean.
    """
    mass = looks.sum(-1)
    share, order = (mass / mass.sum(-1, keepdim=True)).sort(dim=-1, descending=True, stable=True)
    count = (share.cumsum(-1) < gamma).sum(-1) + 1
    chosen = (order.argsort(-1) < count[:, None]).to(looks.dtype)
    count = chosen.sum(-1)
    drawn = (looks * chosen[..., None]).sum(1) / count[:, None]
    tokens = valid.sum(1, keepdim=True)
    mean = drawn.sum(1, keepdim=True) / tokens.clamp(min=1)
    variance = ((drawn - mean) * valid).square().sum(1, keepdim=True) / (tokens - 1).clamp(min=1)
    return valid & (drawn >= mean + lam * variance.sqrt()), count.long()
