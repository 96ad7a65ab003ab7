"""Builds the pass of a decoder's forward: from the token ids it saw outside and the mask it is given."""

import warnings
from typing import Any

import torch
from torch import Tensor

from ..errors import AnchorsWarning, CannotAct
from ..models.decoder import AttentionTarget
from ..parameters import name_of
from .call_context import CallContext
from .forward_pass import ForwardState, GenerationState
from .handle import Handle
from .pass_marks import pass_marks, real_rows
from .text_rows import TextRows, gather_visual, goes_on, join_visual, prompt_rows, single_rows, text_mask
from .token_map import Marks


def step(generation: GenerationState, target: AttentionTarget, cache: Any, samples: int) -> ForwardState:
    """A decoding step of so many samples: one row each, which is a text row."""
    known = len(generation.visual.valid)
    if generation.setup.attention_layers and samples != known:
        raise CannotAct(
            f"{name_of(generation.setup.methods)} found the visual tokens of {known} prompts, but the cache now holds {samples} "
            f"rows: some were selected or repeated after the prompt. Select or repeat the inputs before it instead."
        )
    if not torch.compiler.is_compiling():
        generation.steps += 1
        generation.chunk_end = 0
    idle = generation.visual.index.shape[1] == 0
    if idle and not generation.warned:
        generation.warned = True
        _warn_no_image(generation)
    rows, states = TextRows(None, None, None, None), generation.new_pass_states()
    return ForwardState(generation, rows, states, idle=idle, offsets=_offsets(target, cache, 1), layers=target.layers)


def _warn_no_image(generation: GenerationState) -> None:
    warnings.warn(
        f"No visual tokens in this prompt, so {name_of(generation.setup.methods)} leaves it as it is. "
        f"If it has an image, its placeholder tokens are missing: pass input_ids as the processor makes them.",
        AnchorsWarning,
        stacklevel=2,
    )


def _warn_late(generation: GenerationState) -> None:
    name = name_of(generation.setup.methods)
    warnings.warn(
        f"No word of the prompt stands behind its image, or only one that was fed by itself, so {name} begins there. "
        f"Put the question behind the image.",
        AnchorsWarning,
        stacklevel=2,
    )


