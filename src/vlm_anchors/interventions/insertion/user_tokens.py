"""Which tokens of a batch may be anchors: text, no special tokens, the user's words, never an answer."""

import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...errors import AnchorsWarning, CannotAct
from ...models.families import family_of
from ..token_map import is_one_of
from .chat_spans import Template, read_template, user_words

_templates: "weakref.WeakKeyDictionary[Any, tuple[str, Template | None]]" = weakref.WeakKeyDictionary()


def before_answer(ids: Int[Tensor, "b t"], labels: Int[Tensor, "b t"] | None) -> Bool[Tensor, "b t"]:
    """Tokens before the first one that has a label: what comes later must not be seen by the answer's first token."""
    if labels is None:
        return torch.ones_like(ids, dtype=torch.bool)
    return (labels != -100).cumsum(1) == 0


def special_ids(tokenizer: Any, config: Any) -> tuple[int, ...]:
    """Ids that are no words: the tokenizer's special tokens; of a bare model, those its config names."""
    if tokenizer is None:
        text = config.get_text_config()
        named = [text.bos_token_id, text.eos_token_id, text.pad_token_id]
        flat = [id for one in named for id in (one if isinstance(one, list) else [one])]
        return tuple({id for id in flat if id is not None})
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return tuple(sorted({*tokenizer.all_special_ids, *added}))


def blank_ids(tokenizer: Any, ids: Sequence[int]) -> set[int]:
    """Those of the given ids that spell nothing but space."""
    unique = sorted(set(ids))
    return {
        id
        for id, piece in zip(unique, tokenizer.batch_decode([[id] for id in unique]), strict=True)
        if not piece.strip()
    }


def allowed_words(
    method: str, processor: Any, config: Any, tensors: Mapping[str, Any], written: Tensor, tokens: str, anchorable: Any
) -> Bool[Tensor, "b t"]:
    """Tokens that may be anchors: never special tokens, nothing of an image, and nothing from an answer on."""
    ids, labels = tensors["input_ids"], tensors.get("labels")
    special = torch.tensor(special_ids(None if processor is None else processor.tokenizer, config), device=ids.device)
    text = written & before_answer(ids, labels) & ~torch.isin(ids, special)
    if anchorable is not None:
        if anchorable.shape != ids.shape or anchorable.dtype != torch.bool:
            raise CannotAct(
                f"Expected anchorable as a boolean tensor of {tuple(ids.shape)}, one value a token; found "
                f"{anchorable.dtype} of {tuple(anchorable.shape)}."
            )
        return text & anchorable.to(ids.device)
    if tokens == "all":
        return text
    if processor is None:
        warnings.warn(
            f"With a bare model {method} cannot tell the user's words from the chat template's, so every text token counts "
            "as the user's. Pass (model, processor), or anchorable=.",
            AnchorsWarning,
            stacklevel=4,
        )
        return text
    plain = family_of(config).prompt[1]
    return text & words_of_users(processor, ids, written, plain, first_turn=labels is not None)


def require_words(method: str, words: Bool[Tensor, "b t"], visual: Bool[Tensor, "b t"]) -> None:
    """Refuse a prompt with an image but no word to use."""
    empty = (visual.any(1) & ~words.any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise CannotAct(
            f"Prompt {empty[0] + 1} holds no word of a user that {method} could use: all of it is chat template, special "
            "tokens, image or answer. Ask a question, pass anchorable=, or set tokens='all'."
        )


def words_of_users(
    processor: Any, ids: Int[Tensor, "b t"], written: Bool[Tensor, "b t"], plain: str, first_turn: bool
) -> Bool[Tensor, "b t"]:
    """Of the `written` tokens (no padding, nothing of an image) those that a user wrote, found by the chat template.

    A prompt that does not follow the template counts as the user's throughout, with a warning.

    Args:
        plain: The prompt around a question where there is no chat template.
        first_turn: Of a conversation only the first question.
    """
    tokenizer = processor.tokenizer
    words = written & ~is_one_of(ids, tuple(blank_ids(tokenizer, ids[written].tolist())))
    template = _template(processor, plain)
    compared = words.clone()
    if template is None:
        return words
    lost = []
    for sample in range(len(ids)):
        found = user_words(template, ids[sample], compared[sample], first_turn)
        if found is None:
            lost.append(sample + 1)
        else:
            words[sample] &= found
    if lost:
        warnings.warn(
            f"Prompt {lost[0]} does not follow the model's chat template, so all its words count as the user's. Make prompts "
            "with processor.apply_chat_template, or pass anchorable=.",
            AnchorsWarning,
            stacklevel=5,
        )
    return words


def _template(processor: Any, plain: str) -> Template | None:
    """Read once for each tokenizer and template text."""
    tokenizer, text = processor.tokenizer, str(processor.chat_template or plain)
    known = _templates.get(tokenizer)
    if known is None or known[0] != text:
        known = text, read_template(processor, lambda ids: blank_ids(tokenizer, ids), plain)
        _templates[tokenizer] = known
    return known[1]
