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
    """A part of a conversation's text; learnt where it is an answer. images: how many stand before its end."""

    text: str
    learnt: bool
    images: int = 0


class Collator:
    """Rows {"images": paths, "messages": [{"role", "content", "images"}]} -> inputs and labels, padded on the right.

    A message's "images" says how many of the row's images stand before it; where none says, all stand before the first
    question. Sequences longer than the model's context are cut at the end (lengths.py looks at what is lost).
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
        images = [[read_image(path) for path in row["images"]] for row in rows]
        batch = self.processed(texts, images)
        labels = torch.full_like(batch["input_ids"], IGNORED)
        lengths = batch["attention_mask"].sum(1).tolist()
        for row, (pieces, text, length) in enumerate(zip(split, texts, lengths, strict=True)):
            if pieces[0].images == len(images[row]):
                spans = self._answers(pieces, text, length)
            else:
                spans = self._answers_between_images(pieces, images[row], batch["input_ids"][row, :length].tolist())
            for start, end in spans:
                labels[row, start:end] = batch["input_ids"][row, start:end]
        tensors = {**batch, "labels": labels}
        shape = labels.shape
        return {name: each[:, : self.limit] if each.shape == shape else each for name, each in tensors.items()}

    def processed(self, texts: Sequence[str], images: Sequence[Sequence[Any]]) -> Any:
        """What the processor makes of some texts and the images of each, padded on the right."""
        return self.processor(
            text=list(texts),
            images=list(images) if any(images) else None,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )

    def image_marks(self, images: int) -> str:
        """The text of a question that is nothing but images."""
        return self._written([{"role": "user", "content": [{"type": "image"}] * images}], False)

    def pieces(self, row: Mapping[str, Any]) -> list[Piece]:
        """The conversation as the chat template writes it, cut where answers begin and end."""
        counts = [turn.get("images") or 0 for turn in row["messages"]]
        if not any(counts):
            counts[next(at for at, turn in enumerate(row["messages"]) if turn["role"] == "user")] = len(row["images"])
        turns = [
            {"role": turn["role"], "content": [{"type": "image"}] * count + [{"type": "text", "text": turn["content"]}]}
            for turn, count in zip(row["messages"], counts, strict=True)
        ]
        pieces: list[Piece] = []
        done = ""
        for at, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            asked = self._written(turns[:at], True)
            answered = self._written(turns[: at + 1], False)
            if not asked.startswith(done) or not answered.startswith(asked):
                raise BadModel(
                    f"The chat template of {self.name} changes what it wrote when a turn is added, so answers cannot be "
                    "separated from the rest. Set a processor.chat_template that writes turn by turn."
                )
            answer, rest = self._ended(answered[len(asked) :])
            shown = sum(counts[:at])
            pieces += [
                Piece(asked[len(done) :], False, shown), Piece(answer, True, shown), Piece(rest, False, shown)
            ]  # fmt: skip
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

    def _answers_between_images(self, pieces: list[Piece], images: list[Any], row: list[int]) -> list[tuple[int, int]]:
        """The same for a row with images behind answers: each beginning of the text goes through the processor."""
        spans, written, start = [], "", 0
        for piece in pieces:
            written += piece.text
            beginning = self.processed([written], [images[: piece.images]])["input_ids"][0].tolist()
            end = _shared(row, beginning)
            if piece.learnt:
                spans.append((start, end))
            start = end
        return spans


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
