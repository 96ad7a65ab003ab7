"""Which tokens of a prompt are the user's words: found by the chat template and the special tokens, not by a list of words.

A conversation is rendered through the template, then once more with the text of one turn exchanged. The tokens that stay
the same before and after the exchanged text are the template's own: what opens a user's turn, and what closes it and
opens the assistant's. In a prompt the user's words are the tokens between an opening and the next closing. Line breaks and
spaces around images differ between a template and what a processor makes of it, so blank tokens are skipped in comparing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Ids = tuple[int, ...]

TURNS = ("Is it big?", "No, it has 2 parts.", "Where are they now?")
"""A question, an answer and a question for the template to be rendered with, and below what each is exchanged for."""
OTHERS = ("What does this one show", "There was only one", "And can you count them")


@dataclass(frozen=True)
class Template:
    """What a chat template writes around the turns, as token ids without blanks.

    Args:
        opening: The ways in which a user's turn begins.
        closing: The ways in which it ends and the assistant's begins.
    """

    opening: tuple[Ids, ...]
    closing: tuple[Ids, ...]


def read_template(
    processor: Any, skipped: Callable[[Sequence[int]], set[int]], plain: str = "{images}{question}"
) -> Template | None:
    """The template of a processor; None where it cannot be rendered.

    Args:
        skipped: Which of the given ids to skip in comparing.
        plain: The prompt around one question, for a processor without a chat template.
    """
    marks = set(processor.tokenizer.get_added_vocab().values())

    def render(texts: Sequence[str]) -> Ids:
        roles = ("user", "assistant", "user")
        turns = [
            {"role": role, "content": [{"type": "text", "text": text}]}
            for role, text in zip(roles, texts, strict=False)
        ]
        if processor.chat_template is not None:
            prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        else:
            (question,) = texts
            prompt = plain.format(images="", question=question)
        ids = processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        blank = skipped(ids)
        return tuple(token for token in ids if token not in blank)

    try:
        before, _, after = _around(render, TURNS[:1], OTHERS[:1])[0]
    except Exception:  # a template raises what it likes on a conversation it does not foresee
        return None
    try:
        first, answer, second = _around(render, TURNS, OTHERS)
    except Exception:
        return Template(_forms(before), _forms(after))
    between = first[2][: len(answer[0]) - len(first[0]) - len(first[1])]
    again = answer[2][: len(second[0]) - len(answer[0]) - len(answer[1])]
    opening, closing = _shared([before[::-1], again[::-1]])[::-1], _shared([between, after])
    return Template(
        _forms(opening) if _unmistakable(opening, marks) else _forms(before, again),
        _forms(closing) if _unmistakable(closing, marks) else _forms(between, after),
    )


def _unmistakable(form: Ids, marks: set[int]) -> bool:
    """Whether what the first and later turns have in common is enough to know them by: not just a colon."""
    return len(form) > 1 or any(token in marks for token in form)


def _forms(*candidates: Ids) -> tuple[Ids, ...]:
    return tuple(dict.fromkeys(form for form in candidates if form))


def _around(
    render: Callable[[Sequence[str]], Ids], texts: Sequence[str], others: Sequence[str]
) -> list[tuple[Ids, Ids, Ids]]:
    """For each turn: the tokens before its text, the text's own, and those behind it."""
    whole = render(texts)
    parts = []
    for turn in range(len(texts)):
        exchanged = render([*texts[:turn], others[turn], *texts[turn + 1 :]])
        before = _shared([whole, exchanged])
        left = len(before)
        after = _shared([whole[left:][::-1], exchanged[left:][::-1]])[::-1]
        parts.append((before, whole[left : len(whole) - len(after)], after))
    return parts


def _shared(sequences: Sequence[Ids]) -> Ids:
    """The longest beginning that all have in common."""
    count = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return sequences[0][:count]


def user_words(
    template: Template, ids: Int[Tensor, " t"], compared: Bool[Tensor, " t"], first_only: bool
) -> Bool[Tensor, " t"] | None:
    """Tokens of one prompt between a user's opening and the next closing; None if no user's turn is found.

    Args:
        compared: Tokens that count in comparing (not padding, not an image's, not blank).
        first_only: Of several user's turns only the first.
    """
    place = compared.nonzero()[:, 0]
    tokens = ids[place]
    if not len(tokens):
        return None
    opens = _ends(tokens, template.opening)
    opens[0] |= not template.opening
    closes = _starts(tokens, template.closing)
    if not opens.any():
        return None
    turn = opens.cumsum(0)
    state = torch.zeros_like(tokens)
    state[opens] = 1
    state[closes] = -1  # an empty turn closes where it opens
    where = torch.arange(len(tokens), device=ids.device)
    last = where.where(state != 0, -1).cummax(0).values
    inside = (state[last.clamp(min=0)] == 1) & (last >= 0)
    if first_only:
        inside = inside & (turn == 1)
    words = torch.zeros_like(compared)
    words[place] = inside
    return words


def _starts(tokens: Int[Tensor, " n"], forms: tuple[Ids, ...]) -> Bool[Tensor, " n"]:
    """Where one of the forms begins."""
    starts = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    for form in forms:
        starts[_places(tokens, form)] = True
    return starts


def _ends(tokens: Int[Tensor, " n"], forms: tuple[Ids, ...]) -> Bool[Tensor, " n"]:
    """The first token behind one of the forms."""
    ends = torch.zeros(len(tokens) + 1, dtype=torch.bool, device=tokens.device)
    for form in forms:
        ends[_places(tokens, form) + len(form)] = True
    return ends[:-1]


def _places(tokens: Int[Tensor, " n"], form: Ids) -> Int[Tensor, " k"]:
    if len(form) > len(tokens):
        return tokens.new_zeros(0)
    same = tokens.unfold(0, len(form), 1) == torch.tensor(form, device=tokens.device)
    return same.all(1).nonzero()[:, 0]
