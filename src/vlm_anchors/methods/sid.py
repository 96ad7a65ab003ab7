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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import AnchorsWarning, CannotAct
from ..interventions.attention_view import AttentionView, Edit
from ..interventions.method import DEFAULTS, Method, Preset, number
from ..models.families import read_again
from .shared import contrasts, counted_contrast, refuse_untested, scaled

if TYPE_CHECKING:
    from ..interventions.branch_prompt import Prompt
    from ..interventions.contrastive import BranchInputs
    from ..interventions.forward_pass import GenerationState
    from ..interventions.hooks import ForwardPass
    from ..models.decoder import AttentionTarget

LAYER = 2
KEPT, OF = 100, 576
FOUND = "sid"
"""Where a generation's memory, and its branch's, hold what the branch did."""


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

    alpha: float = 1.0
    beta: float = 0.1
    layer: int | None = None
    keep: int | None = None

    def __post_init__(self):
        number(self, "alpha", 0)
        number(self, "beta", 0, 1)
        for name in ("layer", "keep"):
            if getattr(self, name) is not None:
                number(self, name, 1, whole=True)

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
        return (tokens * KEPT / OF).round().long().clamp(min=1)

    def second(self, prompt: "Prompt") -> "BranchInputs | None":
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
        prompt.memory[FOUND] = {}
        return prompt.edited(LeastSeen(self, self.layer_on(prompt.target)), prompt.rows_from_the_image())

    def logits(self, view: "ForwardPass", first: Tensor, second: Tensor | None) -> Tensor:
        return counted_contrast(view.memory, first, second, self.alpha, self.beta)

    def effects(self, generation: "GenerationState") -> list[dict[str, Any]]:
        effects, found = contrasts(generation), generation.memory.get(FOUND)
        if not found:
            return effects
        kept, chosen = found["kept"].tolist(), found["choices"]
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

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset(range(self.layer, target.depth + 1))

    def attention(self, view: AttentionView) -> Edit | None:
        if view.layer > self.layer:
            return Edit(bias=view.keep("hidden", lambda: self._hiding(view)))
        looks = view.at_visual(view.last_row_weights()).mean(1)[:, 0]
        valid = view.visual.valid
        view.kept["least"] = kept = least(looks, valid, self.sid.kept_of(valid.sum(1)))
        found = view.memory[FOUND]
        found.setdefault("kept", kept.sum(1))
        found["choices"] = found.get("choices", 0) + 1
        return None

    def _hiding(self, view: AttentionView) -> Float[Tensor, "b 1 _r v"]:
        """The lowest number at visual tokens that are not kept. A row with nothing else to see is left alone."""
        outside = view.visual.valid & ~view.kept["least"]
        lowest = torch.finfo(view.dtype).min
        bias = torch.zeros_like(outside, dtype=torch.float32).masked_fill(outside, lowest)[:, None, None]
        if view.row_mask is None:
            return bias
        index, valid = view.columns
        hidden = torch.zeros(view.key.shape[0], view.key.shape[2], dtype=torch.int8, device=index.device)
        hidden = hidden.scatter_add(1, index, (outside & valid).to(torch.int8)).bool()
        seen = view.row_mask > torch.finfo(view.row_mask.dtype).min / 2
        return bias.where((seen & ~hidden[:, None, None]).any(-1, keepdim=True), 0.0)


def least(looks: Float[Tensor, "b v"], valid: Bool[Tensor, "b v"], count: Int[Tensor, " b"]) -> Bool[Tensor, "b v"]:
    """The visual tokens of each sample that are looked at least."""
    rank = looks.masked_fill(~valid, torch.inf).argsort(dim=-1, stable=True).argsort(-1)
    return valid & (rank < count[:, None])
