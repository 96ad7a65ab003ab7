"""Prefixes kept from one call of `generate` to the next: system and image, read once while they are remembered.

A prefix ends with the last visual token, under the same rules as within a batch (`prefix_cache`): what stands there is what
the plain model reads, so a method's own part of a generation begins with the first word behind it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from ...models.vision import encoder_arguments
from ...models.vlm import Vlm
from ..forward_pass import STATE_ATTRIBUTE, GenerationState, PrefixRead
from ..handle import Handle
from ..method import Method
from ..text_rows import Visual
from .bounded_store import BoundedStore
from .contrastive import holds_all
from .feature_cache import FeatureCache, by_image, digest_of, together
from .prefix_cache import continued, prefill_prefix, shares_prefix

WORDS = ("input_ids", "attention_mask")


@dataclass(frozen=True, eq=False)
class Prefix:
    """A prompt up to its image, as the decoder read it. Every tensor has one row.

    Args:
        layers: Keys and values of each layer.
        visual: Where the visual tokens are; None where no method was attached.
        read: What was read, for methods that read a prompt again; None where there was none.
        pixels: What the tower was given, for those.
    """

    layers: tuple[tuple[Float[Tensor, "1 h p d"], Float[Tensor, "1 h p d"]], ...]
    visual: Visual | None
    read: PrefixRead | None
    pixels: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        held = [tensor for layer in self.layers for tensor in layer]
        held += [] if self.read is None else [self.read.embeds]
        held += [value for value in self.pixels.values() if isinstance(value, Tensor)]
        return sum(tensor.nbytes for tensor in held)


class PrefixStore:
    """Prefixes of prompts with one image each, within a bound of bytes.

    Args:
        max_bytes: Most bytes that are kept, on the model's device; 0: every prompt is read whole.
        images: Encodes the images of new prefixes.
    """

    def __init__(self, max_bytes: int, images: FeatureCache):
        self.store, self._images, self._copies = BoundedStore(max_bytes), images, True

    def inputs(
        self, vlm: Vlm, handle: Handle, methods: Sequence[Method], tensors: Mapping[str, Any], images: Sequence[int]
    ) -> dict[str, Any] | None:
        """Inputs of `generate` that go on from prefixes; those that are not remembered are read now.

        Args:
            vlm: The model.
            handle: What is attached to it.
            methods: The methods of the handle.
            tensors: What the processor returned.
            images: How many images each sample has.

        Returns:
            Token ids, mask and cache; None where prompts cannot be shared: the class or a method does not allow it, a prompt
            has not one image, or prompts differ in the length of what stands before the question.
        """
        if not self.store.max_bytes or not self._copies or set(images) != {1}:
            return None
        if not shares_prefix(vlm.model, vlm.family, methods):
            return None
        given = encoder_arguments(vlm.model.base_model, "image", tensors)
        rows, heads, tails = by_image(given, images), *_cut(vlm, tensors)
        if rows is None or heads is None or not all(map(len, tails)) or {*tensors} - {*given, *WORDS}:
            return None
        specs = tuple(method.spec() for method in methods)
        keys = [(specs, tuple(head.tolist()), digest_of(row)) for head, row in zip(heads, rows, strict=True)]
        found: dict[Any, Prefix] = {key: self.store.get(key) for key in dict.fromkeys(keys)}
        missing = [key for key, prefix in found.items() if prefix is None]
        if missing:
            firsts = [keys.index(key) for key in missing]
            made = self._read(vlm, heads[firsts], [rows[first] for first in firsts])
            if made is None:
                return None
            for key, prefix in zip(missing, made, strict=True):
                found[key] = prefix
                self.store.put(key, prefix, prefix.nbytes)
        numbers = {key: number for number, key in enumerate(found)}
        which = torch.tensor([numbers[key] for key in keys], device=heads.device)
        cache = _cache_of(vlm, handle, list(found.values()))
        return {**_padded(heads, tails, _pad_of(vlm)), **continued(cache, which)}

    def _read(self, vlm: Vlm, heads: Int[Tensor, "n p"], rows: Sequence[Mapping[str, Any]]) -> list[Prefix] | None:
        words = {"input_ids": heads, "attention_mask": torch.ones_like(heads)}
        cache = prefill_prefix(vlm.model, self._images.encoded(vlm, {**words, **together(rows)}, [1] * len(rows)))
        generation: GenerationState | None = getattr(cache, STATE_ATTRIBUTE, None)
        if not holds_all(cache):  # layers of other kinds keep more than keys and values
            self._copies = False
            return None
        return [_prefix_of(cache, generation, row, i) for i, row in enumerate(rows)]


def _cut(vlm: Vlm, tensors: Mapping[str, Any]) -> tuple[Int[Tensor, "b p"] | None, list[list[int]]]:
    """The prefixes up to the last visual token, and what follows; None where prefixes are not of one length."""
    visual = getattr(vlm.model.config, "image_token_id", None)
    if visual is None:
        return None, []
    rows = [row[real] for row, real in zip(tensors["input_ids"], tensors["attention_mask"].bool(), strict=True)]
    if not all((row == visual).any() for row in rows):
        return None, []
    ends = [int((row == visual).nonzero().max()) + 1 for row in rows]
    tails = [row[end:].tolist() for row, end in zip(rows, ends, strict=True)]
    return (torch.stack([row[: ends[0]] for row in rows]) if len(set(ends)) == 1 else None), tails


def _prefix_of(cache: DynamicCache, generation: GenerationState | None, pixels: Mapping[str, Any], row: int) -> Prefix:
    # Clones: a part of the batch's tensor would keep all of it.
    def own(tensor: Tensor) -> Tensor:
        return tensor[row : row + 1].clone()

    layers: Any = tuple((own(layer.keys), own(layer.values)) for layer in cache.layers)
    if generation is None:
        return Prefix(layers, None, None, {})
    visual, read = generation.visual, generation.prefix
    places = Visual(own(visual.index), own(visual.valid), own(visual.image), visual.images, visual.full)
    if read is None:
        return Prefix(layers, places, None, {})
    return Prefix(layers, places, PrefixRead(own(read.embeds), own(read.ids), own(read.real), None, 1), pixels)


def _cache_of(vlm: Vlm, handle: Handle, prefixes: Sequence[Prefix]) -> DynamicCache:
    """A cache with a row a prefix, on which the handle's own generation rides."""
    cache = DynamicCache(config=vlm.model.config.get_text_config())
    for number in range(len(prefixes[0].layers)):
        keys, values = (torch.cat([prefix.layers[number][which] for prefix in prefixes]) for which in (0, 1))
        cache.update(keys, values, number)
    places = [prefix.visual for prefix in prefixes if prefix.visual is not None]
    if not handle.acts or len(places) < len(prefixes):
        return cache
    index, valid, image = (torch.cat([getattr(one, name) for one in places]) for name in ("index", "valid", "image"))
    visual = Visual(index, valid, image, max(one.images for one in places), all(one.full for one in places))
    generation = GenerationState.born(handle.setup, visual)
    reads = [prefix.read for prefix in prefixes if prefix.read is not None]
    if len(reads) == len(prefixes):
        embeds, ids, real = (torch.cat([getattr(one, name) for one in reads]) for name in ("embeds", "ids", "real"))
        pixels = together([prefix.pixels for prefix in prefixes])
        generation.prefix = PrefixRead(embeds, ids, real, pixels, len(prefixes))
    handle.began(generation, cache)
    return cache


def _padded(heads: Int[Tensor, "b p"], tails: Sequence[list[int]], fill: int) -> dict[str, Tensor]:
    """Prefix, padding, question: the padding stands between, masked, and positions do not count it."""
    longest = max(map(len, tails))
    tail = torch.tensor([[fill] * (longest - len(one)) + one for one in tails], device=heads.device)
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in tails], device=heads.device)
    return {"input_ids": torch.cat([heads, tail], 1), "attention_mask": torch.cat([torch.ones_like(heads), mask], 1)}


def _pad_of(vlm: Vlm) -> int:
    pad = vlm.processor.tokenizer.pad_token_id
    return 0 if pad is None else int(pad)
