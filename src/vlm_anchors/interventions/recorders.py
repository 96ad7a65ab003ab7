"""What can be recorded of attention while a model runs, after the method that edits it: `attach(..., recorder=...)`."""

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from .attention_view import AttentionEdit, AttentionView


@dataclass
class Shares:
    """A watcher for `attach(..., watch=Shares())`. Read `table()` after the run.

    Each layer's share is the mean over heads and over the prompt's text rows (or, of a decoding step, its one row) of
    the attention mass on visual tokens, in [0, 1].
    """

    rows: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)

    def see(self, view: AttentionView, edit: AttentionEdit | None) -> None:
        before = _share(view, view.weights())
        after = before if edit is None else _share(view, view.edited_weights(edit))
        self.rows.append((view.layer, before, after))

    def table(self, sample: int = 0) -> list[dict[str, float]]:
        """One dictionary a layer: layer (from 1), before, after; averaged over the passes that were seen."""
        layers: dict[int, list[tuple[float, float]]] = {}
        for layer, before, after in self.rows:
            layers.setdefault(layer, []).append((float(before[sample]), float(after[sample])))
        return [
            {
                "layer": layer,
                "before": sum(b for b, _ in seen) / len(seen),
                "after": sum(a for _, a in seen) / len(seen),
            }
            for layer, seen in sorted(layers.items())
        ]


@dataclass
class LastLayerAttention:
    """Attention of the newest rows in the decoder's last layer: of each row and key, the largest weight over heads.

    It records while `on`, one forward pass at a time; nothing as large as the prompt's attention matrix is made.
    """

    target: ClassVar[str] = "decoder"
    on: bool = False
    rows: Float[Tensor, "b r k"] | None = None
    visual: Bool[Tensor, "b k"] | None = None
    """Which of the keys are visual tokens."""

    def see(self, view: AttentionView, edit: AttentionEdit | None) -> None:
        if self.on and view.layer == view.depth:
            self.rows = view.edited_scores(edit).softmax(-1).amax(1)
            self.visual = view.visual_keys()


def _share(view: AttentionView, weights: Tensor) -> Tensor:
    mass = weights.sum(-1).mean(1)
    if view.rows.valid is None:
        return mass.mean(-1)
    valid = view.rows.valid.to(mass.dtype)
    return (mass * valid).sum(-1) / valid.sum(-1).clamp(min=1)
