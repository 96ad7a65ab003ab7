"""A scene: which objects stand where, how large, how turned and tinted. Whole numbers only, so that the same number
gives the same scene on every machine; pixels come later (draw.py)."""

import random
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from ..errors import BadParameter
from . import coco, sprites

SIZE = 128  # pixels a side
COLOURS = ("red", "yellow", "green", "blue", "purple", "pink", "white", "black")  # no "orange": it is an object too
POSITIONS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
SPLITS = {"train": 0, "val": 1 << 40, "test": 2 << 40}  # scene numbers; no number lies in two splits
DRAWN = 3 << 40  # scenes made from given object lists
MOST_OBJECTS = 12
BACKGROUNDS = {
    "street": "car motorcycle bus truck traffic_light fire_hydrant stop_sign parking_meter bicycle bench",
    "grass": "horse sheep cow elephant bear zebra giraffe dog frisbee kite baseball_bat baseball_glove sports_ball",
    "sky": "airplane bird",
    "water": "boat surfboard umbrella",
    "snow": "skis snowboard",
    "kitchen": "microwave oven toaster sink refrigerator toilet hair_drier toothbrush",
    "table": "bottle wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza "
    "donut cake dining_table vase",
    "room": "cat chair couch potted_plant bed tv laptop mouse remote keyboard cell_phone book clock scissors teddy_bear "
    "backpack handbag tie suitcase",
    "court": "tennis_racket skateboard train",
    "plain": "person",
}
_HOME = {name.replace("_", " "): ground for ground, names in BACKGROUNDS.items() for name in names.split()}


@dataclass(frozen=True)
class SceneObject:
    """One object: its `box` (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; `visibility` in [0, 1] is the share of the
    box that nothing drawn later covers, times the object's opacity."""

    name: str
    box: tuple[int, int, int, int]
    colour: str | None
    position: str
    visibility: float
    sprite: int
    angle: int
    mirrored: bool
    opacity: int  # per cent


@dataclass(frozen=True)
class Scene:
    """Everything there is to know about one image. Objects are drawn in the order of `objects`."""

    seed: int
    size: int
    background: str
    objects: tuple[SceneObject, ...]

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many of each category, in the order drawn."""
        return dict(Counter(thing.name for thing in self.objects))

    @cached_property
    def present(self) -> frozenset[str]:
        """The categories in the image."""
        return frozenset(self.counts)

    def of(self, name: str) -> list[SceneObject]:
        """The objects of a category."""
        return [thing for thing in self.objects if thing.name == name]

    def mirror(self) -> "Scene":
        """The same scene with left and right exchanged (what training shows every other time)."""
        return replace(self, objects=tuple(_mirrored(thing, self.size) for thing in self.objects))

    def to_dict(self) -> dict:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Scene":
        """The inverse of to_dict, also after a round trip through JSON."""
        things = [SceneObject(**{**thing, "box": tuple(thing["box"])}) for thing in values["objects"]]
        return cls(**{**values, "objects": tuple(things)})


def _mirrored(thing: SceneObject, size: int) -> SceneObject:
    box = (size - thing.box[2], thing.box[1], size - thing.box[0], thing.box[3])
    return replace(thing, box=box, position=position_of(box, size), mirrored=not thing.mirrored)


def position_of(box: tuple[int, int, int, int], size: int = SIZE) -> str:
    """The ninth of the image in which a box has its middle."""
    column = min(2, (box[0] + box[2]) * 3 // (2 * size))
    row = min(2, (box[1] + box[3]) * 3 // (2 * size))
    return POSITIONS[3 * row + column]


def numbers(n: int, seed: int = 0, split: str = "test") -> list[int]:
    """Scene numbers of a split: consecutive, and apart for seeds 0, 1, 2 ... as long as n <= 1,000,000."""
    return [SPLITS[split] + seed * 1_000_000 + i for i in range(n)]


def sample(n: int, seed: int = 0, *, split: str = "test") -> list[Scene]:
    """n scenes with COCO's frequencies and co-occurrence. "test" scenes are never seen in training."""
    chosen = numbers(n, seed, split)
    found = []
    for at in range(0, n, 8192):  # the sampler's chains in memory at a time
        part = chosen[at : at + 8192]
        found += [
            _scene(number, _counted(number, names)) for number, names in zip(part, coco.object_sets(part), strict=True)
        ]
    return found


