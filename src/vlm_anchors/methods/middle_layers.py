"""Heads-guided attention of the middle layers ("Devils in Middle Layers").          arXiv 2411.16724, CVPR 2025

Hallucinated words come from heads of the middle layers that look at different objects. In these layers the row that chooses
the next token looks where the heads look on average, whatever the head:

    z_h(last, j)  <-  z_h(last, j) + alpha mean_h' |z_h'(last, j)|        j a visual token, before the softmax

The term is the same for every head, so it is one addition to that row's scores; no other row changes.

Where code and paper differ. The paper names layers 5-18 of LLaVA-1.5-7B. The script (`--guide-range 5,18`) counts from 0 and
includes the last, which is 6-19 counted from 1, and so is our default; the function behind it, called with (5, 18) as the
README shows, leaves out the last: `layers=6-18`. Its evaluation uses PAI's prompt, 512 tokens, greedy. The code writes image
positions down for one template and takes batch 1; ours finds them in each row.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from ..interventions.attention_view import AttentionEdit, AttentionView
from ..interventions.method import DEFAULTS, Method, Preset
from ..parameters import parameter
from .shared import TESTED, layer_range, warn_untested

if TYPE_CHECKING:
    from ..interventions.forward_pass import Generation
    from ..models.decoder import AttentionTarget

LAYERS = (6, 19)


@dataclass(frozen=True)
class MiddleLayers(Method):
    """Heads-guided attention of the middle layers (arXiv 2411.16724).

    Args:
        alpha: weight of the heads' mean score on a visual token; 0 = off.
        layers: (first, last), from 1; None = 6-19 of 32, scaled to the model's depth.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"attention"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = TESTED
    elsewhere: ClassVar[str] = "warns"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "any", "official-code", {"alpha": 0.5}),
        DEFAULTS,
    )

    alpha: float = parameter(0.5, 0, slider=(0, 2, 0.05))
    layers: tuple[int, int] | None = parameter(None, layers=True, optional=True)

    @property
    def leaves_prefix_alone(self) -> bool:
        return True

    def active_hooks(self) -> frozenset[str]:
        return self.hooks if self.alpha else frozenset()

    def disabled(self) -> "MiddleLayers":
        return replace(self, alpha=0.0)

    def check(self, target: "AttentionTarget") -> None:
        warn_untested(self, target)
        layer_range(self.layers, LAYERS, target)

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset(layer_range(self.layers, LAYERS, target)) if self.alpha else frozenset()

    def attention(self, view: AttentionView) -> AttentionEdit | None:
        shift = view.plain_scores().abs_().mean(1, keepdim=True) * self._weight(view)
        return AttentionEdit(shift=shift, rows=view.last_rows())

    def _weight(self, view: AttentionView) -> Tensor:
        """alpha at visual keys of the row that chooses the next token, 0 elsewhere, (b, 1, r or 1, k)."""
        visual = view.visual_keys()

        def make() -> Tensor:
            weight, rows = self.alpha * visual[:, None, None].to(view.dtype), view.last_rows()
            return weight if rows is None else weight * rows[:, None, :, None].to(view.dtype)

        return view.once(make, "middle layers", visual)

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        return [{"visual_tokens": sum(counts)} for counts in generation.visual.per_image()]
