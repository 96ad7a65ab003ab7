"""Which objects stand together: COCO's own frequencies and pairs, as a sampler of object sets.

The counts (data/coco_counts.json) come from the 2014 COCO annotations. A pairwise maximum-entropy model was fitted to
them once (runs/scenes_sampler.py); its whole-number parameters lie in data/coco_sampler.json. Sampling is Gibbs
sampling with integers throughout, so a scene's number gives the same objects on every machine.
"""

import functools
import json
import math
from pathlib import Path

_NAMES = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign parking_meter "
    "bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee "
    "skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass "
    "cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch "
    "potted_plant bed dining_table toilet tv laptop mouse remote keyboard cell_phone microwave oven toaster sink "
    "refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"
)
CATEGORIES = tuple(name.replace("_", " ") for name in _NAMES.split())
DATA = Path(__file__).parent / "data"
MOST = 8  # sets of more categories (1.9 % of COCO) do not fit in an image of 128 pixels
UNIT = 256  # parameters are whole numbers of 1/256 nat
SWEEPS = 24
_REACH = 16 * UNIT  # beyond 16 nats a probability is 0 or 1 for us
_MASK = (1 << 64) - 1


@functools.cache
def counts() -> dict:
    """The embedded table: `names`, `images`, `single` (80), `pairs` (80 x 80, whole), `sizes` (size -> images)."""
    table = json.loads((DATA / "coco_counts.json").read_text())
    table["pairs"] = _square(table["pairs"])
    return table


def _square(rows: list[list[int]]) -> list[list[int]]:
    """Upper triangle without the diagonal -> symmetric 80 x 80."""
    n = len(rows) + 1
    whole = [[0] * n for _ in range(n)]
    for i, row in enumerate(rows):
        for j, value in enumerate(row, start=i + 1):
            whole[i][j] = whole[j][i] = value
    return whole


@functools.cache
def parameters() -> dict:
    """The fitted model: `bias` (80), `pair` (80 x 80) and `size` (by number of categories, 0..9), in 1/256 nat."""
    table = json.loads((DATA / "coco_sampler.json").read_text())
    table["pair"] = _square(table["pair"])
    return table


@functools.cache
def chances() -> list[int]:
    """Logistic function of -16..16 nats as whole numbers of 2^-24, indexed by nat * 256 + 4096."""
    return [round((1 << 24) / (1.0 + math.exp(-x / UNIT))) for x in range(-_REACH, _REACH + 1)]


def mix(number: int) -> int:
    """A well-mixed 64-bit whole number for any whole number (SplitMix64's finaliser)."""
    z = (number + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _draws(keys, step: int):
    """One uniform whole number below 2^24 a chain: uint64 array like `keys`."""
    import numpy as np

    z = keys + np.uint64(mix(step))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(40)


def gibbs(numbers: list[int], model: dict, sweeps: int = SWEEPS):
    """Object sets for scene numbers: bool array (80, len(numbers)); column i depends on numbers[i] and `model` alone."""
    import numpy as np

    bias, pair = np.array(model["bias"]), np.array(model["pair"], dtype=np.float64)
    steps = np.diff(np.array(model["size"]))  # what one object more costs at size 0, 1, ... 8
    keys = np.array([mix(number) for number in numbers], dtype=np.uint64)
    state = np.zeros((len(CATEGORIES), len(numbers)))
    state[_first(_draws(keys, 0)), np.arange(len(numbers))] = 1.0
    table, size = np.array(chances()), np.ones(len(numbers), dtype=np.int64)
    for step in range(1, sweeps * len(CATEGORIES) + 1):
        i = (step - 1) % len(CATEGORIES)
        size -= state[i].astype(np.int64)
        # float64 sums of whole numbers below 2^53 are exact, whatever the order of the additions
        field = bias[i] + (pair[i] @ state).astype(np.int64) + steps[size]
        chance = table[np.clip(field, -_REACH, _REACH) + _REACH]
        state[i] = _draws(keys, step).astype(np.int64) < chance
        state[i][size == 0] = 1.0  # a scene is never empty
        size += state[i].astype(np.int64)
    return state.astype(bool)


def _first(draws):
    """The object each chain starts with, by frequency: index array."""
    import numpy as np

    total = np.cumsum(np.array(counts()["single"]))
    return np.searchsorted(total, (draws.astype(np.int64) * int(total[-1])) >> 24, side="right")


def object_sets(numbers: list[int]) -> list[tuple[str, ...]]:
    """The categories of each numbered scene, in COCO's order."""
    columns = gibbs(numbers, parameters()).T
    return [tuple(CATEGORIES[i] for i in column.nonzero()[0]) for column in columns]
