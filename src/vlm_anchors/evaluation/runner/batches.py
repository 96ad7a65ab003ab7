"""Which questions are asked and which share a batch: functions of the data alone, so that every run makes the same ones."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ...errors import AnchorsWarning, BadData, BadImage, BadSetting
from ...inputs.images import read_image
from ..benchmarks.base import Benchmark, Question
from ..benchmarks.protocols import Protocol
from ..reading.files import find_image, missing_images

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """A question with the words the protocol puts around it."""

    question: Question
    prompt: str


def asked(
    bench: Benchmark, data: Path, images: Path, split: str | None, limit: int | None, chosen: Protocol
) -> list[Asked]:
    """The questions of `data` as the protocol puts them; raises `BadSetting` where one of their images is missing."""
    check_limit(limit)
    questions = bench.questions(data, split)[:limit]
    missing = missing_images(questions, images)
    if missing:
        raise BadSetting(
            f"{images} lacks {len(missing)} of the images, {missing[0]!r} first. Expected every image the questions "
            f"name, under its name or with another ending; choose the right --images, or fewer questions by --limit."
        )
    for question in questions:
        if not question.text.strip():
            raise BadData(
                f"The question {question.id!r} of {data} is empty. Expected a question as text; correct the data."
            )
    return [Asked(question, chosen.prompt(question.text)) for question in questions]


def unreadable(asked: Sequence[Asked], images: Path) -> dict[str, str]:
    """Why an image cannot be read, by its name; each is read whole, once."""
    find, found = find_image(images), {}
    for name in dict.fromkeys(one.question.image for one in asked if one.question.image is not None):
        try:
            read_image(find(name))
        except BadImage as problem:
            found[name] = str(problem)
    return found


def without_bad(questions: list[Asked], images: Path) -> tuple[list[Asked], list[str]]:
    """The questions whose images can be read, and the ids of the others, which a warning counts."""
    bad = unreadable(questions, images)
    skipped = [one.question.id for one in questions if one.question.image in bad]
    if skipped and len(skipped) == len(questions):
        raise BadSetting(
            f"None of the images of the {len(questions)} questions can be read. Look at those in {images}."
        )
    if skipped:
        warnings.warn(
            f"{len(skipped)} questions are left out: {len(bad)} images cannot be read. The first: {next(iter(bad.values()))}",
            AnchorsWarning,
            stacklevel=3,
        )
    return [one for one in questions if one.question.image not in bad], skipped


def require_readable(questions: Sequence[Asked], images: Path) -> None:
    """Raises `BadImage`, which names a question and --skip-bad, where the image of one cannot be read."""
    bad = unreadable(questions, images)
    about = [one.question for one in questions if one.question.image in bad]
    if about:
        raise BadImage(
            f"The images of {len(about)} of {len(questions)} questions cannot be read, that of question {about[0].id!r} first: "
            f"{bad[str(about[0].image)]} Restore them, or leave these questions out with --skip-bad (skip_bad=True)."
        )


def check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise BadSetting(f"--limit must be 1 or more; found {limit}.")


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
