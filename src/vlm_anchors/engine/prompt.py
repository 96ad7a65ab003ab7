"""Builds the pass of a decoder's forward: from the token ids it saw outside and the mask it is given."""

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import AnchorsWarning, CannotAct
from ..methods.base import name_of
from .facts import Facts
from .passing import Generation, Pass
from .qformer import features_among
from .rows import (
    TextRows,
    Visual,
    gather_visual,
    image_numbers,
    join_visual,
    prompt_rows,
    single_rows,
    text_mask,
    visual_mask,
)
from .site import Site

if TYPE_CHECKING:
    from .seam import Handle


def step(generation: Generation, site: Site, cache: Any) -> Pass:
    """A decoding step: one row, which is a text row."""
    if not torch.compiler.is_compiling():
        generation.steps += 1
        generation.chunk_end = 0
    return Pass(generation, TextRows(None, None, None, None), {}, offsets=_offsets(site, cache, 1))


def prompt(
    handle: "Handle",
    site: Site,
    generation: Generation | None,
    cache: Any,
    facts: Facts | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Pass | None:
    """Any other pass: a prompt, a piece of one, or a later chunk of several tokens."""
    facts = facts or Facts.seen(None, site.stack, args, kwargs)
    if facts.use_cache is False and facts.logits_to_keep == 1 and facts.labels is None:
        raise CannotAct(
            "generate(use_cache=False) processes the answer anew at every step, and its rows would take the anchors of "
            "the newest one: another computation. Leave use_cache=True."
        )
    q = _length(facts, kwargs)
    past = 0 if cache is None else int(cache.get_seq_length())
    generation = generation if past else None
    visual, frame = _marks(site, facts, kwargs, q)
    real = real_rows(kwargs.get("attention_mask"), visual, past)
    if generation is None:
        generation = _born(handle, site, facts, visual, frame, past)
        if generation is None:
            return None
        handle.began(generation, cache)
        before = torch.zeros(len(visual), dtype=torch.bool, device=visual.device)
    else:
        before = generation.visual.valid.any(1)
        _grow(generation, site, facts, visual, frame, past)
    text = text_mask(visual, real, frame, before)
    if not text.any():
        return None
    kept: dict[Any, Any] = {}
    if generation.text_seen:
        _refuse_pieces(generation, facts, q)
        rows = single_rows(text)
    else:
        rows = prompt_rows(text, _prompt_end(facts, visual, q, cache))
        generation.text_seen, generation.prompt, generation.kept = True, rows, kept
        generation.chunk_end = q
    return Pass(generation, rows, kept, offsets=_offsets(site, cache, q))


def _length(facts: Facts, kwargs: dict[str, Any]) -> int:
    embeds = kwargs.get("inputs_embeds")
    return (facts.input_ids if embeds is None else embeds).shape[1]


def _marks(site: Site, facts: Facts, kwargs: dict[str, Any], q: int) -> tuple[Tensor, Tensor]:
    """Which tokens of this pass are visual, and which are tags around or inside an image; both (b, q)."""
    ids = facts.input_ids
    if site.visual_features is not None:
        embeds = kwargs["inputs_embeds"]
        visual = torch.zeros(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        if facts.projected is not None:
            visual = features_among(embeds, facts.projected)
        return visual, torch.zeros_like(visual)
    if ids is None or ids.shape[1] != q:
        visual = _marks_of_embeddings(site, facts.inputs_embeds)
        return visual, torch.zeros_like(visual)
    visual = visual_mask(ids, site.visual_ids)
    frame = torch.zeros_like(visual)
    for tag in site.frame_ids:
        frame |= ids == tag
    return visual, frame


def _marks_of_embeddings(site: Site, embeds: Tensor | None) -> Tensor:
    """Placeholders found by their embedding, as transformers itself does when it is given no ids."""
    table = site.stack.get_input_embeddings()
    ids = torch.tensor(site.visual_ids, device=embeds.device)
    return (embeds[:, :, None] == table(ids)[None, None]).all(-1).any(-1)


def real_rows(mask: Any, like: Tensor, past: int) -> Tensor:
    """Rows of this pass that are not padding, (b, q); from a 2-D mask, or from the diagonal of a prepared 4-D one."""
    if isinstance(mask, dict):
        mask = next(m for m in mask.values() if isinstance(m, Tensor) or m is None)
    if mask is None:
        return torch.ones_like(like)
    q = like.shape[1]
    if mask.dim() == 2:
        return mask[:, past : past + q].bool().expand_as(like)
    own = mask[:, 0].diagonal(offset=past, dim1=1, dim2=2)[:, :q]
    return (own if own.dtype == torch.bool else own >= 0).expand_as(like)


def _born(handle: "Handle", site: Site, facts: Facts, visual: Tensor, frame: Tensor, past: int) -> Generation | None:
    if not visual.any():
        warnings.warn(
            f"No visual tokens in this prompt, so {name_of(handle.method)} leaves it as it is. "
            f"Pass the image's placeholder tokens (input_ids as the processor makes them).",
            AnchorsWarning,
            stacklevel=2,
        )
        return None
    if past:
        raise CannotAct(
            "The cache was filled before the method was attached, so it is unknown where its visual tokens are. "
            "Prefill the prompt with the method attached, or start from an empty cache."
        )
    images = image_numbers(visual, frame, _lengths(facts))
    return Generation(handle.method, site.depth, handle.watched, handle.watcher, gather_visual(visual, images, past))


def _grow(generation: Generation, site: Site, facts: Facts, visual: Tensor, frame: Tensor, past: int) -> None:
    if not visual.any():
        return
    if generation.text_seen:
        raise CannotAct(
            "Visual tokens arrived after text that was already processed: the prompt's anchors come from its last "
            "row. Feed the prompt in one piece, or end the first piece at or before the first word after the image."
        )
    images = image_numbers(visual, frame, _lengths(facts))
    generation.visual = join_visual(generation.visual, gather_visual(visual, images, past))


def _refuse_pieces(generation: Generation, facts: Facts, q: int) -> None:
    """A second piece of the prompt's text looks like a candidate chunk, except that only its last logits are wanted."""
    if generation.chunk_end and facts.logits_to_keep == 1 and q > 1:
        raise CannotAct(
            "The prompt's text arrived in several pieces (prefill_chunk_size?), but its rows share the anchors of the "
            "last one. Feed it in one piece, or end the first piece at or before the first word after the image."
        )
    generation.chunk_end = 0


def _lengths(facts: Facts) -> list[int] | None:
    """Visual tokens of each image in reading order, from what the vision tower returned; None if not yet encoded."""
    encoded = facts.mm_encoder_outputs or {}
    if "image" not in encoded or len(encoded) != 1:
        return None
    return [len(features) for features in encoded["image"].pooler_output]


def _prompt_end(facts: Facts, visual: Tensor, q: int, cache: Any) -> Tensor | None:
    """First row after the prompt, (b,): the first given answer token, or the first speculative candidate."""
    if facts.labels is not None and facts.labels.shape[1] == q:
        answer = facts.labels != -100
        return torch.where(answer.any(1), answer.int().argmax(1), q).to(visual.device)
    keep = facts.logits_to_keep
    if cache is not None and isinstance(keep, int) and keep > 1:
        return torch.full((len(visual),), q - keep + 1, device=visual.device)
    return None


def _offsets(site: Site, cache: Any, q: int) -> dict[int, int]:
    """First key still held by each sliding layer of the cache, before this pass writes to it."""
    if cache is None or not any(cache.is_sliding):
        return {}
    sizes = ((layer, cache.get_mask_sizes(q, layer - 1)[1]) for layer in site.layers.values())
    return {layer: offset for layer, offset in sizes if offset}


__all__ = ["Visual", "prompt", "real_rows", "step"]
