"""What a method answers with. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One answer.

    Args:
        text: The answer, special tokens removed.
        tokens: Ids of the new tokens, end-of-sequence included.
        seconds: Wall time; of a batch, the batch's time divided by its size.
        effects: What each method did, by name (`{"clva": {"rows_edited": ..., "anchors": ...}}`), empty for the plain
            model; all values can be written as JSON.
        prompt: The prompt as sent, image placeholders not expanded.
        yes_no: Logits of the best "yes" and "no" token at the first step, before any method's or decoding's change of
            logits... None where the tokenizer has no such token.
    """

    text: str
    tokens: tuple[int, ...]
    seconds: float
    effects: Mapping[str, Any] = field(default_factory=dict)
    method: str = "none"
    decoding: str = "greedy"
    prompt: str = ""
    yes_no: tuple[float, float] | None = None
