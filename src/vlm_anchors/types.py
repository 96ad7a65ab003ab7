"""What a method answers with. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, repr=False)
class Answer:
    """One answer.

    Args:
        text: The answer, special tokens removed.
        tokens: Ids of the new tokens, end-of-sequence included.
        seconds: Wall time; of a batch, the batch's time divided by its size.
        effects: What each method did, by name (`{"clva": {"rows_edited": ..., "anchors": ...}}`), empty for the plain
            model; all values can be written as JSON.
        method: The methods as a SPEC.
        decoding: How tokens were chosen, as a SPEC.
        prompt: The prompt as sent, image placeholders not expanded.
        yes_no: Logits of the best "yes" and "no" token at the first step, as the methods leave them and before the decoding
            changes them. None where the tokenizer has no such token.
    """

    text: str
    tokens: tuple[int, ...]
    seconds: float
    effects: Mapping[str, Any] = field(default_factory=dict)
    method: str = "none"
    decoding: str = "greedy"
    prompt: str = ""
    yes_no: tuple[float, float] | None = None

    def __repr__(self) -> str:
        """Short: `effects` and `tokens` may fill a page."""
        return (
            f"<Answer {self.text!r}: {self.method}, {self.decoding}, {len(self.tokens)} tokens, {self.seconds:.2f} s>"
        )
