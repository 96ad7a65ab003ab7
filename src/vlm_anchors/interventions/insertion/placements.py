"""Where in its image a visual token stands: tile, row and column, all counted from 0.

Families lay patches out in their own ways: a square, tiles of a square each, rows that end with a newline, a grid the
processor tells. Needed to tell people where an anchor stands, and to find the end of a patch's row.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..token_map import Marks
from .mrope import GRIDS
from .plan import PAUSE, Copies

Place = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Places:
    """Everything needed to say where patches are, once it is asked for; holds no features.

    Args:
        patch: Visual tokens that are no newlines.
        sides: The grids and sizes the processor returned, if any.
    """

    ids: Int[Tensor, "b t"]
    marks: Marks
    patch: Bool[Tensor, "b t"]
    sides: Mapping[str, Tensor]
    config: Any
    tokenizer: Any

    def of_samples(self) -> list[dict[int, tuple[int, Place]]]:
        """For each sample: position in the sequence -> image, and place in it."""
        effects, number = [], 0
        for visual, image, patch in zip(self.marks.visual, self.marks.image, self.patch, strict=True):
            where: dict[int, tuple[int, Place]] = {}
            for one in range(int(image[visual].max()) + 1 if visual.any() else 0):
                at = (visual & (image == one)).nonzero()[:, 0].tolist()
                places = self._image(at, patch[at].tolist(), number)
                where.update((position, (one, place)) for position, place in zip(at, places, strict=True))
                number += 1
            effects.append(where)
        return effects

    def row_ends(self) -> Int[Tensor, "b t"]:
        """For each visual token the last token of its row of the image, a newline counted in; others for themselves."""
        ends = torch.arange(self.ids.shape[1]).repeat(len(self.ids), 1)
        for own, where in zip(ends, self.of_samples(), strict=True):
            last: dict[tuple[int, int, int], int] = {}
            for at, (image, (tile, row, _)) in where.items():
                last[image, tile, row] = max(at, last.get((image, tile, row), at))
            for at, (image, (tile, row, _)) in where.items():
                own[at] = last[image, tile, row]
        return ends.to(self.ids.device)

    def _image(self, at: list[int], patch: list[bool], number: int) -> list[Place]:
        grid = next((self.sides[name] for name in GRIDS.values() if name in self.sides), None)
        if grid is not None and len(self.sides.keys() & set(GRIDS.values())) == 1 and number < len(grid):
            merge = self.config.vision_config.spatial_merge_size
            _, rows, columns = (int(side) for side in grid[number])
            return _blocks(len(at), rows // merge, columns // merge)
        if not all(patch):
            return _lines(patch, self.config.vision_config.image_size // self.config.vision_config.patch_size)
        runs = _runs(at)
        if len(runs) > 1 and "image_sizes" in self.sides:  # rows with a break token after each
            return [(0, row, column) for row, length in enumerate(runs) for column in range(length)]
        if len(runs) > 1:
            return [(tile + more, row, column) for tile, n in enumerate(runs) for more, row, column in self._square(n)]
        return self._square(len(at))

    def _square(self, count: int) -> list[Place]:
        tile = (
            getattr(self.config, "image_seq_length", None) or getattr(self.config, "mm_tokens_per_image", None) or count
        )
        tile = tile if tile < count and count % tile == 0 else count
        side = math.isqrt(tile)
        return _blocks(count, side, side) if side * side == tile else [(0, 0, column) for column in range(count)]


def report(places: Places, copies: Copies, of_patch: bool) -> list[dict[str, Any]]:
    """What was inserted into each sample: how many tokens, and every anchor's word, patch and cosine."""
    samples = []
    columns = zip(copies.chosen, copies.source, copies.resembled, copies.cosine, strict=True)
    for sample, ((chosen, source, host, cosine), where) in enumerate(zip(columns, places.of_samples(), strict=True)):
        words, patches = (host, source) if of_patch else (source, host)
        found = [
            (int(words[column]), int(patches[column]), float(cosine[column]))
            for column in chosen.nonzero()[:, 0].tolist()
            if int(source[column]) != PAUSE
        ]
        ids = places.ids[sample].tolist()
        anchors = [_anchor(places, ids[word], where[patch], score) for word, patch, score in sorted(found)]
        gone = {} if copies.removed is None else {"tokens_removed": int(copies.removed[sample].sum())}
        samples.append({"tokens_inserted": int(chosen.sum()), **gone, "anchors": anchors})
    return samples


def nothing(samples: int) -> list[dict[str, Any]]:
    """What a method that was off tells."""
    return [{"tokens_inserted": 0, "anchors": []} for _ in range(samples)]


def _anchor(places: Places, token: int, where: tuple[int, Place], cosine: float) -> dict[str, Any]:
    image, (tile, row, column) = where
    word = None if places.tokenizer is None else places.tokenizer.decode([token]).strip()
    return {
        "word": word, "token": token, "image": image, "tile": tile, "row": row, "column": column, "cosine": round(cosine, 4),
    }  # fmt: skip


def _blocks(count: int, rows: int, columns: int) -> list[Place]:
    """Blocks of rows x columns one after another: tiles, or frames of a video."""
    size = max(rows * columns, 1)
    return [(i // size, i % size // columns, i % columns) for i in range(count)]


def _lines(patch: list[bool], side: int) -> list[Place]:
    """An image seen whole (side x side patches, tile 0), then in rows that end with a newline (tile 1)."""
    whole = side * side if all(patch[: side * side]) else 0
    places = _blocks(whole, side, side)
    row = column = 0
    for is_patch in patch[whole:]:
        places.append((1, row, column))
        row, column = (row, column + 1) if is_patch else (row + 1, 0)
    return places


def _runs(at: list[int]) -> list[int]:
    """Lengths of the unbroken runs of positions."""
    cuts = [i for i in range(1, len(at)) if at[i] != at[i - 1] + 1]
    return [end - start for start, end in zip([0, *cuts], [*cuts, len(at)], strict=True)]
