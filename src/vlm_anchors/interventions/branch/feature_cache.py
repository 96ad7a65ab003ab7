"""Encoded images kept from one call of `generate` to the next: while an image is remembered, it is encoded once.

`generate` runs the vision tower ahead of the model and hands on its output (`mm_encoder_outputs`). Here the output is put
together from what is remembered of each image and what is encoded now. The key is a digest of all that the tower would be
given for the image, so that images never mix. Methods see no difference: the pixels stay known for those that read them.
"""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ...models.vision import encoder_arguments, is_pixels, pixel_values, without_pixels
from ...models.vlm import Vlm
from .bounded_store import BoundedStore
from .vision_tower import note_pixels

_UNREAD = ("last_hidden_state", "hidden_states", "attentions")
_READ = ("pooler_output", "deepstack_features")
"""Fields of a tower's output: those that no model reads, and those that are kept."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """What the tower made of one image.

    Args:
        output: The class of the tower's output.
        kinds: How the output held each field: "list" (of images), "stacked" or "joined" (rows of all images).
        parts: This image's `pooler_output`, and its features for each deeper layer.
    """

    output: type
    kinds: tuple[str, ...]
    parts: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


class FeatureCache:
    """Encoded images, within a bound of bytes.

    Args:
        max_bytes: Most bytes of features that are kept, on the model's device; 0: every call encodes its images.
    """

    def __init__(self, max_bytes: int):
        self.store = BoundedStore(max_bytes)
        self._splits = True

    def encoded(self, vlm: Vlm, tensors: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        """Inputs of `generate` with the images encoded.

        Args:
            vlm: The model.
            tensors: What the processor returned.
            images: How many images each sample has.

        Returns:
            The same inputs with `mm_encoder_outputs` in place of pixels; unchanged where the class does not keep images
            apart (tiles that are numbered through a batch, Q-Formers, which read the question too).
        """
        inner: Any = vlm.model.base_model
        given = self._given(vlm, tensors)
        rows = None if given is None else by_image(given, images)
        if given is None or rows is None:
            return dict(tensors)
        keys = [digest_of(row) for row in rows]
        found = {key: self.store.get(key) for key in dict.fromkeys(keys)}
        missing = [key for key, value in found.items() if value is None]
        if missing:
            output = inner.get_image_features(**together([rows[keys.index(key)] for key in missing]), return_dict=True)
            made = _split(output, len(missing))
            if made is None:
                self._splits = False
                return dict(tensors)
            for key, image in zip(missing, made, strict=True):
                found[key] = image
                self.store.put(key, image, image.nbytes)
        output = _joined([found[key] for key in keys])
        if output is None:
            return dict(tensors)
        note_pixels(output, given)
        return {**without_pixels(tensors), "mm_encoder_outputs": {"image": output}}

    def _given(self, vlm: Vlm, tensors: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the tower takes of the inputs; None where `generate` does not encode ahead."""
        inner = vlm.model.base_model
        if not self.store.max_bytes or not self._splits or pixel_values(tensors) is None:
            return None
        if vlm.family.target != "decoder" or not hasattr(inner, "get_image_features"):
            return None
        if "mm_encoder_outputs" not in inspect.signature(vlm.model.forward).parameters:
            return None
        return encoder_arguments(inner, "image", tensors)


def by_image(given: Mapping[str, Any], images: Sequence[int]) -> list[dict[str, Any]] | None:
    """The arguments of each image by itself; None where a row is not certain to be one image."""
    count = sum(images)
    pixels: Any = next((value for name, value in given.items() if is_pixels(name, value)), None)
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in given.items() if not isinstance(value, Tensor)}
    if pixels is None or not count:
        return None
    grid: Int[Tensor, "n 3"] | None = next((v for name, v in tensors.items() if name.endswith("grid_thw")), None)
    others = [value for value in tensors.values() if value is not pixels]
    if any(value.dim() == 0 or len(value) != count for value in others):
        return None
    if grid is not None and pixels.dim() == 2 and int(grid.prod(-1).sum()) == len(pixels):
        pieces = pixels.split(grid.prod(-1).tolist())
    elif len(pixels) == count and (pixels.dim() in (3, 4) or (pixels.dim() > 4 and max(images) == 1)):
        # Of five dimensions some classes have a row a sample, which is an image where no sample has two.
        pieces = pixels.split(1)
    else:
        return None
    return [
        {name: pieces[i] if value is pixels else value[i : i + 1] for name, value in tensors.items()} | rest
        for i in range(count)
    ]


def together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments of several images in one call."""
    return {
        name: torch.cat([row[name] for row in rows]) if isinstance(value, Tensor) else value
        for name, value in rows[0].items()
    }


def digest_of(row: Mapping[str, Any]) -> bytes:
    """Of everything the tower is given for an image: numbers, their type and shape."""
    made = hashlib.blake2b(digest_size=32)
    for name, value in sorted(row.items()):
        if isinstance(value, Tensor):
            made.update(f"{name} {value.dtype} {tuple(value.shape)}|".encode())
            made.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        else:
            made.update(f"{name} {value!r}|".encode())
    return made.digest()


def _split(output: Any, count: int) -> list[EncodedImage] | None:
    """The output image by image; None where it cannot be cut so."""
    known = isinstance(output, Mapping) and output.get("pooler_output") is not None
    if not known or any(value is not None and name not in _UNREAD + _READ for name, value in output.items()):
        return None
    first = _pieces(output["pooler_output"], count, None)
    if first is None:
        return None
    lengths = [len(part) for part in first[1]]
    deeper = [_pieces(layer, count, lengths) for layer in output.get("deepstack_features") or ()]
    fields = [first, *(one for one in deeper if one is not None)]
    if len(fields) <= len(deeper):
        return None
    kinds = tuple(kind for kind, _ in fields)
    # Clones: a part of the batch's tensor would keep all of it.
    return [EncodedImage(type(output), kinds, tuple(parts[i].clone() for _, parts in fields)) for i in range(count)]


def _pieces(value: Any, count: int, lengths: list[int] | None) -> tuple[str, Sequence[Tensor]] | None:
    if isinstance(value, list | tuple):
        whole = len(value) == count and all(isinstance(part, Tensor) for part in value)
        return ("list", value) if whole else None
    if isinstance(value, Tensor) and value.dim() == 3 and len(value) == count:
        return "stacked", value.unbind()
    if isinstance(value, Tensor) and value.dim() == 2 and lengths is not None and len(value) == sum(lengths):
        return "joined", value.split(lengths)
    return None


def _joined(images: Sequence[EncodedImage]) -> Any:
    """One output for several images, as the tower would have returned it; None where they do not fit together."""
    first, fields = images[0], []
    for number, kind in enumerate(first.kinds):
        parts = [image.parts[number] for image in images]
        if kind == "stacked" and len({part.shape for part in parts}) > 1:
            return None
        fields.append(parts if kind == "list" else torch.stack(parts) if kind == "stacked" else torch.cat(parts))
    deeper = {"deepstack_features": fields[1:]} if fields[1:] else {}
    # No model reads the first field: it says that the output is whole, and the pixels are known by it.
    return first.output(last_hidden_state=first.parts[0].new_empty(0), pooler_output=fields[0], **deeper)
