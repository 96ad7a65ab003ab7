"""What several baselines share: layer numbers for other depths, the plausibility cut, the contrast of two branches."""

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import AnchorsWarning, CannotAct
from ..parameters import name_of

if TYPE_CHECKING:
    from ..interventions.attention_view import AttentionView
    from ..models.decoder import AttentionTarget

PUBLISHED_DEPTH = 32
"""The papers' layer numbers are those of LLaVA-1.5-7B's decoder."""
TESTED = ("llava", "qwen2.5-vl", "instructblip")
"""Families on which every baseline is held against its equations."""
ONLY_ONE_LEFT = (("=", 1, "keeps the likeliest token alone, so the contrast changes no answer"),)
"""Of a plausibility cut: tokens below this share of the likeliest one's probability are left out."""


def scaled(layer: int, depth: int) -> int:
    """A layer of a 32-layer decoder in one of another depth: layer * depth / 32, to the nearest, halves up, at least 1."""
    return min(max(math.floor(layer * depth / PUBLISHED_DEPTH + 0.5), 1), depth)


def layer_range(
    layers: tuple[int, int] | None, published: tuple[int, int], target: "AttentionTarget", of: str = "attention"
) -> range:
    """Layers of a parameter, or the published ones scaled to this decoder's depth; `CannotAct` if there is none such.

    of: in a decoder that mixes kinds of layers, count those of softmax "attention", or all "blocks".
    """
    if layers is not None:
        target.require_layer(layers[0], "layers", of)
        target.require_layer(layers[1], "layers", of)
    depth = target.blocks if of == "blocks" else target.depth
    first, last = layers or (scaled(published[0], depth), scaled(published[1], depth))
    return range(first, last + 1)


def warn_untested(method: Any, target: "AttentionTarget") -> None:
    """A family this method has no test on: it runs, with a warning."""
    if target.family.name not in TESTED:
        warnings.warn(
            f"{name_of(method)} is tested on {', '.join(TESTED)}; on {target.family.title} it is not. Check what "
            "answer.effects says it did before you trust a number.",
            AnchorsWarning,
            stacklevel=4,
        )


def refuse_untested(
    method: Any, target: "AttentionTarget", instead: str = "Use a model of one of these, or another method."
) -> None:
    """A family on which a contrastive branch of the prompt could be wrong unnoticed."""
    if target.family.name not in method.families:
        raise CannotAct(
            f"{name_of(method)} reads the prompt twice, which is tested on {', '.join(method.families)}; on "
            f"{target.family.title} it is not. {instead}"
        )


def hiding(view: "AttentionView", kept: Bool[Tensor, "b v"]) -> Float[Tensor, "b 1 _r v"]:
    """A bias with the lowest number at visual tokens that are not kept. A row with nothing else to see is left alone."""
    outside = view.visual.valid & ~kept
    lowest = torch.finfo(view.dtype).min
    bias = torch.zeros_like(outside, dtype=torch.float32).masked_fill(outside, lowest)[:, None, None]
    if view.row_mask is None:
        return bias
    index, valid = view.columns
    hidden = torch.zeros(view.key.shape[0], view.key.shape[2], dtype=torch.int8, device=index.device)
    hidden = hidden.scatter_add(1, index, (outside & valid).to(torch.int8)).bool()
    seen = view.row_mask > torch.finfo(view.row_mask.dtype).min / 2
    return bias.where((seen & ~hidden[:, None, None]).any(-1, keepdim=True), 0.0)


def implausible(logits: Float[Tensor, "b n"], beta: float) -> Bool[Tensor, "b n"]:
    """Tokens less than `beta` times as probable as the most probable one."""
    return logits < logits.amax(-1, keepdim=True) + math.log(beta)


def contrast(
    first: Float[Tensor, "b n"], second: Float[Tensor, "b n"] | None, alpha: float, beta: float
) -> Float[Tensor, "b n"]:
    """(1 + alpha) z1 - alpha z2 on the plausible tokens of z1, -inf elsewhere."""
    mixed = first if second is None else second.lerp(first, 1 + alpha)
    return mixed if beta == 0 else mixed.masked_fill(implausible(first, beta), -torch.inf)


@dataclass
class Counted:
    """State of a contrastive method: steps so far, and how many of them had a contrastive branch."""

    steps: int = 0
    branch_passes: int = 0

    def contrast(
        self, first: Float[Tensor, "b n"], second: Float[Tensor, "b n"] | None, alpha: float, beta: float
    ) -> Float[Tensor, "b n"]:
        """`contrast`, counted where it is done."""
        self.steps += 1
        self.branch_passes += second is not None
        return contrast(first, second, alpha, beta)

    def effects(self) -> dict[str, int]:
        return {"steps": self.steps, "branch_passes": self.branch_passes}
