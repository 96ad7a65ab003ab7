"""The image as the model sees it, and which visual token lies on which part of it.

Processors crop, scale and tile. A heat map over the file would lie wrong wherever they crop, so the frame shows the pixels
that went in; of a tiled image the tile that shows it whole.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..interventions.insertion.batch import read_prompts
from ..models.decoder import find_target

if TYPE_CHECKING:
    from PIL import Image

    from ..models.vlm import Vlm


@dataclass(frozen=True)
class ImageGrid:
    """A grid of patches over an image.

    Args:
        token: The visual token of each patch, in reading order.
    """

    image: "Image.Image"
    rows: int
    columns: int
    token: Int[Tensor, " cells"]
    visual: int
    """Visual tokens in all; more than there are cells where the image was tiled."""

    def grid(self, values: "Float[Tensor, '*l v']") -> "Float[Tensor, '*l rows columns']":
        """Values of visual tokens as they lie over the image."""
        return values[..., self.token].unflatten(-1, (self.rows, self.columns))

    @property
    def whole(self) -> bool:
        return self.visual == len(self.token)

    def shows_all_of(self, image: "Image.Image") -> bool:
        """Whether patches and image cover the same: not tiled, nothing cropped. Boxes lie where they did then."""
        (width, height), (wide, high) = self.image.size, image.size
        return self.whole and abs(width / height - wide / high) < 0.02


def grid_of(vlm: "Vlm", inputs: dict[str, Any], image: "Image.Image", visual: int) -> ImageGrid:
    """The frame of the first prompt's first image, which has so many visual tokens in all."""
    target = find_target(vlm.model, vlm.processor.tokenizer)
    places = _square(visual)
    if target.kind == "decoder":
        with torch.no_grad():
            prompts = read_prompts("look", vlm, inputs, "all", strict=False)
        if prompts is not None:
            summary = prompts._places().of_samples()[0]
            order = sorted(summary)
            places = [(at, summary[position][1]) for at, position in enumerate(order) if summary[position][0] == 0]
            places = [(at, place) for at, place in places if bool(prompts.patch[0, order[at]])]
    tiles = {tile for _, (tile, _, _) in places}
    whole = max(tiles) if target.family.thumbnail == "last" else min(tiles)
    cells = sorted((row, column, at) for at, (tile, row, column) in places if tile == whole)
    rows, columns = 1 + max(row for row, _, _ in cells), 1 + max(column for _, column, _ in cells)
    token = torch.tensor([at for _, _, at in cells])
    if len(cells) != rows * columns:  # rows of unequal length: shown one behind the other
        rows, columns = 1, len(cells)
    return ImageGrid(as_seen(vlm, inputs, image, whole), rows, columns, token, visual)


def _square(count: int) -> list[tuple[int, tuple[int, int, int]]]:
    side = math.isqrt(count)
    width = side if side * side == count else count
    return [(at, (0, at // width, at % width)) for at in range(count)]


def as_seen(vlm: "Vlm", inputs: dict[str, Any], image: "Image.Image", tile: int = 0) -> "Image.Image":
    """The pixels that went into the vision tower, with the processor's normalisation undone; the image itself where the
    processor hands over cut patches."""
    from PIL import Image

    pixels, processor = inputs.get("pixel_values"), getattr(vlm.processor, "image_processor", None)
    if pixels is None or processor is None or pixels.dim() not in (4, 5) or pixels.shape[-3] != 3:
        return image
    one = pixels[min(tile, len(pixels) - 1)] if pixels.dim() == 4 else pixels[0, min(tile, pixels.shape[1] - 1)]
    one = one.float().cpu()
    if getattr(processor, "do_normalize", False):
        mean, deviation = (
            torch.tensor(list(values)).view(3, 1, 1) for values in (processor.image_mean, processor.image_std)
        )
        one = one * deviation + mean
    values = (one.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.fromarray(values.numpy())
