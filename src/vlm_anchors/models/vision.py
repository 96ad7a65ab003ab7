"""The vision tower run once, ahead of the forward pass, as transformers' own `generate` does it (5.18 and later)."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


def encode_images(inner: nn.Module, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The same keyword arguments with pixels replaced by `mm_encoder_outputs`; unchanged where there are none.

    inner: the model around tower, projector and decoder (`model.base_model`). Each entry's `pooler_output` holds one
    (visual tokens, width) tensor an image, in reading order.
    """
    encoded: dict[str, Any] = dict(kwargs.get("mm_encoder_outputs") or {})
    left = dict(kwargs)
    for modality, pixels in PIXELS.items():
        if left.get(pixels) is None:
            continue
        encode = getattr(inner, f"get_{modality}_features")
        wanted = inspect.signature(encode).parameters
        arguments = {name: value for name, value in left.items() if name in wanted and name != "kwargs"}
        encoded[modality] = encode(**arguments, return_dict=True)
    if encoded:
        left["mm_encoder_outputs"] = encoded
        for pixels in PIXELS.values():
            left.pop(pixels, None)
    return left
