"""Where a model attends to its image: the stack of attention layers that a method watches and edits."""

import inspect
import sys
import warnings
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..errors import AnchorsWarning, BadModel, CannotAct
from .families import FAMILIES, UNKNOWN, Family, family_of


@dataclass(frozen=True)
class AttentionTarget:
    """One stack of attention layers.

    kind: "decoder" (text rows attend to a sequence that holds visual tokens) or "qformer" (latent queries attend to
    image features). depth: number of layers, counted from 1. heads: query heads a layer. stack: the module whose
    forward runs the layers. layers: `id(attention module)` -> layer. outer: modules whose forward sees token ids.
    visual_ids, frame_ids: token ids of placeholders and of the tags around them. modalities: "image" or "video" for
    each of visual_ids. video_ids: tags before and after a video whose frames share the images' placeholder, or None.
    closing_id: tag before an image's last tile, or None.
    """

    kind: str
    depth: int
    heads: int
    family: Family
    stack: nn.Module = field(repr=False)
    layers: dict[int, int] = field(repr=False)
    outer: tuple[nn.Module, ...] = field(repr=False)
    visual_ids: tuple[int, ...] = ()
    delimiter_ids: tuple[int, ...] = ()
    modalities: tuple[str, ...] = ()
    video_ids: tuple[int, int] | None = None
    closing_id: int | None = None
    visual_features: nn.Module | None = field(default=None, repr=False)
    """The module whose output becomes visual tokens, where the decoder never sees their placeholder ids."""

    @property
    def config(self) -> Any:
        return self.stack.config

    @property
    def known_ids(self) -> tuple[int, ...]:
        """Every token id that means something to the site."""
        closing = () if self.closing_id is None else (self.closing_id,)
        return (*self.visual_ids, *self.delimiter_ids, *(self.video_ids or ()), *closing)

    def require_layer(self, layer: int, parameter: str) -> None:
        """Raise `CannotAct` unless the site has this layer."""
        if not 1 <= layer <= self.depth:
            where = "decoder" if self.kind == "decoder" else "Q-Former's cross-attention"
            raise CannotAct(
                f"{parameter} = {layer}: this model's {where} has layers 1 to {self.depth}; choose one of them."
            )


