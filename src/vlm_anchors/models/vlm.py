"""A loaded model with its processor. Imports nothing heavy: tensors appear in annotations only."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .families import Family

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin


@dataclass(frozen=True)
class Vlm:
    """A loaded vision-language model: what `va.load` returns.

    `model` is an unmodified transformers model in eval mode, `processor` its processor, `family` the row of the
    family table it belongs to, `name` what the user typed, `revision` the commit of the weights where there is one,
    `method` the SPEC of the method it was trained with ("none" for most), which acts where no other is asked for.
    """

    model: "PreTrainedModel"
    processor: "ProcessorMixin"
    family: Family
    name: str
    revision: str | None = None
    method: str = "none"
    image_warning: "Callable[[Image.Image], str | None] | None" = None
    """A sentence about an image that this checkpoint cannot understand, None for one that it can; None: any image will do."""

    @property
    def device(self) -> "torch.device":
        return self.model.device

    @property
    def dtype(self) -> "torch.dtype":
        return self.model.dtype
