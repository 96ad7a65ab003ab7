"""SID: self-introspective decoding.                                       arXiv 2408.02032, ICLR 2025

A second branch sees only the visual tokens that the model itself finds least important. What it says is hallucinated from
context, and is taken off:

    a_j    = mean over heads of A_h(last row, j) in layer l              (j a visual token; l = 2 of 32, in the branch)
    K      = the `keep` visual tokens of lowest a_j, found anew at every step
    after layer l, every row from the first visual token on sees no visual token outside K
    z      = (1 + alpha) z1 - alpha z2,    tokens with p1 < beta max p1 are left out

Where code and paper differ. The paper describes the tokens outside K as dropped; the official code does that only in a form
that its authors mark as unable to use a cache, and runs the other one: their keys are masked, for all rows, after layer l.
Ours does what runs. A prompt gives the same in both forms; at later steps, a token that enters K brings the keys it had under
the prompt's own K. A row that would have nothing left to see (in a prompt that begins with its image) keeps what it saw; the
code's row becomes uniform there. `keep` is 100 of LLaVA-1.5's 576 in the program for POPE and 50 in the one for captions;
None is 100 of 576 of the prompt's visual tokens. The programs pass alpha and beta no further than their own command line, so
the sampler's alpha 0.5 and beta 0.1 hold; 1 and 0.1 is what their command lines say. The code selects for a batch of one; ours
for each sample.
"""

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import AnchorsWarning, CannotAct
from ..interventions.attention_view import AttentionEdit, AttentionView
from ..interventions.method import DEFAULTS, Method, Preset
from ..models.families import read_again
from ..parameters import parameter
from .shared import ONLY_ONE_LEFT, Counted, hiding, refuse_untested, scaled

if TYPE_CHECKING:
    from ..interventions.branch.branch_prompt import Prompt
    from ..interventions.branch.contrastive import BranchInputs
    from ..interventions.forward_pass import Generation
    from ..interventions.forward_view import ForwardPass
    from ..models.decoder import AttentionTarget

LAYER = 2
KEPT, OF = 100, 576


@dataclass
class Least:
    """What the branch did: the tokens that each sample kept first, and how often they were chosen."""

    kept: Int[Tensor, " b"] | None = None
    choices: int = 0


@dataclass
class SIDState(Counted):
    """Of one generation. least: what its branch did; the branch's own state is the same object."""

    least: Least = field(default_factory=Least)


@dataclass
class LeastPassState:
    """Of one forward pass of the branch: visual tokens that are kept, and the bias that hides the others."""

    kept: Bool[Tensor, "b v"] | None = None
    bias: Float[Tensor, "b 1 _r v"] | None = None


@dataclass(frozen=True)
class SID(Method):
    """Self-introspective decoding (arXiv 2408.02032).

    Args:
        alpha: How much of the branch's logits is taken off; 0 = no contrastive branch.
        beta: Tokens less probable than this share of the most probable one are left out; 0 = none.
        layer: The layer, from 1, whose attention chooses the visual tokens that the layers after it may see; None = 2 of 32,
            scaled to the model's depth.
        keep: How many visual tokens each sample's branch keeps; None = 100 of 576 of them, at least 1.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"logits"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = read_again("words")
    elsewhere: ClassVar[str] = "refused"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "pope", "official-code", {"alpha": 0.5, "beta": 0.1, "keep": 100}),
        Preset("llava-1.5-7b", "chair", "official-code", {"alpha": 0.5, "beta": 0.1, "keep": 50}),
        DEFAULTS,
    )

    alpha: float = parameter(1.0, 0, slider=(0, 3, 0.1))
    beta: float = parameter(0.1, 0, 1, slider=(0, 1, 0.05), senseless=ONLY_ONE_LEFT)
    layer: int | None = parameter(None, 1, whole=True, optional=True)
    keep: int | None = parameter(None, 1, whole=True, optional=True)

    def active_hooks(self) -> frozenset[str]:
        return self.hooks if self.alpha or self.beta else frozenset()

    def disabled(self) -> "SID":
        return replace(self, alpha=0.0, beta=0.0)

    def layer_on(self, target: "AttentionTarget") -> int:
        return scaled(LAYER, target.depth) if self.layer is None else self.layer

    def check(self, target: "AttentionTarget") -> None:
        refuse_untested(self, target)
        layer = self.layer_on(target)
        target.require_layer(layer, "layer")
        if layer == target.depth:
            raise CannotAct(
                f"sid hides visual tokens after `layer`, and layer {layer} is the last. Choose an earlier one."
            )

    def kept_of(self, tokens: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """How many of so many visual tokens are kept."""
        if self.keep is not None:
            return torch.full_like(tokens, self.keep)
        return ((tokens * KEPT).float() / OF).round().long().clamp(min=1)

    def new_state(self) -> SIDState:
        return SIDState()

    def branch(self, prompt: "Prompt") -> "BranchInputs | None":
        if not self.alpha:
            return None
        tokens = prompt.view.visual.valid.sum(1)
        if bool(((tokens > 0) & (self.kept_of(tokens) >= tokens)).any()):
            warnings.warn(
                f"sid keeps {self.keep or 1} visual tokens, and a prompt has no more, so its branch hides none there. "
                "Set keep to fewer.",
                AnchorsWarning,
                stacklevel=2,
            )
        state: SIDState = prompt.state
        edit = LeastSeen(self, self.layer_on(prompt.target))
        return prompt.edited(edit, state.least, prompt.rows_from_the_image())

    def logits(self, view: "ForwardPass", first: Tensor, second: Tensor | None) -> Tensor:
        return view.state.contrast(first, second, self.alpha, self.beta)

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        state: SIDState = generation.state
        effects = [state.effects() for _ in generation.visual.valid]
        if state.least.kept is None:
            return effects
        kept, chosen = state.least.kept.tolist(), state.least.choices
        visual = [sum(counts) for counts in generation.visual.per_image()]
        return [
            {**one, "choices": chosen, "visual_tokens": tokens, "kept_tokens": own}
            for one, tokens, own in zip(effects, visual, kept, strict=True)
        ]


@dataclass(frozen=True)
class LeastSeen(Method):
    """The edit of SID's contrastive branch; never attached by itself."""

    hooks: ClassVar[frozenset[str]] = frozenset({"attention"})

    sid: SID = SID()
    layer: int = 1

    def disabled(self) -> "LeastSeen":
        return self

    def new_pass_state(self) -> LeastPassState:
        return LeastPassState()

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset(range(self.layer, target.depth + 1))

    def attention(self, view: AttentionView) -> AttentionEdit | None:
        now: LeastPassState = view.pass_state
        if view.layer > self.layer:
            if now.bias is None:
                now.bias = hiding(view, now.kept)
            return AttentionEdit(bias=now.bias)
        looks = view.at_visual(view.last_row_weights()).mean(1)[:, 0]
        valid = view.visual.valid
        now.kept = least(looks, valid, self.sid.kept_of(valid.sum(1)))
        found: Least = view.state
        found.kept = now.kept.sum(1) if found.kept is None else found.kept
        found.choices += 1
        return None


def least(looks: Float[Tensor, "b v"], valid: Bool[Tensor, "b v"], count: Int[Tensor, " b"]) -> Bool[Tensor, "b v"]:
    """The visual tokens of each sample that are looked at least."""
    rank = looks.masked_fill(~valid, torch.inf).argsort(dim=-1, stable=True).argsort(-1)
    return valid & (rank < count[:, None])
