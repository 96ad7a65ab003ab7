"""The sprite sheet: which pictures there are of each category, how large they are when turned."""

import functools
import json

from .coco import DATA

TILE = 64  # pixels a side of one sprite in the sheet
COLUMNS = 16
ANGLES = (-24, -18, -12, -6, 0, 6, 12, 18, 24)  # degrees; few, so that sizes can be tabled for every machine


@functools.cache
def index() -> list[dict]:
    """Every sprite: `name` (category) and `sides`, its (width, height) in 1/64 of its size at each of ANGLES."""
    return json.loads((DATA / "sprites.json").read_text())


@functools.cache
def sprites_of(name: str) -> tuple[int, ...]:
    """Numbers of the sprites that show a category."""
    return tuple(i for i, sprite in enumerate(index()) if sprite["name"] == name)


def sides(sprite: int, angle: int, mirrored: bool, size: int) -> tuple[int, int]:
    """Width and height in pixels of a sprite drawn at a size: whole numbers, the same on every machine."""
    at = ANGLES.index(-angle if mirrored else angle)
    return tuple(max(2, (side * size + TILE // 2) // TILE) for side in index()[sprite]["sides"][at])


@functools.cache
def _sheet():
    from PIL import Image

    return Image.open(DATA / "sprites.png").convert("RGBA")


def turned(tile, angle: int):
    """A tile turned by degrees and cut to what is clearly visible of it."""
    from PIL import Image

    tile = tile.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    return tile.crop(tile.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox())


@functools.lru_cache(maxsize=4096)
def picture(sprite: int, angle: int, mirrored: bool):
    """One sprite, turned, then mirrored: RGBA image at the sheet's resolution."""
    from PIL import Image

    x, y = sprite % COLUMNS * TILE, sprite // COLUMNS * TILE
    tile = _sheet().crop((x, y, x + TILE, y + TILE))
    image = turned(tile, -angle if mirrored else angle)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
