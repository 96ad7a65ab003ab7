"""Where a model attends to its image: the stack of attention layers that a method watches and edits."""

import inspect
import warnings
from typing import Any

from torch import nn
from transformers import GenerationMixin

from ..errors import AnchorsWarning, BadModel, CannotAct
from .attention_target import AttentionTarget, self_attention, takes_keywords
from .families import FAMILIES, UNKNOWN, Family, family_of
from .qformer import language_model_target, qformer_target


def plain_model(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT wrapper (the model itself if it is not wrapped)."""
    if type(model).__module__.split(".")[0] == "peft":
        return model.get_base_model()
    return model


def find_target(model: nn.Module, tokenizer: Any = None, kind: str = "auto") -> AttentionTarget:
    """The attention target of a transformers vision-language model.

    Args:
        model: the model, PEFT-wrapped or not. Of a whole omni model, the part that reads and answers is taken.
        tokenizer: its tokenizer, which alone knows some families' tags.
        kind: "auto", or "decoder" for the language model of a Q-Former family.

    Raises:
        BadModel: the class has no decoder that can be reached.
        CannotAct: the family is known, and refused for the reason the sentence names.
    """
    base = plain_model(model)
    if not hasattr(base, "config") or not hasattr(base.config, "model_type"):
        raise BadModel(f"Expected a transformers vision-language model; found a {type(base).__name__}.")
    if isinstance(getattr(base, "thinker", None), nn.Module):
        model = base = base.thinker
    family = family_of(base.config)
    if family.refused:
        raise CannotAct(f"{family.title} cannot be steered: {family.refused}")
    if family.target == "qformer":
        return language_model_target(base, family) if kind == "decoder" else qformer_target(base, family)
    return _decoder_target(model, base, family, tokenizer)


def _decoder_target(model: nn.Module, base: nn.Module, family: Family, tokenizer: Any) -> AttentionTarget:
    stack = _stack_of(base)
    attention = [] if stack is None else self_attention(stack)
    visual = {name: one for name in family.visual if (one := config_id(base.config, name)) is not None}
    if stack is None or not attention or not (visual or family.visual_mask) or not takes_keywords(type(stack)):
        raise BadModel(
            f"{type(base).__name__} has no decoder attention layers with visual placeholders that can be reached. "
            f"Families that work: {_names()} (vlm-anchors families)."
        )
    _refuse_hidden_terms(base, attention)
    _say_what_is_assumed(base, family, stack, len(attention), visual, tokenizer)
    pairs = [_pair(base.config, tokenizer, pair) for pair in (family.image_tags, family.video_tags) if pair is not None]
    tags = delimiter_ids(base.config, family, tokenizer)
    first, closing = (_tag_id(base.config, tokenizer, tag) for tag in (family.first_tile, family.closing_tile))
    paired = {one for pair in pairs if pair is not None for one in pair}
    named = {one for one in (*tags, *paired, first, closing) if one is not None} - set(visual.values())
    return AttentionTarget(
        kind="decoder",
        depth=len(attention),
        heads=_fewest_heads(stack.config, attention),
        family=family,
        stack=stack,
        layers={id(module): layer for layer, module in enumerate(attention, 1)},
        outer=_outer(model, base, stack),
        visual_ids=tuple(visual.values()),
        delimiter_ids=tuple(sorted(named)),
        modalities=tuple("video" if "video" in name else "image" for name in visual),
        enclosing=tuple(pair for pair in pairs if pair is not None),
        first_id=first,
        closing_id=closing,
        end_follows=family.end_tag_follows and tokenizer is None,
        blocks=len(getattr(stack, "layers", attention)),
        cache_layers=tuple(_cache_layer(module) for module in attention),
    )


def _stack_of(base: nn.Module) -> nn.Module | None:
    """The module that runs the decoder's layers; some classes name the language model with its head instead."""
    inner = _language_model(base) or base
    stack = inner.get_decoder() if hasattr(inner, "get_decoder") else None
    while isinstance(stack, nn.Module) and not hasattr(stack, "layers") and hasattr(stack, "get_decoder"):
        inner = stack.get_decoder()
        if inner is stack:
            break
        stack = inner
    if isinstance(stack, nn.Module) and not hasattr(
        stack, "layers"
    ):  # Llama 4's language model calls itself its decoder
        return next((child for child in stack.children() if hasattr(child, "layers")), stack)
    return stack


def _names() -> str:
    return ", ".join(family.name for family in FAMILIES if not family.refused)


def refuse_split_heads(base: nn.Module, method: str) -> None:
    """Under tensor parallelism each process has some heads of every layer, and would choose among its own."""
    ranks = getattr(base, "tp_size", None) or 1
    if ranks > 1:
        raise CannotAct(
            f"{method} works on all heads of a layer, but this model's heads are split over {ranks} processes "
            "(tensor parallelism). Load the model without tp_plan; a device_map spreads whole layers instead."
        )


HIDDEN_TERMS = {"s_aux": "attention sinks", "position_bias": "a learned position bias"}
"""Keywords by which a kernel is given terms of the softmax that a method cannot see."""


def _refuse_hidden_terms(base: nn.Module, attention: list[nn.Module]) -> None:
    for kind in {type(module) for module in attention}:
        keywords = [name for const in inspect.unwrap(kind.forward).__code__.co_consts if isinstance(const, tuple)
                    for name in const]  # fmt: skip
        for name, meaning in HIDDEN_TERMS.items():
            if name in keywords:
                raise CannotAct(
                    f"{type(base).__name__}'s attention has {meaning}, which methods cannot see. Choose another model."
                )


def _fewest_heads(config: Any, attention: list[nn.Module]) -> int:
    """Query heads of a layer; where layers have numbers of their own, the smallest."""
    own = getattr(config, "per_layer_config", None)
    if own is None:
        return config.num_attention_heads
    return min(own[module.layer_idx].num_attention_heads for module in attention)


def _cache_layer(module: nn.Module) -> int:
    """Number of the cache layer that holds this module's keys; of a layer that reads an earlier one's, that one's."""
    own, config = module.layer_idx, module.config
    if not getattr(module, "is_kv_shared_layer", False):
        return own
    kinds, modes = getattr(config, "layer_types", None), getattr(config, "kv_sharing_modes", None)
    kind = None if kinds is None else kinds[own]
    sources = [
        layer
        for layer in range(own)
        if (kinds is None or kinds[layer] == kind) and (modes is None or modes[layer] != "reuse")
    ]
    return sources[-1] if sources else own


def _say_what_is_assumed(
    base: nn.Module, family: Family, stack: nn.Module, depth: int, visual: dict[str, int], tokenizer: Any
) -> None:
    """A family that is not in the table, or one whose tags only the tokenizer knows, given without it."""
    if family is UNKNOWN:
        assumed = ", ".join(f"{name} {one}" for name, one in visual.items())
        tags = ", ".join(map(str, delimiter_ids(base.config, family, tokenizer))) or "none known, so they count as text"
        warnings.warn(
            f"{type(base).__name__} is in no row of the family table, so these were assumed: visual tokens are those of "
            f"{assumed}; an image is an unbroken run of them; tags around images: {tags}; the decoder is "
            f"{type(stack).__name__} with {depth} attention layers. Tested families: {_names()}.",
            AnchorsWarning,
            stacklevel=5,
        )
    elif family.tags_in_tokenizer and tokenizer is None and not family.end_tag_follows:
        assumed = ", each tile as an image of its own" if family.thumbnail else ""
        warnings.warn(
            f"{family.title} names the tags around its images in the tokenizer only, so they count as text here"
            f"{assumed}. Attach to the pair (model, processor) instead of the model alone.",
            AnchorsWarning,
            stacklevel=5,
        )


def _language_model(base: nn.Module) -> nn.Module | None:
    """The language model with its head to which a class's own `generate` hands over; None where there is none."""
    inner = getattr(base, "text_model", None)
    return inner if isinstance(inner, GenerationMixin) else None


def _outer(model: nn.Module, base: nn.Module, stack: nn.Module) -> tuple[nn.Module, ...]:
    """Every module on the way in that sees token ids or labels: the wrapper, the model, the model inside it."""
    seen: list[nn.Module] = []
    for module in (model, base, base.base_model, _language_model(base)):
        if module is not None and module is not stack and not any(module is other for other in seen):
            seen.append(module)
    return tuple(seen)


def config_id(config: Any, name: str) -> int | None:
    """A token id of a config; `name` may lead into a part of it (`vision_config.image_token_id`)."""
    for part in name.split("."):
        config = getattr(config, part, None)
    return config if isinstance(config, int) else None


_MEDIA = {"vision", "visual", "image", "img", "im", "video", "vid", "frame", "slice", "boi", "eoi", "bov", "eov"}
_ROLES = {"start", "end", "begin", "bos", "eos", "newline", "break", "separator", "indicator", "col", "row", "wrapper",
          "boi", "eoi", "bov", "eov"}  # fmt: skip


def is_tag(name: str) -> bool:
    """Whether a config's or tokenizer's name is that of a tag around or inside an image (`vision_start_token_id`)."""
    parts = set(name.split("_"))
    return bool(parts & _MEDIA and parts & _ROLES and parts & {"id", "ids", "index", "token"})


def delimiter_ids(config: Any, family: Family, tokenizer: Any) -> tuple[int, ...]:
    """Ids of the tags around and inside an image; without a tokenizer, those that the config names."""
    named = [one for name, one in vars(config).items() if is_tag(name)]
    ids = {one for value in named for one in (value if isinstance(value, list | tuple) else [value])}
    spelled = [token for name, token in getattr(tokenizer, "special_tokens_map", {}).items() if is_tag(name)]
    ids |= {_token_id(tokenizer, token) for token in (*family.delimiter_tokens, *spelled) if isinstance(token, str)}
    placeholders = {config_id(config, name) for name in (*family.visual, *UNKNOWN.visual)}
    return tuple(sorted(one for one in ids - placeholders if isinstance(one, int)))


def _pair(config: Any, tokenizer: Any, tags: tuple[str, str]) -> tuple[int, int] | None:
    start, end = (_tag_id(config, tokenizer, tag) for tag in tags)
    return None if start is None or end is None else (start, end)


def _tag_id(config: Any, tokenizer: Any, tag: str | None) -> int | None:
    """Id of a tag that is a config's attribute, a tokenizer's attribute, or a spelling."""
    if tag is None:
        return None
    found = config_id(config, tag)
    named = getattr(tokenizer, tag, None) if tag.isidentifier() else None
    return _token_id(tokenizer, named if isinstance(named, str) else tag) if found is None else found


def _token_id(tokenizer: Any, token: str) -> int | None:
    if tokenizer is None:
        return None
    found = tokenizer.convert_tokens_to_ids(token)
    return None if found is None or found == tokenizer.unk_token_id else found


__all__ = ["UNKNOWN", "AttentionTarget", "find_target", "plain_model"]
