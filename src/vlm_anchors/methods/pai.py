"""PAI: pay attention to image.                                       arXiv 2407.21771, ECCV 2024

The row that chooses the next token attends more to the image, and what a reading without the image would say anyway is
taken off:

    z(last, j)  <-  z(last, j) + alpha |z(last, j)|           j a visual token, layers 3-32 of 32, before the softmax
    log p       <-  gamma (log p - log p_u) + log p_u         p_u: the same prompt without its image
    tokens with p < cut max p are left out

The size of the boost depends on the score itself, so it is added to that one row's scores; no other row changes.

Where code and paper differ. In the official code the boost is missing in the prompt's pass whenever the image-free branch
is on; ours acts there too, `boost_prompt=False` is the code's way (without the branch, gamma = 1, the code boosts there as
well). The README asks for gamma 1.1; the program's own default is 2. The "layer prior" of the paper is a first layer of
3 (2 counted from 0). The cut belongs to the branch, in code and here: with gamma = 1 there is neither.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from ..interventions.attention_view import AttentionEdit, AttentionView
from ..interventions.method import DEFAULTS, Method, Preset
from ..models.families import read_again
from ..parameters import parameter
from .shared import ONLY_ONE_LEFT, Counted, layer_range, warn_untested

if TYPE_CHECKING:
    from ..interventions.branch.branch_prompt import Prompt
    from ..interventions.branch.contrastive import BranchInputs
    from ..interventions.branch.model_branch import ModelInputs
    from ..interventions.forward_pass import Generation
    from ..interventions.forward_view import ForwardPass
    from ..models.decoder import AttentionTarget

LAYERS = (3, 32)


@dataclass(frozen=True)
class PAI(Method):
    """Pay attention to image (arXiv 2407.21771).

    Args:
        alpha: Share of its own size that is added to a score of the newest row on the image; 0 = off.
        gamma: Weight of the image against a reading without it; 1 = no contrastive branch.
        cut: With a branch, tokens less probable than this share of the most probable one are left out; 0 = none.
        layers: (first, last), from 1; None = 3-32 of 32, scaled to the model's depth.
        boost_prompt: Whether the prompt's last row is boosted as well, or only the rows after it.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"attention", "logits"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = read_again("alone")
    elsewhere: ClassVar[str] = "warns"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "any", "official-code", {"alpha": 0.2, "gamma": 1.1, "boost_prompt": False}),
        Preset("llava-1.5-7b", "no-branch", "official-code", {"alpha": 0.2, "gamma": 1.0, "boost_prompt": True}),
        Preset("llava-1.5-7b", "paper", "paper", {"alpha": 0.5, "gamma": 1.1}),
        DEFAULTS,
    )
    """The paper's as a user quotes it in the official repository."""

    alpha: float = parameter(0.2, 0, slider=(0, 1, 0.05))
    gamma: float = parameter(
        1.1,
        0,
        slider=(1, 3, 0.1),
        senseless=(("<", 1, "adds what the model says without the image, which it should take off"),),
    )
    cut: float = parameter(0.1, 0, 1, senseless=ONLY_ONE_LEFT)
    layers: tuple[int, int] | None = parameter(None, layers=True, optional=True)
    boost_prompt: bool = parameter(True)

    @property
    def leaves_prefix_alone(self) -> bool:
        return True

    def active_hooks(self) -> frozenset[str]:
        active_hooks = {"attention"} if self.alpha else set()
        return frozenset(active_hooks | ({"logits"} if self.gamma != 1 else set()))

    def disabled(self) -> "PAI":
        return replace(self, alpha=0.0, gamma=1.0)

    def check(self, target: "AttentionTarget") -> None:
        warn_untested(self, target)
        layer_range(self.layers, LAYERS, target)

    def new_state(self) -> Counted:
        return Counted()

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset(layer_range(self.layers, LAYERS, target)) if self.alpha else frozenset()

    def attention(self, view: AttentionView) -> AttentionEdit | None:
        rows = view.last_rows()
        if rows is not None and not self.boost_prompt:
            return None
        shift = view.plain_scores().abs_() * self._boost(view)
        if rows is not None:
            shift = shift * view.once(lambda: rows[:, None, :, None].to(shift.dtype), "last rows")
        return AttentionEdit(shift=shift, rows=rows)

    def _boost(self, view: AttentionView) -> Tensor:
        """alpha at visual keys, 0 elsewhere, (b, 1, 1, k)."""
        visual = view.visual_keys()
        return view.once(lambda: self.alpha * visual[:, None, None].to(view.dtype), "boost", visual)

    def branch(self, prompt: "Prompt") -> "BranchInputs | ModelInputs | None":
        return prompt.without_image() if self.gamma != 1 else None

    def logits(self, view: "ForwardPass", first: Tensor, second: Tensor | None) -> Tensor:
        if second is None:
            return first
        return view.state.contrast(first.log_softmax(-1), second.log_softmax(-1), self.gamma - 1, self.cut)

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        effects: dict[str, Any] = {"visual_tokens": 0}
        if self.gamma != 1:
            effects["branch_passes"] = generation.state.branch_passes
        return [{**effects, "visual_tokens": sum(counts)} for counts in generation.visual.per_image()]
