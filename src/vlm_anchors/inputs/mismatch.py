"""A processor that does not fit its model: what transformers raises deep inside the model becomes a sentence about the two."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import BadModel, CannotAct, UserError, first_line
from ..models.vlm import Vlm

_READ_IMAGES = ("get_image_features", "get_video_features", "get_rope_index")
"""Methods of transformers' models that see what a processor prepared before the decoder does."""
_PACKAGE = str(Path(__file__).parents[1])


@contextmanager
def processor_blamed(vlm: Vlm) -> Iterator[None]:
    """A block that runs the model on what its processor prepared.

    Raises:
        BadModel: The model stopped because its processor does not fit it. Every other error passes through.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (CannotAct, RuntimeError, ValueError, AttributeError, TypeError, LookupError) as error:
        if (fault := _fault(vlm, error)) is None:
            raise
        raise fault from error


def require_known_tokens(vlm: Vlm, ids: Any) -> None:
    """Raises `BadModel` where the tokenizer gave an id that the model has no embedding for."""
    config = vlm.model.config
    known = getattr(vlm.model.get_input_embeddings(), "num_embeddings", None)
    if known is None or not ids.numel() or int(ids.max()) < known:
        return
    placeholders = {one for name, one in config.to_dict().items() if name.endswith(("token_id", "token_index"))}
    unknown = next((one for one in ids.unique().tolist() if one >= known and one not in placeholders), None)
    if unknown is not None:
        raise BadModel(
            f"The tokenizer of {vlm.name} gives the token {unknown}, but its model has embeddings for {known} only. Take both "
            "from one checkpoint, or call model.resize_token_embeddings(len(tokenizer))."
        )


def _fault(vlm: Vlm, error: Exception) -> BadModel | None:
    """The sentence on what does not fit; None where the error is of another kind."""
    why, text = first_line(error), str(error).lower()
    counted = "placeholders for image tokens" in text and "images give" in text  # a method that reads both counts first
    if counted or ("do not match" in text and "tokens" in text and "features" in text):
        return BadModel(
            f"The processor of {vlm.name} writes another number of image tokens than its model makes ({why}). "
            "Give both the same patch_size, vision_feature_select_strategy and num_additional_image_tokens."
        )
    if isinstance(error, UserError):
        return None
    expected = _expected_processor(vlm)
    if expected is not None:
        return BadModel(
            f"{vlm.name} cannot read what its processor prepared ({why}): {type(vlm.processor).__name__} is another family's. "
            f"Expected {expected}; AutoProcessor.from_pretrained makes the right one."
        )
    if re.search("size|shape|match|dimension|channel|out of range|out of bounds", text) and _reading_images(error):
        return BadModel(
            f"{vlm.name} cannot read the images as its processor prepared them ({why}). Give both the same image size, "
            "patch_size and merge_size."
        )
    return None


def _expected_processor(vlm: Vlm) -> str | None:
    """The class that transformers pairs with the model, where the processor is of another one of transformers' own."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    expected: Any = PROCESSOR_MAPPING_NAMES.get(vlm.model.config.model_type)
    kinds = [kind for kind in type(vlm.processor).__mro__ if kind.__module__.startswith("transformers.models.")]
    if not isinstance(expected, str) or not kinds or any(kind.__name__ == expected for kind in kinds):
        return None
    return expected


def _reading_images(error: Exception) -> bool:
    """Whether the model itself raised it while it read its images, outside any code of this package."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code)
        trace = trace.tb_next
    begun = next((number for number, code in enumerate(frames) if code.co_name in _READ_IMAGES), None)
    return begun is not None and not any(code.co_filename.startswith(_PACKAGE) for code in frames[begun:])
