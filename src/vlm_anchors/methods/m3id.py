"""M3ID: multi-modal mutual information decoding.                          arXiv 2403.14003, CVPR 2024

The longer an answer grows, the less it depends on the image. What the same prompt says without its image is taken off, a
little more at each token, where the model is not sure of its next token anyway:

    g_t  = exp(-rate (t + offset)),   t = 1, 2, ...                       how much of the image is left at token t
    l*   = l_c + (1 - g_t) / g_t (l_c - l_u)   where max p_c < cut,   l_c elsewhere

l_c, l_u are log-probabilities with and without the image. The branch without the image is the prompt's words alone, as in
PAI.

Where code and paper differ. The authors published no code. rate 0.02, cut 0.3 and the offsets (0 for captions; 10, about the
length of a question, for POPE) are the paper's as others quote them; whether its t begins at 0 or 1 we could not read, so
ours begins at 1, as the program of AvisC's authors does. That program, from which several papers' "M3ID" rows come,
contrasts at every token and adds VCD's plausibility cut instead: `cut=1, beta=0.1`.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..interventions.method import DEFAULTS, Method, Preset
from ..models.families import read_again
from ..parameters import parameter
from .shared import ONLY_ONE_LEFT, Counted, implausible, warn_untested

if TYPE_CHECKING:
    from ..interventions.branch.branch_prompt import Prompt
    from ..interventions.branch.contrastive import BranchInputs
    from ..interventions.branch.model_branch import ModelInputs
    from ..interventions.forward_pass import Generation
    from ..interventions.forward_view import ForwardPass
    from ..models.decoder import AttentionTarget


@dataclass
class M3IDState(Counted):
    """Of one generation: tokens that were corrected, a sample."""

    corrected: Int[Tensor, " b"] | None = None


@dataclass(frozen=True)
class M3ID(Method):
    """Multi-modal mutual information decoding (arXiv 2403.14003).

    Args:
        rate: how fast the image is forgotten, per token; 0 = no contrastive branch.
        cut: a token is corrected where the most probable one has less than this probability; 1 = every token.
        offset: tokens that count as said before the answer begins.
        beta: tokens less probable than this share of the most probable one are left out; 0 = none.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"logits"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = read_again("alone")
    elsewhere: ClassVar[str] = "warns"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "chair", "paper", {"rate": 0.02, "cut": 0.3, "offset": 0}),
        Preset("llava-1.5-7b", "pope", "paper", {"rate": 0.02, "cut": 0.3, "offset": 10}),
        DEFAULTS,
    )
    """The paper's as others quote it; there is no code of the authors."""

    rate: float = parameter(0.02, 0, 1, slider=(0, 0.5, 0.01))
    cut: float = parameter(0.3, 0, 1, slider=(0, 1, 0.05))
    offset: int = parameter(0, 0, 10_000, whole=True)
    beta: float = parameter(0.0, 0, 1, senseless=ONLY_ONE_LEFT)

    @property
    def leaves_prefix_alone(self) -> bool:
        return True

    def active_hooks(self) -> frozenset[str]:
        return self.hooks if (self.rate and self.cut) or self.beta else frozenset()

    def disabled(self) -> "M3ID":
        return replace(self, rate=0.0, beta=0.0)

    def check(self, target: "AttentionTarget") -> None:
        warn_untested(self, target)

    def new_state(self) -> M3IDState:
        return M3IDState()

    def branch(self, prompt: "Prompt") -> "BranchInputs | ModelInputs | None":
        return prompt.without_image() if self.rate and self.cut else None

    def logits(self, view: "ForwardPass", first: Tensor, second: Tensor | None) -> Tensor:
        state: M3IDState = view.state
        state.steps += 1
        mixed = first
        if second is not None:
            state.branch_passes += 1
            mixed = self._corrected(state, first.log_softmax(-1), second.log_softmax(-1))
        return mixed if self.beta == 0 else mixed.masked_fill(implausible(first, self.beta), -torch.inf)

    def _corrected(self, state: M3IDState, with_image: Tensor, without: Tensor) -> Tensor:
        # (1 - g) / g with g = exp(-x) is exp(x) - 1; expm1 keeps its digits where x is small.
        weight = math.expm1(min(self.rate * (state.steps + self.offset), 80.0))
        unsure = with_image.amax(-1) < math.log(self.cut)
        state.corrected = unsure.long() + (0 if state.corrected is None else state.corrected)
        return torch.where(unsure[:, None], with_image + weight * (with_image - without), with_image)

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        state: M3IDState = generation.state
        effects = [state.effects() for _ in generation.visual.valid]
        if state.corrected is None:
            return effects
        return [{**one, "corrected": n} for one, n in zip(effects, state.corrected.tolist(), strict=True)]
