"""What `prepare` is given: a model in one of three forms, and its inputs; each checked, with a sentence for what is amiss."""

from typing import Any

from torch import Tensor

from ...errors import CannotAct
from ...models.decoder import AttentionTarget, find_target, plain_model
from ...models.families import family_of
from ...models.vlm import model_and_processor
from .anchored import ENCODED, insertion_of
from .plan import IGNORED


def insertion_target(method: str, vlm: Any) -> AttentionTarget:
    """The site of a model whose visual tokens stand for places in the image; a sentence for one whose do not."""
    network, processor = model_and_processor(vlm)
    config = plain_model(network).config
    if family_of(config).learned_queries:
        raise CannotAct(
            f"{method} places words beside the patches they resemble, but {family_of(config).title} hands its language "
            "model learned queries, which stand for no place in the image. Use another family, or clva."
        )
    return find_target(network, None if processor is None else processor.tokenizer)


def checked(method: str, tensors: dict[str, Any], labels: Tensor | None, again: bool = False) -> dict[str, Any]:
    """The inputs with their labels, if they are a whole prompt with everything of one shape; a sentence if not.

    again: whether they may have been prepared by another method before.
    """
    ids, mask, cache = tensors.get("input_ids"), tensors.get("attention_mask"), tensors.get("past_key_values")
    if labels is not None:
        tensors["labels"] = labels
    labels = tensors.get("labels")
    if not isinstance(ids, Tensor) or ids.dim() != 2:
        raise CannotAct(
            f"{method} rewrites input_ids, a tensor of (batch, tokens); found none. Embeddings cannot be rewritten."
        )
    if cache is not None and cache.get_seq_length():
        raise CannotAct(
            f"{method} works on a whole prompt, but the cache already holds {int(cache.get_seq_length())} tokens. "
            "Prepare the prompt first and start with an empty cache."
        )
    if not again and insertion_of(tensors.get(ENCODED)) is not None:
        raise CannotAct(
            f"These inputs were prepared before; {method} would copy the copies. Pass what the processor returned."
        )
    if mask is not None and mask.shape != ids.shape:
        raise CannotAct(
            f"Expected an attention_mask of {tuple(ids.shape)}, one value a token; found {tuple(mask.shape)}. "
            "Pass the processor's own."
        )
    if labels is not None and labels.shape != ids.shape:
        raise CannotAct(
            f"Expected labels of {tuple(ids.shape)}, one for each token of input_ids, with {IGNORED} where no loss is taken; "
            f"found {tuple(labels.shape)}."
        )
    return tensors
