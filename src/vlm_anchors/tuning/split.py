"""Which images settings are chosen on, and which are kept to judge the choice: never one image in both parts."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadSetting
from ..evaluation.benchmarks.base import Benchmark, Question
from ..evaluation.reading.files import find_image
from ..evaluation.statistics import FEW

FEWEST = 2
"""Images that each part needs: from one alone there is no interval."""

Image = tuple[str, ...]
"""The ids of the questions about one image."""


@dataclass(frozen=True)
class ImageSplit:
    """Questions by image, in the order in which they are asked."""

    validation: tuple[Image, ...]
    held_out: tuple[Image, ...]

    @property
    def rounds(self) -> tuple[int, ...]:
        """How many validation images have been asked about after each round: half as many in each round before the last."""
        sizes = [len(self.validation)]
        while sizes[0] // 2 >= FEW:
            sizes.insert(0, sizes[0] // 2)
        return tuple(sizes)

    def words(self) -> str:
        """The split in a sentence."""
        parts = [f"{len(part)} images ({sum(map(len, part))} questions)" for part in (self.validation, self.held_out)]
        return f"split by image: settings are chosen on {parts[0]} and judged on {parts[1]}; no image is in both parts"


def split_by_image(
    benchmark: Benchmark, questions: Sequence[Question], images: Path, share: float, seed: int, limit: int | None = None
) -> ImageSplit:
    """The questions divided by image; the same for the same seed.

    Images are one where the benchmark counts them as one, or where their files hold the same bytes under two names.

    Args:
        benchmark: Says which questions belong together.
        questions: Those that are asked.
        images: Folder of the images.
        share: Part of the images that is held out, between 0 and 1.
        seed: Of the division.
        limit: The number of questions that --limit cut the data to; None where it cut nothing.

    Raises:
        BadSetting: There are too few images.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise BadSetting(f"The held-out share must be above 0 and below 1; found {share!r}. 0.5 is usual.")
    together = _together(benchmark, questions, images)
    random.Random(seed).shuffle(together)
    held = min(max(round(share * len(together)), FEWEST), len(together) - FEWEST)
    if held < FEWEST:
        more = "Give more images" if limit is None else f"Raise --limit (limit=), which leaves {limit} questions"
        raise BadSetting(
            f"Expected questions about {2 * FEWEST} or more images, {FEWEST} to choose a setting on and {FEWEST} to judge it "
            f"on; found {len(together)}. {more}; some hundred images make intervals narrow enough to decide."
        )
    return ImageSplit(tuple(together[held:]), tuple(together[:held]))


def _together(benchmark: Benchmark, questions: Sequence[Question], images: Path) -> list[Image]:
    """Ids of questions that may not be parted, in the order of the data."""
    find = find_image(images) if any(question.image is not None for question in questions) else None
    digests: dict[str, str] = {}
    group_of: dict[str, int] = {}
    groups: dict[int, list[str]] = {}
    for number, question in enumerate(questions):
        keys = [f"cluster {benchmark.cluster(question.record(''))}"]
        if find is not None and question.image is not None:
            if question.image not in digests:
                digests[question.image] = hashlib.sha256(find(question.image).read_bytes()).hexdigest()
            keys.append(f"bytes {digests[question.image]}")
        known = sorted({group_of[key] for key in keys if key in group_of})
        first = known[0] if known else number
        for other in known[1:]:
            groups[first] += groups.pop(other)
            group_of.update({key: first for key, group in group_of.items() if group == other})
        groups.setdefault(first, []).append(question.id)
        group_of.update(dict.fromkeys(keys, first))
    return [tuple(ids) for ids in groups.values()]
