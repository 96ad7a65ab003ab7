"""POPE's questions over scenes, by POPE's own rule of construction (arXiv 2305.10355, section 4)."""

import collections
import random

from . import coco
from .scene import Scene

SPLITS = ("random", "popular", "adversarial")


def questions(scenes: list[Scene], seed: int) -> dict[str, list[tuple[Scene, str, bool]]]:
    """POPE's questions: three categories that are there, three that are not; per split (scene, category, there).

    As in POPE's own construction, frequencies and co-occurrence are counted over these very scenes."""
    frequency = collections.Counter(name for scene in scenes for name in sorted(scene.present))
    beside: dict[str, collections.Counter] = {name: collections.Counter() for name in frequency}
    for scene in scenes:
        for one in scene.present:
            beside[one].update(sorted(scene.present - {one}))
    ranked = _ranked(frequency)
    company = {name: _ranked(counter) for name, counter in beside.items()}
    rng = random.Random(seed)
    made: dict[str, list[tuple[Scene, str, bool]]] = {split: [] for split in SPLITS}
    for scene in scenes:
        there = list(scene.counts)[:3]
        lacking = [name for name in ranked if name not in scene.present]
        if len(lacking) < 3:  # so few scenes that they show too few categories: the others never occur
            lacking += [name for name in coco.CATEGORIES if name not in ranked]
        usual: list[str] = []
        for name in there:
            usual.append(next(x for x in [*company[name], *lacking] if x not in scene.present and x not in usual))
        for split, names in zip(SPLITS, (rng.sample(sorted(lacking), 3), lacking[:3], usual), strict=True):
            made[split] += [(scene, name, True) for name in there] + [(scene, name, False) for name in names]
    return made


def _ranked(counter: collections.Counter) -> list[str]:
    return sorted(counter, key=lambda name: (-counter[name], coco.CATEGORIES.index(name)))
