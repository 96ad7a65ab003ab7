"""Which questions share a batch: a function of the questions alone, so that every run makes the same ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..benchmarks.base import Question

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """A question with the words the protocol puts around it."""

    question: Question
    prompt: str


def batches(asked: Sequence[Asked], size: int) -> list[list[Asked]]:
    """Questions of one image stand together, images in the order of the data, so that an image is encoded once.

    Inside a batch prompts differ in length by a few words only, as an image's questions do; questions without an
    image have batches of their own.
    """
    with_image: dict[str, list[Asked]] = {}
    without: list[Asked] = []
    for one in asked:
        if one.question.image is None:
            without.append(one)
        else:
            with_image.setdefault(one.question.image, []).append(one)
    flat = [one for group in with_image.values() for one in group]
    return [*_cut(flat, size), *_cut(sorted(without, key=lambda one: len(one.prompt)), size)]


def _cut(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
