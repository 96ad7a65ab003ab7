"""Scenes to show: each with an object that is there, and one that is not but usually stands beside it."""

from typing import Any

from . import coco
from .questions import PAIRS
from .scene import Scene, sample


def chosen_scenes(n: int) -> list[tuple[Scene, str, str]]:
    """The first n test scenes with three kinds of objects or more, each with the object seen best and an absent one.

    The absent one is what stands most often beside one of the present in COCO's photographs; no two scenes share
    either.
    """
    found: list[tuple[Scene, str, str]] = []
    for scene in sample(50):
        there, absent = seen_best(scene), usual_but_absent(scene)
        fresh = all(there != other[1] and absent != other[2] for other in found)
        if len(scene.present) >= 3 and fresh:
            found.append((scene, there, absent))
        if len(found) == n:
            break
    return found


def seen_best(scene: Scene) -> str:
    """The name of the object with the largest uncovered area; nothing that comes in pairs, which "a" does not fit."""

    def area(thing: Any) -> float:
        left, top, right, bottom = thing.box
        return (right - left) * (bottom - top) * thing.visibility

    return max((thing for thing in scene.objects if thing.name not in PAIRS), key=area).name


def usual_but_absent(scene: Scene) -> str:
    """The absent object with the highest chance, in COCO, beside some object that is there."""
    table = coco.counts()
    names = list(coco.CATEGORIES)
    there = [names.index(name) for name in scene.present]

    def chance(i: int) -> float:
        return max(table["pairs"][j][i] / table["single"][j] for j in there)

    return max(
        (name for name in names if name not in scene.present and name not in PAIRS),
        key=lambda name: chance(names.index(name)),
    )
