"""One stack of attention layers in which methods act, and which of a decoder's modules are such layers."""

import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..errors import CannotAct
from .families import Family


@dataclass(frozen=True)
class AttentionTarget:
    """One stack of attention layers.

    Args:
        kind: "decoder" (text rows attend to a sequence that holds visual tokens) or "qformer" (latent queries attend to
            image features).
        depth: number of layers whose attention can be edited, counted from 1. In a decoder that mixes kinds of layers
            (linear attention, convolutions), these are the ones with softmax attention, in order.
        heads: query heads a layer; the fewest, where layers differ.
        stack: the module whose forward runs the layers.
        layers: `id(attention module)` -> layer.
        outer: modules whose forward sees token ids, from the outermost one in.
        visual_ids: token ids of placeholders.
        delimiter_ids: token ids of the tags around and inside images.
        modalities: "image" or "video" for each of `visual_ids`.
        enclosing: pairs of tags; everything between two is one image (or video).
        first_id: tag before an image's first tile, or None.
        closing_id: tag before an image's last tile, or None.
        end_follows: the token right behind an image is its end tag, and its id is not known.
        blocks: decoder layers of every kind, which hooks on hidden states and MLPs count.
        cache_layers: number of each layer's keys in the cache, from 0; layer 1 first.
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
    enclosing: tuple[tuple[int, int], ...] = ()
    first_id: int | None = None
    closing_id: int | None = None
    end_follows: bool = False
    blocks: int = 0
    cache_layers: tuple[int, ...] = ()
    visual_features: nn.Module | None = field(default=None, repr=False)
    """The module whose output becomes visual tokens, where the decoder never sees their placeholder ids."""

    @property
    def config(self) -> Any:
        return self.stack.config

    @property
    def known_ids(self) -> tuple[int, ...]:
        """Every token id that means something to the target."""
        single = tuple(one for one in (self.first_id, self.closing_id) if one is not None)
        return (*self.visual_ids, *self.delimiter_ids, *(one for pair in self.enclosing for one in pair), *single)

    @property
    def in_pieces_unclear(self) -> bool:
        """Whether a piece of a prompt does not tell where an image ends."""
        return self.closing_id is not None or self.first_id is not None

    def require_layer(self, layer: int, parameter: str, of: str = "attention") -> None:
        """Raise `CannotAct` unless the target has this layer; of "blocks", decoder layers of every kind count."""
        last = self.blocks if of == "blocks" else self.depth
        if not 1 <= layer <= last:
            where = "decoder" if self.kind == "decoder" else "Q-Former's cross-attention"
            kind = " of softmax attention" if of != "blocks" and self.blocks > self.depth else ""
            raise CannotAct(
                f"{parameter} = {layer}: this model's {where} has layers 1 to {last}{kind}; choose one of them."
            )


def self_attention(stack: nn.Module) -> list[nn.Module]:
    """Every module of a decoder that runs softmax attention through transformers' registry, where ours is, in order."""
    return sorted(filter(_is_self_attention, stack.modules()), key=lambda module: module.layer_idx)


def _is_self_attention(module: nn.Module) -> bool:
    name, forward = type(module).__name__, inspect.unwrap(type(module).forward)
    if "Cross" in name or not isinstance(getattr(module, "layer_idx", None), int):
        return False
    code = getattr(forward, "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names and takes_keywords(type(module))


def takes_keywords(module_class: type[nn.Module]) -> bool:
    parameters = inspect.signature(module_class.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
