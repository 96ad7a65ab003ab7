"""What `prepare` hands out: inputs for a model, with a list of what was inserted into them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from ..token_map import Marks

ENCODED = "mm_encoder_outputs"


@dataclass(frozen=True, eq=False)
class Insertion:
    """Rides along with the encoded images of prepared inputs: what was done, and where the images stand now."""

    method: str
    marks: Marks
    """Visual tokens and images of the inserted sequences; copies are neither visual nor text rows."""
    originals: Int[Tensor, "b s"]
    """Which token of the inserted sequence each token is a copy of; itself where it is none."""
    pixels: Mapping[str, Any]
    """What the vision tower was given, for a method that reads the prompt again with another image."""
    report: Callable[[], list[dict[str, Any]]]
    """What was done, one dictionary a sample; called when someone asks, as it copies tensors off the device."""
    earlier: "Insertion | None" = None
    """What another method had done to these inputs before."""

    @cached_property
    def effects(self) -> list[dict[str, Any]]:
        own = [{self.method: effects} for effects in self.report()]
        before = self.earlier.effects if self.earlier else [{}] * len(own)
        return [{**one, **two} for one, two in zip(before, own, strict=True)]

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods that prepared these inputs, in their order."""
        return (*(self.earlier.methods if self.earlier else ()), self.method)

    def marks_of(self, rows: int, length: int) -> Marks:
        """The marks of the batch as it comes to the decoder.

        `generate` may have expanded it (beams: each sample stands there several times) and put candidates behind it
        (speculative decoding), which are text.
        """
        times, more = rows // len(self.marks.visual), length - self.marks.visual.shape[1]
        parts = (self.marks.visual, self.marks.image, self.marks.delimiters)
        return Marks(*(pad(part.repeat_interleave(times, 0), (0, more)) for part in parts))

    def originals_of(self, rows: int) -> Int[Tensor, "rows s"]:
        """`originals` of the batch as it comes to the decoder."""
        return self.originals.repeat_interleave(rows // len(self.originals), 0)


class Encoded(dict[str, Any]):
    """`mm_encoder_outputs` of prepared inputs: modality -> what the vision tower returned, and `inserted`."""

    def __init__(self, outputs: Mapping[str, Any], inserted: Insertion | None = None):
        """inserted: None where someone rebuilt the dictionary, as accelerate does; the call around it still has the first."""
        super().__init__(outputs)
        self.inserted = inserted

    def fresh(self) -> "Encoded":
        """The same features in new containers: beam search expands the containers it is given in place."""
        return Encoded({modality: type(output)(**output) for modality, output in self.items()}, self.inserted)


class Anchored(dict[str, Any]):
    """Inputs for `model.generate(**anchored)` or `model(**anchored)`, usable more than once.

    `effects` tells what was done, one dictionary a sample: `{"attanchor": {"tokens_inserted": 2, "anchors": [...]}}`.
    """

    def __init__(self, inputs: dict[str, Any], effects: Callable[[], list[dict[str, Any]]]):
        super().__init__(inputs)
        self._effects = effects

    @property
    def effects(self) -> list[dict[str, Any]]:
        return self._effects()

    # `**anchored` reads through these two, since a dict that overrides __iter__ is no longer unpacked behind its back.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        return value.fresh() if isinstance(value, Encoded) else value


def insertion_of(encoded: Any) -> Insertion | None:
    """What rides with a call's `mm_encoder_outputs`, if `prepare` made them."""
    return encoded.inserted if isinstance(encoded, Encoded) else None
