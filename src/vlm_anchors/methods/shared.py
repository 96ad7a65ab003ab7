"""What several baselines share: layer numbers for other depths, the plausibility cut, the contrast of two branches."""

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import AnchorsWarning, BadParameter, CannotAct
from ..interventions.method import name_of

if TYPE_CHECKING:
    from ..interventions.forward_pass import GenerationState
    from ..models.decoder import AttentionTarget

PUBLISHED_DEPTH = 32
"""The papers' layer numbers are those of LLaVA-1.5-7B's decoder."""
TESTED = ("llava", "qwen2.5-vl", "instructblip")
"""Families on which every baseline is held against its equations."""


def scaled(layer: int, depth: int) -> int:
    """A layer of a 32-layer decoder in one of another depth: layer * depth / 32, to the nearest, halves up, at least 1."""
    return min(max(math.floor(layer * depth / PUBLISHED_DEPTH + 0.5), 1), depth)


def layer_range(layers: tuple[int, int] | None, published: tuple[int, int], target: "AttentionTarget") -> range:
    """Layers of a parameter, or the published ones scaled to this decoder's depth; `CannotAct` if there is none such."""
    if layers is not None:
        target.require_layer(layers[0], "layers")
        target.require_layer(layers[1], "layers")
    first, last = layers or (scaled(published[0], target.depth), scaled(published[1], target.depth))
    return range(first, last + 1)


def check_range(method: Any, parameter: str) -> None:
    """Raise `BadParameter` unless the parameter is None or (first, last), whole numbers counted from 1."""
    value = getattr(method, parameter)
    if value is None:
        return
    whole = isinstance(value, tuple) and len(value) == 2 and all(type(n) is int for n in value)
    if not whole or not 1 <= value[0] <= value[1]:
        kind = type(method).__name__
        raise BadParameter(
            f"{kind}.{parameter} must be (first, last) with 1 <= first <= last, or None; found {value!r}."
        )


def check_switch(method: Any, parameter: str) -> None:
    """Raise `BadParameter` unless the parameter is True or False; 1 and 0, which are equal to them, are not."""
    value = getattr(method, parameter)
    if not isinstance(value, bool):
        raise BadParameter(f"{type(method).__name__}.{parameter} must be True or False; found {value!r}.")


def warn_untested(method: Any, target: "AttentionTarget") -> None:
    """A family this method has no test on: it runs, and the user is told."""
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


def implausible(logits: Float[Tensor, "b n"], beta: float) -> Bool[Tensor, "b n"]:
    """Tokens less than `beta` times as probable as the most probable one."""
    return logits < logits.amax(-1, keepdim=True) + math.log(beta)


def contrast(
    first: Float[Tensor, "b n"], second: Float[Tensor, "b n"] | None, alpha: float, beta: float
) -> Float[Tensor, "b n"]:
    """(1 + alpha) z1 - alpha z2 on the plausible tokens of z1, -inf elsewhere."""
    mixed = first if second is None else second.lerp(first, 1 + alpha)
    return mixed if beta == 0 else mixed.masked_fill(implausible(first, beta), -torch.inf)


def counted_contrast(
    memory: dict[Any, Any], first: Float[Tensor, "b n"], second: Float[Tensor, "b n"] | None, alpha: float, beta: float
) -> Float[Tensor, "b n"]:
    """The contrast, counted for `contrasts`."""
    count(memory, "steps")
    if second is not None:
        count(memory, "branch_passes")
    return contrast(first, second, alpha, beta)


def contrasts(generation: "GenerationState") -> list[dict[str, Any]]:
    """What a contrastive method tells of each sample: steps, and how many of them had a contrastive branch."""
    effects = {name: generation.memory.get(name, 0) for name in ("steps", "branch_passes")}
    return [dict(effects) for _ in generation.visual.valid]


def count(memory: dict[Any, Any], what: str) -> None:
    """One more of something in this generation; a number on the host, no kernel is launched."""
    memory[what] = memory.get(what, 0) + 1
