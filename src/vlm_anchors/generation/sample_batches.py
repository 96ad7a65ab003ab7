"""Pairs of image and question become samples, a batch at a time: images are decoded when their batch is asked."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import BadImage, BadSetting, UserError
from ..inputs.images import read_image
from ..inputs.prompt_builder import Sample, check_question

if TYPE_CHECKING:
    from PIL import Image


def checked_window(window: Sequence[tuple[int, Any]]) -> tuple[list[int], dict[int, UserError]]:
    """(places of the samples that may be read, the first that cannot be and why). Decodes no image."""
    for i, (number, item) in enumerate(window):
        try:
            if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
                raise BadSetting(f"expected (image, question) or (image, question, id); found {item!r:.80}.")
            check_question(item[1])
        except UserError as error:
            return list(range(i)), {i: type(error)(f"Sample {number}: {error}")}
    return list(range(len(window))), {}


def images_of(item: Sequence[Any]) -> int:
    return len(item[0]) if isinstance(item[0], (list, tuple)) else 1


def read_batch(
    window: Sequence[tuple[int, Any]], chosen: Iterable[int], failures: dict[int, UserError]
) -> dict[int, Sample]:
    """The samples of a batch by their places, images decoded; those behind a sample that fails are not needed."""
    batch: dict[int, Sample] = {}
    for i in chosen:
        number, item = window[i]
        if any(i > failed for failed in failures):
            continue
        try:
            batch[i] = read_sample(*item)
        except UserError as error:
            failures[i] = type(error)(f"Sample {number}: {error}")
    return batch


def read_sample(image: Any, question: Any, sample_id: str | None = None) -> Sample:
    """A question with its images read. Raises `BadImage` or `BadQuestion`."""
    check_question(question)
    item = list(image) if isinstance(image, (list, tuple)) else [image]
    if not item:
        raise BadImage("No image was given. Expected an image, or a list of one or more.")
    images = tuple(read_image(each) for each in item)
    return Sample(images, question, str(sample_id) if sample_id is not None else _digest(images, question))


def _digest(images: "Sequence[Image.Image]", question: str) -> str:
    """The same images and question give the same digest, whatever file they came from."""
    digest = hashlib.blake2b(question.encode("utf-8", "replace"), digest_size=16)
    for image in images:
        digest.update(f"|{image.size}|".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()
