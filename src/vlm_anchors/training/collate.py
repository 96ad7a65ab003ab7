"""Conversations become batches whose labels are the answers, and nothing but the answers.

The chat template writes a conversation turn by turn; what it adds for an answer is the answer. The whole text goes through
the processor once, as it does when the model answers, and the tokens of each answer are found by what the tokens of
two beginnings of the text have in common. Every answer ends with the end-of-sequence token: where a template writes
none (LLaVA-1.5's), it is put there, or the model would never learn to stop.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..errors import BadModel
from ..inputs.images import read_image
from ..interventions.insertion.plan import IGNORED

if TYPE_CHECKING:
    from ..models.vlm import Vlm


class Piece(NamedTuple):
    """A part of a conversation's text; learnt where it is an answer."""

    text: str
    learnt: bool


class Collator:
    """Rows {"images": paths, "messages": [{"role", "content"}]} -> inputs and labels, padded on the right.

    Sequences longer than the model's context are cut at the end.
    """

    def __init__(self, vlm: "Vlm"):
        self.processor, self.name = vlm.processor, vlm.name
        if vlm.processor.chat_template is None:
            raise BadModel(
                f"The processor of {vlm.name} has no chat template, so there is no telling what a conversation looks like. "
                "Set processor.chat_template and load the (model, processor) pair."
            )
        self.limit = getattr(vlm.model.config.get_text_config(), "max_position_embeddings", None)
        tokenizer = vlm.processor.tokenizer
        stored = vlm.model.generation_config.eos_token_id
        ends = [*(stored if isinstance(stored, list) else [stored]), tokenizer.eos_token_id]
        self.ends = [tokenizer.convert_ids_to_tokens(one) for one in dict.fromkeys(ends) if one is not None]
        if not self.ends:
            raise BadModel(f"The tokenizer of {vlm.name} has no end-of-sequence token, so answers could not end.")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """input_ids, attention_mask and labels of (rows, tokens), and what the processor makes of the images."""
        split = [self.pieces(row) for row in rows]
        texts = ["".join(piece.text for piece in pieces) for pieces in split]
        batch = self.processor(
            text=texts,
            images=[[read_image(path) for path in row["images"]] for row in rows],
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        labels = torch.full_like(batch["input_ids"], IGNORED)
        lengths = batch["attention_mask"].sum(1).tolist()
        for row, (pieces, text, length) in enumerate(zip(split, texts, lengths, strict=True)):
            for start, end in self._answers(pieces, text, length):
                labels[row, start:end] = batch["input_ids"][row, start:end]
        tensors = {**batch, "labels": labels}
        shape = labels.shape
        return {name: each[:, : self.limit] if each.shape == shape else each for name, each in tensors.items()}

    def pieces(self, row: Mapping[str, Any]) -> list[Piece]:
        """The conversation as the chat template writes it, cut where answers begin and end."""
        turns = [
            {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]} for turn in row["messages"]
        ]
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"] = [{"type": "image"} for _ in row["images"]] + first["content"]
        pieces: list[Piece] = []
        done = ""
        for at, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            asked = self._written(turns[:at], True)
            answered = self._written(turns[: at + 1], False)
            if not asked.startswith(done) or not answered.startswith(asked):
                raise BadModel(
                    f"The chat template of {self.name} changes what it wrote when a turn is added, so answers cannot be told "
                    "from the rest. Set a processor.chat_template that writes turn by turn."
                )
            answer, rest = self._ended(answered[len(asked) :])
            pieces += [Piece(asked[len(done) :], False), Piece(answer, True), Piece(rest, False)]
            done = answered
        return pieces

    def _written(self, turns: list[dict[str, Any]], prompt: bool) -> str:
        return self.processor.apply_chat_template(turns, add_generation_prompt=prompt, tokenize=False)

    def _ended(self, text: str) -> tuple[str, str]:
        """An answer up to its end-of-sequence token, and what the template writes behind it."""
        found = [text.index(end) + len(end) for end in self.ends if end in text]
        return (text[: min(found)], text[min(found) :]) if found else (text.rstrip() + self.ends[0], "")

    def _answers(self, pieces: list[Piece], text: str, length: int) -> list[tuple[int, int]]:
        """(first, behind the last) token of each answer in a row of `length` tokens.

        Counted from the row's end: the placeholders, which the processor multiplies, all stand before the first answer.
        """
        tokenizer = self.processor.tokenizer
        whole = tokenizer(text)["input_ids"]
        spans, written, start = [], "", 0
        for piece in pieces:
            written += piece.text
            end = _shared(whole, tokenizer(written)["input_ids"])
            if piece.learnt:
                spans.append((length - len(whole) + start, length - len(whole) + end))
            start = end
        return spans


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
