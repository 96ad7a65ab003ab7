"""VCD: visual contrastive decoding.                                       arXiv 2311.16922, CVPR 2024

What the model says whatever it sees, it also says when the image is noise; that part is taken off:

    z        = (1 + alpha) z(v) - alpha z(v'),    tokens with p(v) < beta max p(v) are left out
    v'       = sqrt(abar_t) v + sqrt(1 - abar_t) eps                     the normalised pixels after t diffusion steps
    beta_t   = sigmoid(linspace(-6, 6, 1000)) (0.005 - 1e-5) + 1e-5,     abar_t = prod (1 - beta)

Where code and paper differ. The official shell script for LLaVA asks for alpha 1 and beta 0.2; the one for Qwen-VL for alpha
1 and its own beta, 0.1; the one for InstructBLIP passes no alpha, so that the sampler's 0.5 holds, and beta is the program's
0.1. The presets have what runs. The code replaces sampling only and does nothing when decoding greedily; ours acts in every
mode. Noise is drawn once an image; ours comes from `seed` alone, the same for every image of a size, so that an answer does
not depend on its batch. Models whose processor cuts the image into flat patches (Qwen) are noised on those patches; a patch
holds its piece of a still image twice over (for a video, two frames), and both copies get the same noise, as if the image
itself had been noised.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..interventions.method import DEFAULTS, Method, Preset
from ..models.families import read_again
from ..models.vision import is_pixels
from ..parameters import parameter
from .shared import ONLY_ONE_LEFT, Counted, warn_untested

if TYPE_CHECKING:
    from ..interventions.branch.branch_prompt import Prompt
    from ..interventions.branch.contrastive import BranchInputs
    from ..interventions.branch.model_branch import ModelInputs
    from ..interventions.forward_pass import Generation
    from ..interventions.forward_view import ForwardPass
    from ..models.decoder import AttentionTarget

DIFFUSION_STEPS = 1000


@dataclass(frozen=True)
class VCD(Method):
    """Visual contrastive decoding (arXiv 2311.16922).

    Args:
        alpha: How much of the noised image's logits is taken off; 0 = no contrastive branch.
        beta: Tokens less probable than this share of the most probable one are left out; 0 = none.
        step: Diffusion steps of noise, 0 to 999.
        seed: Of the noise.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"logits"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = read_again("pixels")
    elsewhere: ClassVar[str] = "warns"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "pope", "official-code", {"alpha": 1.0, "beta": 0.2, "step": 500}),
        Preset("instructblip-7b", "pope", "official-code", {"alpha": 0.5, "beta": 0.1, "step": 500}),
        Preset("qwen-vl", "pope", "official-code", {"alpha": 1.0, "beta": 0.1, "step": 500}),
        Preset("qwen2.5-vl-7b", "pope", "ours", {"beta": 0.2}),
        DEFAULTS,
    )

    alpha: float = parameter(1.0, 0, slider=(0, 3, 0.1))
    beta: float = parameter(0.1, 0, 1, slider=(0, 1, 0.05), senseless=ONLY_ONE_LEFT)
    step: int = parameter(500, 0, DIFFUSION_STEPS - 1, whole=True, slider=(0, 999, 1))
    seed: int = parameter(0, 0, 2**63 - 1, whole=True)

    @property
    def leaves_prefix_alone(self) -> bool:
        return True

    def active_hooks(self) -> frozenset[str]:
        return self.hooks if self.alpha or self.beta else frozenset()

    def disabled(self) -> "VCD":
        return replace(self, alpha=0.0, beta=0.0)

    def check(self, target: "AttentionTarget") -> None:
        warn_untested(self, target)

    def new_state(self) -> Counted:
        return Counted()

    def branch(self, prompt: "Prompt") -> "BranchInputs | ModelInputs | None":
        if not self.alpha:
            return None
        vision = getattr(prompt.target.outer[-1].config, "vision_config", None)
        return prompt.with_pixels(functools.partial(self._noised, vision))

    def _noised(self, vision: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the vision tower is given, each picture in it with noise."""
        grid = next((given[name] for name in ("image_grid_thw", "target_sizes") if given.get(name) is not None), None)
        pictures = {name: value for name, value in given.items() if is_pixels(name, value)}
        return {
            **given,
            **{name: noised(value, self.step, self.seed, grid, vision) for name, value in pictures.items()},
        }

    def logits(self, view: "ForwardPass", first: Tensor, second: Tensor | None) -> Tensor:
        return view.state.contrast(first, second, self.alpha, self.beta)

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        return [generation.state.effects() for _ in generation.visual.valid]


@functools.cache
def kept_signal() -> Tensor:
    """abar of every diffusion step, double precision."""
    ramp = torch.linspace(-6, 6, DIFFUSION_STEPS, dtype=torch.float64)
    return (1 - (ramp.sigmoid() * (0.5e-2 - 1e-5) + 1e-5)).cumprod(0)


def noised(pixels: Tensor, step: int, seed: int, grid: Tensor | None = None, vision: Any = None) -> Tensor:
    """Pixels with diffusion noise.

    grid: where the images are patches, how many (in time, down, across) each has, and then vision is the config of the
    tower that reads them. Every image draws from a fresh generator on the host, so its noise depends on neither its
    place nor the device. What a processor filled up (tiles or patches of zeros) stays as it is.
    """
    signal = float(kept_signal()[step])
    drawn = _drawn_for(pixels, seed, grid, vision).to(pixels.device)
    new = signal**0.5 * pixels.float() + (1 - signal) ** 0.5 * drawn
    return torch.where(_filling(pixels), pixels.float(), new).to(pixels.dtype)


def _drawn_for(pixels: Tensor, seed: int, grid: Tensor | None, vision: Any) -> Tensor:
    counts = [] if grid is None else grid.prod(-1).tolist()
    if counts and len(pixels) == sum(counts):
        sizes = zip(grid[:, 0].tolist() if grid.shape[1] == 3 else [1] * len(counts), counts, strict=True)  # type: ignore
        return torch.cat([_patches(seed, frames, count, pixels, vision) for frames, count in sizes])
    if counts and len(pixels) == 1 and pixels.dim() == 4:
        side = pixels.shape[-1] // sum(counts)  # all images side by side, patch after patch
        return torch.cat([_drawn(seed, *pixels.shape[:-1], count * side) for count in counts], -1)
    own = pixels.shape[-3:] if pixels.dim() > 3 else pixels.shape[-2:]
    return _drawn(seed, *own).expand_as(pixels)


def _filling(pixels: Tensor) -> Tensor:
    """Tiles that fill up a batch of several images, patches that fill up a batch of several sizes."""
    if pixels.dim() > 4:
        return (pixels == 0).flatten(-3).all(-1)[..., None, None, None]
    empty: Tensor = (pixels == 0).all(-1, keepdim=True)
    return empty if pixels.dim() == 3 else torch.zeros_like(empty)


def _drawn(seed: int, *shape: int) -> Tensor:
    """Noise of one shape; of shapes that differ in their first size only, one begins with the other."""
    size = math.prod(shape)
    whole = torch.randn(-(-size // 16) * 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return whole[:size].view(shape)


def _patches(seed: int, frames: int, count: int, pixels: Tensor, vision: Any) -> Tensor:
    """Noise of one image's patches: a row is channel x time x height x width, and a still image is copied over time."""
    if pixels.dim() > 2:
        return _drawn(seed, count, *pixels.shape[1:])
    times = getattr(vision, "temporal_patch_size", None) or getattr(vision, "patch_temporal", None) or 1
    channels = getattr(vision, "in_channels", None) or getattr(vision, "num_channels", None) or 3
    times = times if pixels.shape[1] % (channels * times) == 0 else 1
    still = _drawn(seed, count, channels, 1 if frames == 1 else times, pixels.shape[1] // (channels * times))
    return still.expand(-1, -1, times, -1).flatten(1)
