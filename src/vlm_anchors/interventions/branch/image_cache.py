"""Each image of a batch through the vision tower once, however many questions are asked about it."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .vision_tower import carry, tower_of

PIXELS = "pixel_values"


@contextmanager
def images_once(model: Any, owner: Sequence[int]) -> Iterator[None]:
    """While it lasts, a vision tower that is given one image a sample sees equal images once.

    Towers that are given tiles or patches of images run as ever.

    Args:
        model: The transformers model.
        owner: The image of each sample, numbered as they first occur.
    """
    found = tower_of((model, model.base_model))
    if found is None or len(set(owner)) == len(owner):
        yield
        return
    firsts = [owner.index(image) for image in sorted(set(owner))]
    taken: list[bool] = []
    here = threading.get_ident()

    def fewer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        # Without keywords: another thread, which was at this module while the hook was installed.
        if kwargs is None or threading.get_ident() != here:
            return None
        pixels: Any = args[0] if args else kwargs.get(PIXELS)
        sized = kwargs.get("image_sizes") is not None  # one entry an image, which would have to be cut as well
        whole = not sized and isinstance(pixels, Tensor) and pixels.dim() == 4 and len(pixels) == len(owner)
        taken.append(whole)
        if not whole:
            return None
        return ((pixels[firsts], *args[1:]), kwargs) if args else (args, {**kwargs, PIXELS: pixels[firsts]})

    def all_again(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if threading.get_ident() != here or not taken.pop():
            return None
        rows = _rows(output, torch.tensor(owner))
        carry(output, rows, torch.tensor(owner))
        return rows

    hooks = [
        found[1].register_forward_pre_hook(fewer, with_kwargs=True),
        found[1].register_forward_hook(all_again),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rows(output: Any, owner: Tensor) -> Any:
    """The tower's output with each sample's row again."""
    if isinstance(output, Tensor):
        return output[owner.to(output.device)]
    if isinstance(output, Mapping):
        return type(output)(**{name: _rows(value, owner) for name, value in output.items()})
    return output if output is None else type(output)(_rows(value, owner) for value in output)
