"""Which rows and keys a forward pass is about: visual tokens, text rows, the prompt's last row.

Shapes: b samples, q query rows of this pass, k keys, r text rows (padded to the longest sample), v visual keys
(padded likewise), n images.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass
class Visual:
    """Where the visual tokens stand among the keys: born at prefill, kept with the cache."""

    index: Int[Tensor, "b v"]
    """Absolute key position, counted over everything the cache has seen; 0 where `valid` is False."""
    valid: Bool[Tensor, "b v"]
    image: Int[Tensor, "b v"]
    """Which image of its sample, from 0."""

    images: int
    """Most images in one sample."""
    full: bool = False
    """Every entry valid, one image in each sample: what is per image is then simply per row of these tensors."""

    def per_image(self, marks: Bool[Tensor, "b v"] | None = None) -> list[list[int]]:
        """Visual tokens in each image of each sample; of those marked, if `marks` are given."""
        member = torch.nn.functional.one_hot(self.image, max(self.images, 1)) * self.valid[..., None]
        held = member.sum(1).tolist()
        counts = held if marks is None else (member * marks[..., None]).sum(1).tolist()
        return [[n for n, total in zip(*row, strict=True) if total] for row in zip(counts, held, strict=True)]


@dataclass
class TextRows:
    """The text rows of one pass. `index` None means every row of the pass is one (a decoding step)."""

    index: Int[Tensor, "b r"] | None
    valid: Bool[Tensor, "b r"] | None
    shared: Bool[Tensor, "b r"] | None
    """Rows that share the anchors of the prompt's last row; None: all of them. The others have their own anchors."""
    source: Int[Tensor, " b"] | None
    """Which of the r rows is the prompt's last one."""

    @property
    def one_anchor_set(self) -> bool:
        return self.shared is None

    def first(self) -> int:
        """The first text row of any sample."""
        assert self.index is not None and self.valid is not None
        return int(self.index.masked_fill(~self.valid, self.index.max()).min())

    def after(self, start: int) -> "TextRows":
        """The same rows in a pass that begins with the prompt's row `start`."""
        assert self.index is not None and self.valid is not None
        text = torch.zeros(len(self.index), int(self.index.max()) + 1, dtype=torch.bool, device=self.index.device)
        return prompt_rows(text.scatter(1, self.index, self.valid)[:, start:], None)


def gather_visual(mask: Bool[Tensor, "b q"], image: Int[Tensor, "b q"], offset: int) -> Visual:
    """Positions of the True entries, left-justified; `offset` is how many keys the cache held before this pass."""
    count = int(mask.sum(1).max())
    order = mask.logical_not().argsort(dim=1, stable=True)[:, :count]
    valid = mask.gather(1, order)
    number = image.gather(1, order).where(valid, 0)
    images = int(number.max()) + 1 if count else 0
    return Visual((order + offset).where(valid, 0), valid, number, images, images == 1 and bool(valid.all()))


def join_visual(old: Visual, new: Visual) -> Visual:
    """The visual keys of a prompt fed in pieces: the new piece's images are counted on from the old one's.

    An image cut by the end of a piece goes on: its next token follows the last one directly.
    """
    if old.index.shape[1] == 0:
        return new
    shift = old.image.masked_fill(~old.valid, -1).amax(1, keepdim=True) + 1
    shift = shift - goes_on(old, new)[:, None].long()
    return Visual(
        torch.cat([old.index, new.index], 1),
        torch.cat([old.valid, new.valid], 1),
        torch.cat([old.image, new.image + shift], 1),
        old.images + new.images,
    )


def goes_on(old: Visual, new: Visual) -> Bool[Tensor, " b"]:
    """Samples whose new visual tokens follow the old ones directly."""
    follows = old.index.amax(1) + 1 == new.index[:, 0]
    return follows & old.valid.any(1) & new.valid[:, 0]


def text_mask(
    visual: Bool[Tensor, "b q"],
    real: Bool[Tensor, "b q"],
    delimiters: Bool[Tensor, "b q"],
    image_before: Bool[Tensor, " b"],
) -> Bool[Tensor, "b q"]:
    """Real rows after the first visual token that are neither visual nor an image's tags (methods.md, notation)."""
    after = visual.cumsum(1).bool() | image_before[:, None]
    return after & real & ~visual & ~delimiters


def prompt_rows(text: Bool[Tensor, "b q"], prompt_end: Int[Tensor, " b"] | None) -> TextRows:
    """The rows of the pass that holds the prompt's text.

    All share the anchors of the prompt's last row, except rows at or after `prompt_end` (given answers, speculative
    candidates), which have their own: the shared row must never stand behind them.
    """
    count = max(int(text.sum(1).max()), 1)
    index = text.logical_not().argsort(dim=1, stable=True)[:, :count]
    valid = text.gather(1, index)
    shared = valid if prompt_end is None else valid & (index < prompt_end[:, None])
    source = (shared.sum(1) - 1).clamp(min=0)
    return TextRows(index, valid, None if prompt_end is None else shared, source)


def single_rows(text: Bool[Tensor, "b q"]) -> TextRows:
    """The rows of a later chunk of several tokens (speculative decoding): each has its own anchors."""
    rows = prompt_rows(text, None)
    return TextRows(rows.index, rows.valid, torch.zeros_like(rows.valid), rows.source)
