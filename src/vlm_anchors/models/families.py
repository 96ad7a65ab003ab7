"""What we know of model families: one row each, facts only. Imports nothing heavy.

A new family is a row in `families_tiles.py` or `families_grid.py` and a builder in the tests, never an `if` elsewhere.
`docs/families.md` is printed from this table.
"""

from typing import TYPE_CHECKING

from .families_grid import GRID
from .families_refused import REFUSED
from .families_tiles import TILES
from .family import AGAIN, UNKNOWN, Family

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FAMILIES: tuple[Family, ...] = (*TILES, *GRID, *REFUSED)


def family_of(config: "PreTrainedConfig") -> Family:
    """The row of a model's config; `UNKNOWN` if its model type is in no row."""
    vision = getattr(getattr(config, "vision_config", None), "model_type", None)
    for model_type in (f"{config.model_type}+{vision}", config.model_type):
        for family in FAMILIES:
            if model_type in family.model_types:
                return family
    return UNKNOWN


def read_again(what: str) -> tuple[str, ...]:
    """Names of the families of which a method may read this much a second time."""
    return tuple(family.name for family in FAMILIES if AGAIN.index(family.again) >= AGAIN.index(what))


__all__ = ["AGAIN", "FAMILIES", "UNKNOWN", "Family", "family_of", "read_again"]