def plain_model(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT wrapper (the model itself if it is not wrapped)."""
    if type(model).__module__.split(".")[0] == "peft":
        return model.get_base_model()
    return model


def find_target(model: nn.Module, tokenizer: Any = None, kind: str = "auto") -> AttentionTarget:
    """The site of a transformers vision-language model; `BadModel` with the list of families if there is none."""
    base = plain_model(model)
    if not hasattr(base, "config") or not hasattr(base.config, "model_type"):
        raise BadModel(f"Expected a transformers vision-language model; found a {type(base).__name__}.")
    family = family_of(base.config)
    if family.refused:
        raise CannotAct(f"{family.title} cannot be steered: {family.refused}")
    if family.target == "qformer":
        from ..interventions import qformer

        return (
            qformer.language_model_target(base, family) if kind == "decoder" else qformer.qformer_target(base, family)
        )
    return _decoder_target(model, base, family, tokenizer)


def _decoder_target(model: nn.Module, base: nn.Module, family: Family, tokenizer: Any) -> AttentionTarget:
    stack = base.get_decoder() if hasattr(base, "get_decoder") else None
    layers = {} if stack is None else decoder_layers(stack)
    visual = {name: one for name in family.visual if (one := config_id(base.config, name)) is not None}
    if stack is None or not layers or not visual or not _by_interface(stack):
        raise BadModel(
            f"{type(base).__name__} has no decoder attention layers with visual placeholders that the engine can "
            f"reach. Families that work: {_names()} (vlm-anchors families)."
        )
    depth = max(layers.values())
    if set(layers.values()) != set(range(1, depth + 1)):
        raise BadModel(
            f"Not every decoder layer of {type(base).__name__} is one of self-attention, so its layers cannot be "
            f"counted as the methods do. Families that work: {_names()} (vlm-anchors families)."
        )
    _say_what_is_assumed(base, family, stack, depth, visual, tokenizer)
    return AttentionTarget(
        kind="decoder",
        depth=depth,
        heads=stack.config.num_attention_heads,
        family=family,
        stack=stack,
        layers=layers,
        outer=_outer(model, base, stack),
        visual_ids=tuple(visual.values()),
        delimiter_ids=delimiter_ids(base.config, family, tokenizer),
        modalities=tuple(name.split("_")[0] for name in visual),
        video_ids=_video_ids(base.config, family),
        closing_id=_token_id(tokenizer, family.closing_tile) if family.closing_tile else None,
    )


def _names() -> str:
    return ", ".join(family.name for family in FAMILIES if not family.refused)


def _by_interface(stack: nn.Module) -> bool:
    """Whether attention looks its kernel up in transformers' registry, where ours is, and keywords get that far."""
    classes = {type(module) for module in stack.modules() if _is_self_attention(module)}
    listed = all(hasattr(sys.modules[one.__module__], "ALL_ATTENTION_FUNCTIONS") for one in classes)
    return listed and all(_takes_keywords(one) for one in (type(stack), *classes))


def _takes_keywords(module_class: type[nn.Module]) -> bool:
    parameters = inspect.signature(module_class.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _say_what_is_assumed(
    base: nn.Module, family: Family, stack: nn.Module, depth: int, visual: dict[str, int], tokenizer: Any
) -> None:
    """A family that is not in the table, or one whose tags only the tokenizer knows, given without it."""
    if family is UNKNOWN:
        assumed = ", ".join(f"{name} {one}" for name, one in visual.items())
        warnings.warn(
            f"{type(base).__name__} is in no row of the family table, so these were assumed: visual tokens are those of "
            f"{assumed}; an image is an unbroken run of them; tags around images are unknown and count as text; the "
            f"decoder is {type(stack).__name__} with {depth} layers. Tested families: {_names()}.",
            AnchorsWarning,
            stacklevel=5,
        )
    elif family.delimiter_tokens and tokenizer is None:
        assumed = ", each tile as an image of its own" if family.closing_tile else ""
        warnings.warn(
            f"{family.title} names the tags around its images in the tokenizer only, so they count as text here"
            f"{assumed}. Attach to the pair (model, processor) instead of the model alone.",
            AnchorsWarning,
            stacklevel=5,
        )


def decoder_layers(stack: nn.Module) -> dict[int, int]:
    """`id(attention module)` -> layer (from 1) of every self-attention module in a decoder."""
    return {id(module): module.layer_idx + 1 for module in stack.modules() if _is_self_attention(module)}


def _is_self_attention(module: nn.Module) -> bool:
    name = type(module).__name__
    return name.endswith("Attention") and "Cross" not in name and isinstance(getattr(module, "layer_idx", None), int)


def _outer(model: nn.Module, base: nn.Module, stack: nn.Module) -> tuple[nn.Module, ...]:
    """Every module on the way in that sees token ids or labels: the wrapper, the model, the model inside it."""
    seen: list[nn.Module] = []
    for module in (model, base, base.base_model):
        if module is not stack and not any(module is other for other in seen):
            seen.append(module)
    return tuple(seen)


def config_id(config: Any, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else None


def delimiter_ids(config: Any, family: Family, tokenizer: Any) -> tuple[int, ...]:
    """Ids of the tags around and inside an image; without a tokenizer, those that the config names."""
    ids = {config_id(config, name) for name in family.delimiters}
    ids |= {_token_id(tokenizer, token) for token in family.delimiter_tokens}
    return tuple(sorted(id for id in ids if id is not None))


def _video_ids(config: Any, family: Family) -> tuple[int, int] | None:
    start, end = (config_id(config, name) for name in family.video_tags or ("", ""))
    return None if start is None or end is None else (start, end)


def _token_id(tokenizer: Any, token: str) -> int | None:
    if tokenizer is None:
        return None
    found = tokenizer.convert_tokens_to_ids(token)
    return None if found is None or found == tokenizer.unk_token_id else found


__all__ = ["UNKNOWN", "AttentionTarget", "find_target", "plain_model"]
