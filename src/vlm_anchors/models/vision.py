"""The vision tower run once, ahead of the forward pass, as transformers' own `generate` does it (5.18 and later)."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
_IMAGE_NAMES = ("pixel_values", "pixel_values_images", "image_pixel_values", "image_patches")
"""What a forward pass may call its images; the first is the rule."""


def pixel_values(kwargs: Mapping[str, Any], modality: str = "image") -> Any:
    """The images (or videos) among keyword arguments, whatever a class calls them; None where there are none."""
    names = _IMAGE_NAMES if modality == "image" else (PIXELS[modality],)
    return next((kwargs[name] for name in names if kwargs.get(name) is not None), None)


def brings_pixels(kwargs: Mapping[str, Any]) -> bool:
    """Whether there are images or videos among keyword arguments."""
    return any(pixel_values(kwargs, modality) is not None for modality in PIXELS)


def encoder_arguments(inner: nn.Module, modality: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What `get_image_features` (or `get_video_features`) takes of a call's keyword arguments."""
    wanted = inspect.signature(getattr(inner, f"get_{modality}_features")).parameters
    arguments = {name: value for name, value in kwargs.items() if name in wanted and name != "kwargs"}
    if modality == "image" and not any(name in arguments for name in _IMAGE_NAMES):
        arguments[next(name for name in _IMAGE_NAMES if name in wanted)] = pixel_values(kwargs)
    return arguments


def is_pixels(name: str, value: Any) -> bool:
    """Whether an argument of a vision tower is a picture: numbers, and no mask or size that goes with one."""
    picture = ("pixel" in name or "patches" in name) and "mask" not in name
    return picture and isinstance(value, Tensor) and value.is_floating_point()


def encode_images(inner: nn.Module, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The same keyword arguments with pixels replaced by `mm_encoder_outputs`; unchanged where there are none.

    inner: the model around tower, projector and decoder (`model.base_model`). Each entry's `pooler_output` holds one
    (visual tokens, width) tensor an image, in reading order.
    """
    encoded: dict[str, Any] = dict(kwargs.get("mm_encoder_outputs") or {})
    left = dict(kwargs)
    for modality in PIXELS:
        if pixel_values(left, modality) is None:
            continue
        encode = getattr(inner, f"get_{modality}_features")
        encoded[modality] = encode(**encoder_arguments(inner, modality, left), return_dict=True)
    return {**without_pixels(left), "mm_encoder_outputs": encoded} if encoded else left


def without_pixels(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments without images and videos; what else the tower is given (sizes, grids) stays."""
    return {name: value for name, value in kwargs.items() if name not in (*_IMAGE_NAMES, PIXELS["video"])}