def from_objects(names: Iterable[str], seed: int = 0) -> Scene:
    """A scene of exactly these objects; a name listed twice is drawn twice.

    Raises:
        BadParameter: There are none, too many, or one that cannot be drawn.
    """
    names = list(names)
    if not 1 <= len(names) <= MOST_OBJECTS:
        raise BadParameter(f"A scene has 1 to {MOST_OBJECTS} objects; found {len(names)}.")
    for name in names:
        if name not in coco.CATEGORIES:
            raise BadParameter(f"{name!r:.60} is no object that can be drawn. Expected one of the 80 COCO categories.")
    number = DRAWN + (zlib.crc32("\n".join(names).encode()) << 8) + seed % 256 + (seed >> 8 << 44)
    return _scene(number, names)


def _pick(rng: random.Random, n: int) -> int:
    """Uniform below n. `random()` alone is promised to stay the same in every version of Python."""
    return int(rng.random() * n)


def _counted(number: int, names: tuple[str, ...]) -> list[str]:
    """How many of each: mostly one, up to four, at most eight objects in all."""
    rng = random.Random(coco.mix(number ^ 0xC0))
    wanted: list[str] = []
    for i, name in enumerate(names):
        more = (0, 0, 0, 0, 0, 0, 1, 1, 2, 3)[_pick(rng, 10)]
        room = 8 - len(wanted) - (len(names) - i)
        wanted += [name] * (1 + min(more, max(0, room)))
    return wanted


def _scene(number: int, names: list[str]) -> Scene:
    rng = random.Random(coco.mix(number))
    order = sorted(names, key=lambda _: rng.random())
    tints = {name: COLOURS[_pick(rng, 8)] if rng.random() < 0.4 else None for name in sorted(set(names))}
    things: list[SceneObject] = []
    for name in order:
        things.append(_placed(rng, name, tints[name], len(names), things))
    ground = _HOME[order[_pick(rng, len(order))]] if rng.random() < 0.75 else sorted(BACKGROUNDS)[_pick(rng, 10)]
    return Scene(number, SIZE, ground, tuple(_with_visibility(things)))


def _side(rng: random.Random, total: int) -> int:
    """An object's longer side before turning, in pixels; one in twelve is tiny."""
    if rng.random() < 0.08:
        return 13 + _pick(rng, 8)
    low, high = ((40, 66), (40, 66), (36, 60), (33, 54), (30, 50), (28, 46), (26, 42), (25, 38), (24, 36))[
        min(total, 9) - 1
    ]
    if total > 9:
        low, high = 20, 30
    return low + _pick(rng, high - low + 1)


def _placed(rng: random.Random, name: str, colour: str | None, total: int, before: list[SceneObject]) -> SceneObject:
    """Draws how the object looks and the least crowded of a few places for it."""
    kinds = sprites.sprites_of(name)
    sprite, angle = kinds[_pick(rng, len(kinds))], sprites.ANGLES[_pick(rng, len(sprites.ANGLES))]
    mirrored, size = rng.random() < 0.5, _side(rng, total)
    opacity = 30 + _pick(rng, 26) if rng.random() < 0.07 else 100
    width, height = sprites.sides(sprite, angle, mirrored, size)
    tries = 1 if rng.random() < 0.1 else 12
    boxes = []
    for _ in range(12):  # always twelve draws: what follows does not depend on how many are used
        x, y = _pick(rng, SIZE - width + 1), _pick(rng, SIZE - height + 1)
        boxes.append((x, y, x + width, y + height))
    box = min(boxes[:tries], key=lambda box: _crowding(box, before))
    return SceneObject(name, box, colour, position_of(box), 1.0, sprite, angle, mirrored, opacity)


def _crowding(box: tuple[int, int, int, int], before: list[SceneObject]) -> int:
    """Pixels shared with the boxes already there; a middle near the border of two ninths counts like a few more."""
    shared = 0
    for other in before:
        width = min(box[2], other.box[2]) - max(box[0], other.box[0])
        height = min(box[3], other.box[3]) - max(box[1], other.box[1])
        shared += max(0, width) * max(0, height)
    for low, high in ((box[0], box[2]), (box[1], box[3])):
        from_border = min(abs(3 * (low + high) - 2 * SIZE * k) for k in (1, 2))  # in sixths of a pixel
        shared += 80 if from_border < 30 else 0
    return shared


def _with_visibility(things: list[SceneObject]) -> list[SceneObject]:
    """Counts, row by row, the pixels of each box under no later box; a row's pixels are the bits of a number."""
    seen, covered = [], [0] * SIZE
    for thing in reversed(things):
        x0, y0, x1, y1 = thing.box
        own = (1 << x1) - (1 << x0)
        free = sum((own & ~covered[y]).bit_count() for y in range(y0, y1))
        for y in range(y0, y1):
            covered[y] |= own
        percent = 100 * free // ((x1 - x0) * (y1 - y0))
        seen.append(replace(thing, visibility=percent * thing.opacity / 10000))
    return seen[::-1]
