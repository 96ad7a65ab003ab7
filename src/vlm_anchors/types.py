"""The plain objects that flow from left to right: load -> prepare -> steer and generate -> score -> report.

Imports nothing heavy: tensors appear in annotations only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

    from .models.families import Family


@dataclass(frozen=True)
class Vlm:
    """A loaded vision-language model: what `va.load` returns.

    `model` is an unmodified transformers model in eval mode, `processor` its processor, `family` the row of the
    family table it belongs to, `name` what the user typed, `revision` the commit of the weights where there is one,
    `method` the SPEC of the method it was trained with ("none" for most), which acts where no other is asked for.
    """

    model: "PreTrainedModel"
    processor: "ProcessorMixin"
    family: "Family"
    name: str
    revision: str | None = None
    method: str = "none"

    @property
    def device(self) -> "torch.device":
        return self.model.device

    @property
    def dtype(self) -> "torch.dtype":
        return self.model.dtype


@dataclass(frozen=True)
class Answer:
    """One answer.

    text: the answer, special tokens removed. tokens: ids of the new tokens, end-of-sequence included.
    seconds: wall time; of a batch, the batch's time divided by its size. effects: what each method did, by name
    (`{"clva": {"rows_edited": ..., "anchors": ...}}`), empty for the plain model; all values can be written as JSON.
    prompt: the prompt as sent, image placeholders not expanded. yes_no: logits of the best "yes" and "no" token at
    the first step, before any method's or decoding's change of logits... None where the tokenizer has no such token.
    """

    text: str
    tokens: tuple[int, ...]
    seconds: float
    effects: Mapping[str, Any] = field(default_factory=dict)
    method: str = "none"
    decoding: str = "greedy"
    prompt: str = ""
    yes_no: tuple[float, float] | None = None
