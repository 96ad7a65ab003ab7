"""A loaded model with its processor. Imports nothing heavy: tensors appear in annotations only."""

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BadModel
from .families import Family

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        """One line; the model's own has one a module."""
        return f"<Vlm {self.name!r}: {', '.join(f'{what} {one}' if what else one for what, one in self._summary())}>"

    def _repr_html_(self) -> str:
        rows = [("name", self.name), *self._summary()]
        cells = "".join(f"<tr><th>{what or 'class'}</th><td>{html.escape(one)}</td></tr>" for what, one in rows)
        return f"<table>{cells}</table>"

    def _summary(self) -> list[tuple[str, str]]:
        count = sum(weight.numel() for weight in self.model.parameters())
        where = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        size = f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
        found = [("", type(self.model).__name__), ("family", self.family.name), ("parameters", size), ("dtype", where)]
        return [*found, *([("method", self.method)] if self.method != "none" else [])]

    @property
    def device(self) -> "torch.device":
        """Where inputs belong. Weights that accelerate keeps elsewhere lie on `meta`, and come to its device when needed."""
        return execution_device(self.model)

    @property
    def dtype(self) -> "torch.dtype":
        return self.model.dtype


def execution_device(model: Any) -> "torch.device":
    """The device a model computes on; not `meta`, where accelerate leaves weights that it keeps in memory or on disk."""
    if model.device.type != "meta":
        return model.device
    import torch

    hooks = [getattr(module, "_hf_hook", None) for module in model.modules()]
    found = [getattr(hook, "execution_device", None) for hook in hooks if hook is not None]
    return next((torch.device(one) for one in found if one is not None), torch.device("cpu"))


def model_and_processor(model: Any) -> tuple[Any, Any]:
    """The model and processor of what `va.load` returns, a (model, processor) pair, a pipeline, or a bare model (None).

    Raises:
        BadModel: It is none of these.
    """
    if isinstance(model, (tuple, list)) and len(model) == 2:
        return model[0], model[1]
    if isinstance(model, Vlm):
        return model.model, model.processor
    if is_pipeline(model):
        if getattr(model, "processor", None) is None:
            raise BadModel(
                f"Expected a pipeline for images and text, pipeline('image-text-to-text', ...); found one for "
                f"{getattr(model, 'task', 'another task')!r}."
            )
        return model.model, model.processor
    if hasattr(model, "named_modules"):
        return model, None
    raise BadModel(
        f"Expected a model, a (model, processor) pair or what va.load returns; found {type(model).__name__}."
    )


def is_pipeline(model: Any) -> bool:
    """Whether it is a pipeline of transformers; nothing is imported to find out."""
    return any(kind.__module__ == "transformers.pipelines.base" for kind in type(model).__mro__)
