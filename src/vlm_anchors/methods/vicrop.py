"""ViCrop: visual cropping by relative attention.                             arXiv 2502.17422, ICLR 2025

Models often look at the right place even when they answer wrongly. Where they look more for this question than for any, a
crop is made, and given beside the image:

    A(q)    = mean over heads of A_h(last row, patches) in layer l, for the image and a question q           (l = 15 of 32)
    R       = A(question) / A("Write a general description of the image.")
    for each r in 1, 1.2, ..., 2: the window of r size x r size pixels, on whole patches, with the largest sum of R, and
              how far that sum is above the mean of its neighbours' (one patch left, right, up, down), divided by its patches
    crop    = the window, in pixels, of the r where that is largest;   the answer is to [image, crop, question]

It costs two more passes over the prompt before the answer, and a prompt that is one image longer; nothing in the model is
changed. The image itself is cropped, at its own resolution, so the method needs it: `prepare` takes `samples`.

Where code and paper differ. The paper has two more maps (gradients; gradients times attention), which are not here. The code
adds " Answer the question using a single word or phrase." to both prompts; ours asks what it is asked: put it into the
question, and into `general`. Its window begins at 336 pixels for LLaVA-1.5 and 224 otherwise, ours at the vision tower's own
image size where its config has one, which is 336 for LLaVA-1.5. Its layer is 15 of 32 for LLaVA-1.5 (14 from 0) and 23 of 36
for Qwen2.5-VL-3B (22 from 0), which the preset has; ours scales 15 of 32. It lays the map over the whole image although
LLaVA's processor crops the middle of it: `region="whole"`; ours lays it over what the processor keeps ("seen"). An image
that is smaller than the window is its own crop, there and here. Samples without an image, or with several, are left as they
are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadParameter, CannotAct
from ..inputs.prompt_builder import Sample
from ..inputs.prompt_builder import prepare as written
from ..interventions.insertion.anchored import Anchored
from ..interventions.method import DEFAULTS, Method, Preset
from ..models.decoder import find_target
from ..parameters import parameter
from .shared import scaled

if TYPE_CHECKING:
    from PIL import Image

    from ..interventions.attention_view import AttentionEdit, AttentionView
    from ..models.decoder import AttentionTarget
    from ..models.vlm import Vlm

LAYER = 15
RATIOS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
SIZE = 224
GENERAL = "Write a general description of the image."
Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge in pixels of the image."""


