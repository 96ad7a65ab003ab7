"""What `diagnose` asks about: images of a folder, or drawn scenes, whose objects' boxes are known."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ..scenes.questions import PAIRS, POPE, article

if TYPE_CHECKING:
    from PIL import Image

Thing = tuple[str, tuple[int, int, int, int], float]
"""Name, box (left, top, right, bottom, in pixels) and visibility in [0, 1]."""
DEFAULT_QUESTION = "Please describe this image in detail."


@dataclass(frozen=True)
class Probe:
    """One question.

    Args:
        things: What is where in the image, if that is known;.
        asked: The name in question, or "".
    """

    image: "Image.Image | Path | Any"
    question: str
    things: tuple[Thing, ...] = ()
    asked: str = ""

    def boxes(self, every: bool = False) -> list[tuple[int, int, int, int]]:
        """Boxes of the asked object, or of every object."""
        return [box for name, box, _ in self.things if every or name == self.asked]


def from_scenes(n: int, questions: Sequence[str] = ()) -> list[Probe]:
    """n test scenes; about each whether its best seen object is there, or the questions given."""
    from ..scenes import sample
    from ..scenes.draw import render

    probes = []
    for scene in sample(n):
        things = tuple((thing.name, thing.box, thing.visibility) for thing in scene.objects)
        probes += probes_of(render(scene), things, questions)
    return probes


def from_folder(paths: Sequence[Path], questions: Sequence[str] = ()) -> list[Probe]:
    """The images of a folder; scenes among them know their objects."""
    from ..errors import BadImage
    from ..inputs.images import read_image
    from ..scenes.draw import objects_in

    probes: list[Probe] = []
    for path in paths:
        image = read_image(path)
        try:
            things = tuple(objects_in(path) or ())
        except (OSError, ValueError, TypeError) as error:
            raise BadImage(f"The list of objects in {path} is broken. Render the scene again.") from error
        probes += probes_of(image, things, questions)
    return probes


def probes_of(image: Any, things: tuple[Thing, ...], questions: Sequence[str]) -> list[Probe]:
    """The given questions about one image; without any, POPE's about its best seen object, or for a description."""
    if questions:
        return [Probe(image, question, things, _named(question, things)) for question in questions]
    one = [thing for thing in things if thing[0] not in PAIRS]
    if not one:
        return [Probe(image, DEFAULT_QUESTION, things)]
    name = max(one, key=lambda thing: _area(thing[1]) * thing[2])[0]
    return [Probe(image, POPE.format(a=article(name)), things, name)]


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _named(question: str, things: tuple[Thing, ...]) -> str:
    """The object of the image that the question names, the longest name first ("hot dog" before "dog")."""
    names = sorted({name for name, _, _ in things}, key=len, reverse=True)
    return next((name for name in names if re.search(rf"\b{re.escape(name)}\b", question.lower())), "")


def naming(words: Sequence[str], name: str) -> range:
    """Which of a prompt's words, or pieces of words, are the object's name (or its plural); an empty range if none are."""
    wanted = name.replace(" ", "")
    for start in range(len(words) if wanted else 0):
        for end in range(start + 1, len(words) + 1):
            if "".join(words[start:end]).lower() in (wanted, wanted + "s"):
                return range(start, end)
    return range(0)


def cells_on(
    boxes: Sequence[tuple[int, int, int, int]], size: tuple[int, int], rows: int, columns: int
) -> Bool[Tensor, " cells"]:
    """Patches that lie on a box: their middle is inside it, or its middle inside them. size: (width, height) in pixels."""
    across, down = size[0] / columns, size[1] / rows
    on = torch.zeros(rows, columns, dtype=torch.bool)
    x = (torch.arange(columns) + 0.5) * across
    y = (torch.arange(rows) + 0.5) * down
    for left, top, right, bottom in boxes:
        on |= ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None]
        row, column = int((top + bottom) / 2 / down), int((left + right) / 2 / across)
        on[min(row, rows - 1), min(column, columns - 1)] = True
    return on.flatten()
