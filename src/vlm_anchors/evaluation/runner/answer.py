"""Answers one batch: question by question, or with the prompt's prefix prefilled once an image."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...generation.generate import answer_prepared
from ...generation.plan import GenerationPlan, without_insertion
from ...inputs.mismatch import processor_blamed
from ...inputs.prompt_builder import Inputs, Sample, prepare, prompt_of
from ...interventions.attachment import attach
from ...interventions.branch.image_cache import images_once
from ...interventions.branch.prefix_cache import continued, prefill_prefix, shares_prefix
from ...types import Answer


def can_reuse(run: GenerationPlan) -> bool:
    """Exact only where the family's prefix is causal and every method leaves it alone."""
    return shares_prefix(run.vlm.model, run.vlm.family, run.methods)


def answer_batch(run: GenerationPlan, samples: Sequence[Sample], reuse: bool) -> list[Answer]:
    """Answers in the order of the samples. Each image is encoded once; with `reuse`, so is system and image prefilled."""
    if run.one_by_one and len(samples) > 1:
        return [answer_batch(run, [sample], False)[0] for sample in samples]
    began = time.perf_counter()
    if not any(sample.images for sample in samples):
        run = without_insertion(run)
    owner = _owner(samples)
    with attach(run.vlm, run.attached, recorder=run.recorder()) as handle, torch.no_grad():
        shared = _shared(run, samples, owner) if reuse else None
        if shared is None:
            inputs = prepare(run.vlm, samples, run.max_new_tokens)
            once = _one_image_each(samples) and not any(method.reads_samples for method in run.methods)
            with images_once(run.vlm.model, owner if once else ()):
                return answer_prepared(run, samples, inputs, handle, began)
        inputs, prefix, rows = shared
        with processor_blamed(run.vlm):
            cache = prefill_prefix(run.vlm.model, prefix)
        return answer_prepared(run, samples, inputs, handle, began, **continued(cache, _expanded(run, rows)))


def _expanded(run: GenerationPlan, rows: Tensor) -> Tensor:
    """Beam search multiplies each question's row."""
    return rows.repeat_interleave(run.beams)


def _owner(samples: Sequence[Sample]) -> list[int]:
    """For each sample the number of its image, counted as they first occur (the same object is the same image)."""
    seen: dict[tuple[int, ...], int] = {}
    return [seen.setdefault(tuple(map(id, sample.images)), len(seen)) for sample in samples]


def _one_image_each(samples: Sequence[Sample]) -> bool:
    return all(len(sample.images) == 1 for sample in samples)


def _shared(
    run: GenerationPlan, samples: Sequence[Sample], owner: list[int]
) -> tuple[Inputs, dict[str, Tensor], Tensor] | None:
    """(inputs of all questions, inputs of the prefixes, row of each question's prefix); None if prefixes differ.

    The prefix ends with the last visual token: no text row stands in it, so methods see the question as one piece.
    """
    firsts = [samples[owner.index(image)] for image in range(max(owner) + 1)]
    if len(firsts) == len(samples) or not _one_image_each(samples):
        return None
    whole = prepare(run.vlm, firsts, run.max_new_tokens)
    heads = _heads(run, whole)
    if heads is None:
        return None
    prompts = tuple(prompt_of(run.vlm, sample.question, 1) for sample in samples)
    tails = [_tail(run, prompt) for prompt in prompts]
    if any(tail != ids[len(head) :] for head, ids, tail in _checks(whole, heads, tails, owner)):
        return None
    rows = torch.tensor(owner, device=run.vlm.device)
    prefix = {"input_ids": heads, "attention_mask": torch.ones_like(heads)}
    vision = {k: v for k, v in whole.tensors.items() if k not in ("input_ids", "attention_mask")}
    return Inputs(prompts, _padded(run, heads[rows], tails)), {**prefix, **vision}, rows


def _visual_id(run: GenerationPlan) -> int:
    return run.vlm.model.config.image_token_id


def _heads(run: GenerationPlan, whole: Inputs) -> Tensor | None:
    """The prefixes, (images, p); None where they are not of one length."""
    ids, mask = whole.tensors["input_ids"], whole.tensors["attention_mask"]
    heads = []
    for row, real in zip(ids, mask.bool(), strict=True):
        own = row[real]
        heads.append(own[: int((own == _visual_id(run)).nonzero().max()) + 1])
    return torch.stack(heads) if len({len(head) for head in heads}) == 1 else None


def _tail(run: GenerationPlan, prompt: str) -> list[int]:
    """Ids after the image: the placeholder is a special token, so what follows it is tokenized alike alone."""
    ids = run.vlm.processor.tokenizer(prompt)["input_ids"]
    last = len(ids) - 1 - ids[::-1].index(_visual_id(run)) if _visual_id(run) in ids else len(ids)
    return ids[last + 1 :]


def _checks(whole: Inputs, heads: Tensor, tails: list[list[int]], owner: list[int]) -> Any:
    """For each image's first question: its prefix, its ids as the processor makes them, and the tail made here."""
    for image in range(len(heads)):
        real = whole.tensors["attention_mask"][image].bool()
        ids = whole.tensors["input_ids"][image][real].tolist()
        yield heads[image].tolist(), ids, tails[owner.index(image)]


def _padded(run: GenerationPlan, heads: Tensor, tails: list[list[int]]) -> dict[str, Tensor]:
    """Prefix, padding, question: the padding stands between, masked, and positions do not count it."""
    longest = max(map(len, tails))
    fill = run.config().pad_token_id
    tail = torch.tensor([[fill] * (longest - len(t)) + t for t in tails], device=heads.device)
    mask = torch.tensor([[0] * (longest - len(t)) + [1] * len(t) for t in tails], device=heads.device)
    return {"input_ids": torch.cat([heads, tail], 1), "attention_mask": torch.cat([torch.ones_like(heads), mask], 1)}