def prompt(
    handle: Handle,
    target: AttentionTarget,
    generation: GenerationState | None,
    cache: Any,
    call_context: CallContext | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> ForwardState:
    """Any other pass: a prompt, a piece of one, or a later chunk of several tokens."""
    call_context = call_context or CallContext.seen(None, target.stack, args, kwargs)
    if call_context.use_cache is False and call_context.logits_to_keep == 1 and call_context.labels is None:
        raise CannotAct(
            "generate(use_cache=False) processes the answer anew at every step, and its rows would take the anchors of "
            "the newest one: another computation. Leave use_cache=True."
        )
    q = _length(call_context, kwargs)
    past = 0 if cache is None else int(cache.get_seq_length())
    generation = generation if past else None
    marks = pass_marks(target, call_context, kwargs, q)
    if generation is not None and generation.text_seen and not call_context.brings_images:
        marks = Marks(torch.zeros_like(marks.visual), torch.zeros_like(marks.image), torch.zeros_like(marks.delimiters))
    real = real_rows(kwargs.get("attention_mask"), marks.visual, past)
    if marks.guessed or target.in_pieces_unclear:
        _refuse_cut_images(target, generation, marks, past)
    if generation is None:
        generation = _born(handle, target, marks, past)
        handle.began(generation, cache)
        alone = kwargs.get("past_key_values") is None and not (target.stack.training and torch.is_grad_enabled())
        if past or (alone and not marks.visual.any()):
            # A prompt in pieces has a cache; so this one is whole, and holds no image that could be seen.
            generation.warned = True
            _warn_no_image(generation)
        before = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    else:
        before = generation.visual.valid.any(1)
        _grow(generation, marks, past)
    before = before | generation.setup.methods.all_rows
    if generation.setup.methods.image_rows:
        text = (marks.visual.cumsum(1).bool() | before[:, None]) & real
    else:
        text = text_mask(marks.visual, real, marks.delimiters, before)
    if not text.any():
        return ForwardState(generation, TextRows(None, None, None, None), (), idle=True)
    states = generation.new_pass_states()
    if generation.text_seen:
        _refuse_pieces(generation, call_context, q)
        rows = single_rows(text)
        generation.steps += q
    else:
        rows = prompt_rows(text, _prompt_end(call_context, text, q, cache))
        if past and q == 1 and generation.setup.recorder is None:
            _warn_late(generation)
        generation.text_seen, generation.prompt, generation.prompt_states = True, rows, states
        if past:
            handle.follow(generation, cache)
        generation.chunk_end, generation.end = q, past + q
        generation.check_prompt()
    return ForwardState(generation, rows, states, offsets=_offsets(target, cache, q), layers=target.layers)


def _length(call_context: CallContext, kwargs: dict[str, Any]) -> int:
    embeds = kwargs.get("inputs_embeds")
    tokens = call_context.input_ids if embeds is None else embeds
    assert tokens is not None, "a decoder is given ids or embeddings"
    return tokens.shape[1]


def _born(handle: Handle, target: AttentionTarget, marks: Marks, past: int) -> GenerationState:
    if past and marks.visual.any():
        raise CannotAct(
            "The cache was filled before the method was attached, so it is unknown where its visual tokens are. "
            "Prefill the prompt with the method attached, or start from an empty cache."
        )
    return GenerationState.born(handle.setup, gather_visual(marks.visual, marks.image, past))


def _grow(generation: GenerationState, marks: Marks, past: int) -> None:
    if not marks.visual.any():
        return
    if generation.text_seen:
        raise CannotAct(
            "Visual tokens arrived after text that was already processed: the prompt's anchors come from its last "
            "row. Feed the prompt in one piece, or end the first piece at or before the first word after the image."
        )
    generation.visual = join_visual(generation.visual, gather_visual(marks.visual, marks.image, past))


def _refuse_cut_images(target: AttentionTarget, generation: GenerationState | None, marks: Marks, past: int) -> None:
    """A prompt fed in pieces, of whose images it is not certain where one ends."""
    if not marks.visual.any():
        return
    broken = marks.guessed and bool(marks.image.any())
    if generation is not None and generation.visual.valid.any():
        old, new = generation.visual, gather_visual(marks.visual, marks.image, past)
        again = old.valid.any(1) & new.valid.any(1)
        broken |= target.in_pieces_unclear and bool(again.any())
        broken |= marks.guessed and bool((again & ~goes_on(old, new)).any())
    if broken:
        raise CannotAct(
            f"This prompt came in pieces (prefill_chunk_size?), and where an image of {target.family.title} ends cannot be "
            f"seen in a piece of it. Feed the prompt in one piece, or all its images in one."
        )
    if marks.guessed and generation is None:
        warnings.warn("In a prompt fed in pieces, images that touch count as one.", AnchorsWarning, stacklevel=2)


def _refuse_pieces(generation: GenerationState, call_context: CallContext, q: int) -> None:
    """A second piece of the prompt's text looks like a candidate chunk, except that only its last logits are wanted."""
    if generation.chunk_end and call_context.logits_to_keep == 1 and q > 1:
        raise CannotAct(
            "The prompt's text arrived in several pieces (prefill_chunk_size?), but its rows share the anchors of the "
            "last one. Feed it in one piece, or end the first piece at or before the first word after the image."
        )
    generation.chunk_end = 0


def _prompt_end(call_context: CallContext, text: Tensor, q: int, cache: Any) -> Tensor | None:
    """First row after the prompt, (b,): the first given answer token, or the first speculative candidate."""
    if call_context.labels is not None and call_context.labels.shape[1] == q:
        answer = call_context.labels != -100
        return torch.where(answer.any(1), answer.int().argmax(1), q).to(text.device)
    keep = call_context.logits_to_keep
    if cache is not None and isinstance(keep, int) and keep > 1:
        return torch.full((len(text),), q - keep + 1, device=text.device)
    return None


def _offsets(target: AttentionTarget, cache: Any, q: int) -> dict[int, int]:
    """First key still held by each sliding layer of the cache, before this pass writes to it."""
    if cache is None or not any(cache.is_sliding):
        return {}
    sizes = ((layer, cache.get_mask_sizes(q, own)[1]) for layer, own in enumerate(target.cache_layers, 1))
    return {layer: offset for layer, offset in sizes if offset}


__all__ = ["prompt", "step"]
