"""What several baselines share: layer numbers for other depths, the plausibility cut, the contrast of two branches."""

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import AnchorsWarning, BadDial, CannotAct
from ..interventions.method import name_of

if TYPE_CHECKING:
    from ..interventions.forward_pass import Generation
    from ..models.decoder import Site

PUBLISHED_DEPTH = 32
"""The papers' layer numbers are those of LLaVA-1.5-7B's decoder."""
TESTED = ("llava", "qwen2.5-vl", "instructblip")
"""Families on which every baseline is held against its equations."""


def scaled(layer: int, depth: int) -> int:
    """A layer of a 32-layer decoder in one of another depth: layer * depth / 32, to the nearest, halves up, at least 1."""
    return min(max(math.floor(layer * depth / PUBLISHED_DEPTH + 0.5), 1), depth)


def layer_range(given: tuple[int, int] | None, published: tuple[int, int], site: "Site") -> range:
    """Layers of a dial, or the published ones scaled to this decoder's depth; `CannotAct` if there is none such."""
    if given is not None:
        site.require_layer(given[0], "layers")
        site.require_layer(given[1], "layers")
    first, last = given or (scaled(published[0], site.depth), scaled(published[1], site.depth))
    return range(first, last + 1)


def check_range(method: Any, dial: str) -> None:
    """Raise `BadDial` unless the dial is None or (first, last), whole numbers counted from 1."""
    value = getattr(method, dial)
    if value is None:
        return
    whole = isinstance(value, tuple) and len(value) == 2 and all(type(n) is int for n in value)
    if not whole or not 1 <= value[0] <= value[1]:
        kind = type(method).__name__
        raise BadDial(f"{kind}.{dial} must be (first, last) with 1 <= first <= last, or None; found {value!r}.")


def check_switch(method: Any, dial: str) -> None:
    """Raise `BadDial` unless the dial is True or False; 1 and 0, which are equal to them, are not."""
    value = getattr(method, dial)
    if not isinstance(value, bool):
        raise BadDial(f"{type(method).__name__}.{dial} must be True or False; found {value!r}.")


def warn_untested(method: Any, site: "Site") -> None:
    """A family this method has no test on: it runs, and the user is told."""
    if site.family.name not in TESTED:
        warnings.warn(
            f"{name_of(method)} is tested on {', '.join(TESTED)}; on {site.family.title} it is not. Check what "
            "answer.acted says it did before you trust a number.",
            AnchorsWarning,
            stacklevel=4,
        )


def refuse_untested(
    method: Any, site: "Site", instead: str = "Use a model of one of these, or another method."
) -> None:
    """A family on which a second reading of the prompt could be wrong unnoticed."""
    if site.family.name not in method.families:
        raise CannotAct(
            f"{name_of(method)} reads the prompt twice, which is tested on {', '.join(method.families)}; on "
            f"{site.family.title} it is not. {instead}"
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


def contrasts(generation: "Generation") -> list[dict[str, Any]]:
    """What a contrastive method tells of each sample: steps, and how many of them had a second branch."""
    told = {name: generation.memory.get(name, 0) for name in ("steps", "branch_passes")}
    return [dict(told) for _ in generation.visual.valid]


def count(memory: dict[Any, Any], what: str) -> None:
    """One more of something in this generation; a number on the host, no kernel is launched."""
    memory[what] = memory.get(what, 0) + 1
