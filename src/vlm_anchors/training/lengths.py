"""Conversations against the model's context, before the first step: what is cut off cannot be learnt.

A conversation whose first answer begins behind the context has a loss of zero; one whose images end behind it stops the
run when the shuffle reaches it. Lengths come from the texts and from the sizes in the images' headers.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import AnchorsWarning
from .data import Bad, Conversation

if TYPE_CHECKING:
    from .collate import Collator


def check_lengths(collator: "Collator", conversations: Sequence[Conversation]) -> tuple[list[Conversation], list[Bad]]:
    """(those with an answer to learn, the others): an answer must begin, and every image end, within the context."""
    if collator.limit is None:
        return list(conversations), []
    lengths, good, bad, cut = _Lengths(collator), [], [], 0
    for one in conversations:
        needed, whole = lengths.of(one)
        if needed >= collator.limit:
            images = f" and {len(one.images)} images" if one.images else ""
            bad.append(
                Bad(
                    one.where,
                    "too long",
                    f"its question{images} take {needed:,} tokens, more than the context of {collator.limit:,} of "
                    f"{collator.name}, so no answer is left to learn",
                )
            )
        else:
            good.append(one)
            cut += whole > collator.limit
    if cut:
        warnings.warn(
            f"{cut} of {len(conversations)} conversations are longer than the context of {collator.limit:,} tokens of "
            f"{collator.name}; their ends are cut off.",
            AnchorsWarning,
            stacklevel=3,
        )
    return good, bad


class _Lengths:
    """Tokens of conversations, without decoding an image."""

    def __init__(self, collator: "Collator"):
        self.collator = collator
        self.limit = collator.limit or 0
        self.tokenizer = collator.processor.tokenizer
        self.added = functools.cache(self._added)

    def of(self, one: Conversation) -> tuple[int, int]:
        """(tokens before the first answer, or up to the end of the last image where that is later; tokens of all)."""
        pieces = self.collator.pieces(one.row())
        texts = [piece.text for piece in pieces]
        before = next(at for at, piece in enumerate(pieces) if piece.learnt)
        last = next(at for at, piece in enumerate(pieces) if piece.images == len(one.images))
        needed = "".join(texts[: max(before, last + 1 if last > before else before)])
        sizes = tuple(_size(path) for path in one.images)
        added = self.added(sizes) if sizes else 0
        rest = "".join(texts)[len(needed) :]
        # A token is one byte or more: where even bytes fit, nothing is tokenized.
        if added + len(needed.encode()) + len(rest.encode()) + 8 <= self.limit:
            return 0, 0
        return added + self._tokens(needed), added + self._tokens(needed) + self._tokens(rest)

    def _tokens(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False)["input_ids"]) if text else 0

    def _added(self, sizes: tuple[tuple[int, int], ...]) -> int:
        """Tokens that images of these sizes add to a text, found with blank ones."""
        from PIL import Image

        text = self.collator.image_marks(len(sizes))
        made = self.collator.processed([text], [[Image.new("RGB", size) for size in sizes]])
        return int(made["input_ids"].shape[1]) - self._tokens(text)


@functools.lru_cache(maxsize=1 << 20)
def _size(path: str) -> tuple[int, int]:
    """Width and height as the image is shown, from its header."""
    from PIL import Image

    with Image.open(path) as image:
        width, height = image.size
        turned: Any = image.getexif().get(0x0112, 1)
    return (height, width) if turned in (5, 6, 7, 8) else (width, height)