@dataclass(frozen=True)
class ViCrop(Method):
    """Visual cropping by relative attention (arXiv 2502.17422); for `va.ask`, `va.ask_many` and `eval`.

    Args:
        crop: Whether there is a crop; False = off.
        layer: The layer, from 1, whose attention is read; None = 15 of 32, scaled to the model's depth.
        size: Side of the smallest window in pixels of the image; None = the vision tower's image size, or 224.
        general: The prompt that the question's map is compared with.
        region: What the map lies over: "seen", what the processor keeps of an image, or the "whole" image.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"prepare"})
    reads_samples: ClassVar[bool] = True
    families: ClassVar[tuple[str, ...]] = ("llava", "qwen2-vl", "qwen2.5-vl")
    elsewhere: ClassVar[str] = "refused"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "any", "official-code", {"region": "whole"}),
        Preset("qwen2.5-vl-3b", "any", "official-code", {"layer": 23, "size": 224, "region": "whole"}),
        DEFAULTS,
    )

    crop: bool = parameter(True)
    layer: int | None = parameter(None, 1, whole=True, optional=True)
    size: int | None = parameter(None, 1, whole=True, optional=True)
    general: str = GENERAL
    region: str = parameter("seen", choices=("seen", "whole"))

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.general, str) or not self.general.strip():
            raise BadParameter(f"ViCrop.general must be a prompt in words; found {self.general!r}.")

    def disabled(self) -> "ViCrop":
        return replace(self, crop=False)

    def check(self, target: "AttentionTarget") -> None:
        if target.family.name not in self.families:
            raise CannotAct(
                f"vicrop lays attention over the image as one grid of patches, which is tested on {', '.join(self.families)}; "
                f"on {target.family.title} it is not. Use a model of one of these, or another method."
            )
        if self.layer is not None:
            target.require_layer(self.layer, "layer")

    def prepare(
        self, vlm: "Vlm | Any", inputs: Mapping[str, Any], *, samples: Sequence[Sample] = (), **options: Any
    ) -> dict[str, Any]:
        """Inputs with a crop of the image beside it.

        Args:
            vlm: What `va.load` returns.
            inputs: What the processor made of the samples.
            samples: The questions with their images, which inputs no longer hold.

        Returns:
            Inputs for `model.generate`; `.effects` has the crop of each sample.

        Raises:
            CannotAct: Without samples, or on a family whose visual tokens are no grid.
        """
        if not self.crop:
            return Anchored(dict(inputs), lambda: [{"vicrop": {"images_added": 0}} for _ in inputs["input_ids"]])
        if not samples or not hasattr(vlm, "processor"):
            raise CannotAct(
                "vicrop crops the images themselves, and these inputs hold only what the processor made of them. Use ask, "
                "ask_many or eval with what va.load returns, or pass samples= to prepare."
            )
        if any(sample.chat is not None for sample in samples):
            raise CannotAct(
                "vicrop asks one question behind its image, with a crop beside it, and has no form for conversations and videos. "
                "Ask the last question alone, or use another method."
            )
        single = [sample for sample in samples if len(sample.images) == 1]
        found = iter(self.boxes(vlm, single) if single else ())
        boxes = [next(found) if len(sample.images) == 1 else None for sample in samples]
        shown = [_with_crop(sample, box) for sample, box in zip(samples, boxes, strict=True)]
        return Anchored(written(vlm, shown).tensors, lambda: [{"vicrop": _effects(box)} for box in boxes])

    def boxes(self, vlm: "Vlm", samples: Sequence[Sample]) -> list[Box]:
        """The part of each sample's one image that is cropped."""
        asked, usual = (
            self._maps(vlm, [replace(sample, question=question or sample.question) for sample in samples])
            for question in ("", self.general)
        )
        size = self.size or getattr(vlm.model.config.vision_config, "image_size", None) or SIZE
        found = []
        for sample, own, general in zip(samples, asked, usual, strict=True):
            left, top, right, bottom = self._region(vlm, sample.images[0])
            relative = own / general.clamp(min=torch.finfo(general.dtype).tiny)
            box = best_window(relative, (right - left, bottom - top), size)
            found.append((box[0] + left, box[1] + top, box[2] + left, box[3] + top))
        return found

    def _region(self, vlm: "Vlm", image: "Image.Image") -> Box:
        """The part of an image that lies under the patches."""
        width, height = image.size
        processor = getattr(vlm.processor, "image_processor", None)
        if self.region == "whole" or not getattr(processor, "do_center_crop", False):
            return 0, 0, width, height
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side

    def _maps(self, vlm: "Vlm", samples: Sequence[Sample]) -> list[Float[Tensor, "_rows _columns"]]:
        """Attention of each prompt's last row to its image, as it lies over the image."""
        from ..interventions.attachment import attach
        from .none import Plain

        target = find_target(vlm.model, vlm.processor.tokenizer)
        self.check(target)
        inputs = written(vlm, samples).tensors
        seen = LastRow(self.layer or scaled(LAYER, target.depth))
        with attach(vlm, Plain(), recorder=seen), torch.no_grad():
            vlm.model(**inputs, logits_to_keep=1)
        grids = inputs.get("image_grid_thw")
        maps = []
        for number_of, (looks, valid) in enumerate(zip(seen.looks, seen.valid, strict=True)):
            own = looks[valid]
            if grids is None:
                rows = columns = round(len(own) ** 0.5)
            else:
                merge = vlm.model.config.vision_config.spatial_merge_size
                rows, columns = (int(n) // merge for n in grids[number_of, 1:])
            maps.append(own.view(rows, columns))
        return maps


class LastRow:
    """A recorder of one layer: how much the row that chooses the next token attends to each visual token."""

    def __init__(self, layer: int):
        self.layer = layer
        self.looks: Float[Tensor, "b v"] = torch.empty(0, 0)
        self.valid: Tensor = torch.empty(0, 0)

    def see(self, view: "AttentionView", edit: "AttentionEdit | None") -> None:
        if view.layer == self.layer:
            self.looks = view.at_visual(view.last_row_weights()).mean(1)[:, 0].cpu()
            self.valid = view.visual.valid.cpu()


def best_window(relative: Float[Tensor, "rows columns"], image: tuple[int, int], size: int) -> Box:
    """The window whose attention stands out most from that around it.

    Args:
        relative: Attention of each patch of the image.
        image: Width and height of the image in pixels.
        size: Side of the smallest window in pixels.
    """
    (rows, columns), (width, height) = relative.shape, image
    patch = width / columns, height / rows
    best: tuple[float, float, int, int, int, int] | None = None
    for ratio in RATIOS:
        wide = max(min(int(size * ratio / patch[0]), columns), 1)
        high = max(min(int(size * ratio / patch[1]), rows), 1)
        if wide == columns and high == rows:
            break  # this and every larger window is the whole image
        sums = relative.double().unfold(0, high, 1).unfold(1, wide, 1).sum((-1, -2))
        at = int(sums.argmax())
        y, x = at // sums.shape[1], at % sums.shape[1]
        beside = [(y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)]
        around = [float(sums[r, c]) for r, c in beside if 0 <= r < sums.shape[0] and 0 <= c < sums.shape[1]]
        sharp = (float(sums[y, x]) - sum(around) / len(around)) / (wide * high)
        if best is None or sharp > best[0]:
            best = sharp, ratio, x, y, wide, high
    if best is None:
        return 0, 0, width, height
    _, ratio, x, y, wide, high = best
    half = size * ratio // 2
    middle = _inside(int((x + wide / 2) * patch[0]), half, width), _inside(int((y + high / 2) * patch[1]), half, height)
    left, top = max(0, middle[0] - half), max(0, middle[1] - half)
    right, bottom = min(width, middle[0] + half), min(height, middle[1] + half)
    return int(left), int(top), int(right), int(bottom)


def _inside(middle: float, half: float, length: int) -> float:
    """The middle of a window, moved so that it does not stand out of the image."""
    return min(max(middle, half), length - half)


def _with_crop(sample: Sample, box: Box | None) -> Sample:
    return sample if box is None else replace(sample, images=(*sample.images, sample.images[0].crop(box)))


def _effects(box: Box | None) -> dict[str, Any]:
    return {"images_added": 0} if box is None else {"images_added": 1, "crop": list(box)}
