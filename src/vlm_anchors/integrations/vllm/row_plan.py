"""The text rows of one step of vLLM's batch, grouped by method.

Shapes: b requests of a group, r text rows (padded to the most), v visual keys (padded likewise), k keys (padded to
whole blocks of the cache), n blocks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...interventions.composition import Composition
from ...interventions.forward_pass import ForwardState, GenerationState, Setup
from ...interventions.method import Method
from ...interventions.text_rows import TextRows, Visual
from .prompt_map import PromptMap

MASKED = torch.finfo(torch.float32).min


@dataclass(frozen=True, eq=False)
class AnchoredRequest:
    """A request with a method and at least one row that it edits."""

    method: Method
    layers: frozenset[int]
    """Layers, from 1, whose attention the method sees or edits."""
    depth: int
    prompt: PromptMap
    prompt_tokens: int


@dataclass(frozen=True, eq=False)
class PagedRows:
    """Where the keys of some requests lie in the paged cache."""

    blocks: Int[Tensor, "b n"]
    """Blocks of each request in order; those after its length are filling."""
    lengths: "np.ndarray"
    """Keys of each request, (b,)."""
    size: int
    """Keys in one block."""

    @property
    def keys(self) -> int:
        return self.blocks.shape[1] * self.size

    @cached_property
    def table(self) -> "np.ndarray":
        return self.blocks.numpy()

    @cached_property
    def listed(self) -> list[list[int]]:
        """The blocks that hold keys, of each request."""
        return [row[: -(-int(n) // self.size)] for row, n in zip(self.blocks.tolist(), self.lengths, strict=True)]


@dataclass(eq=False)
class RowGroup:
    """Requests with equal methods, and their text rows in this step."""

    method: Method
    layers: frozenset[int]
    depth: int
    tokens: Int[Tensor, "b r"]
    """Index of each text row among the step's tokens."""
    valid: Bool[Tensor, "b r"]
    rows: TextRows
    visual: Visual
    paged: PagedRows
    row_mask: Float[Tensor, "b 1 r k"] | None

    @cached_property
    def count(self) -> int:
        """How many text rows there are."""
        return int(self.valid.sum())

    @cached_property
    def forward(self) -> ForwardState:
        """This step, with the method's states; the generation's lives no longer either, as the next has other requests."""
        setup = Setup(Composition((self.method,)), self.depth, self.layers)
        generation = GenerationState.born(setup, self.visual)
        return ForwardState(generation, self.rows, generation.new_pass_states())

    _made: tuple[Any, Any] = (None, None)

    def once(self, thing: Any, make: Callable[[], Any]) -> Any:
        """`make()` once for the same thing: layers share an edit."""
        if self._made[0] is not thing:
            self._made = thing, make()
        return self._made[1]

    @cached_property
    def everywhere(self) -> bool:
        """Whether no row is padding."""
        return self.count == self.valid.numel()


def plan_rows(
    requests: Mapping[int, AnchoredRequest],
    starts: Sequence[int],
    lengths: Sequence[int],
    block_table: Int[Tensor, "requests n"],
    block_size: int,
) -> list[RowGroup]:
    """The groups of a step.

    Args:
        requests: Row of the batch -> its request, where it has a method.
        starts: First token of each row of the batch in this step, and the number of tokens: one more than rows.
        lengths: Keys of each row of the batch once this step is done.
        block_table: Blocks of the cache of each row of the batch.
        block_size: Keys in one block.

    Returns:
        Decoding steps and pieces of prompts apart, those of one method together.
    """
    together: dict[tuple[int, bool], list[int]] = {}
    for row, request in requests.items():
        if row < len(lengths):
            count = starts[row + 1] - starts[row]
            done = lengths[row] - count
            if count and _has_text(request, done, count):
                step = count == 1 and done >= request.prompt_tokens
                together.setdefault((id(request.method), step), []).append(row)
    return [
        _group([requests[row] for row in rows], rows, starts, lengths, block_table, block_size, step)
        for (_, step), rows in together.items()
    ]


def _has_text(request: AnchoredRequest, done: int, count: int) -> bool:
    """Whether the piece of `count` tokens after `done` has a text row; refuses a piece that cuts the prompt's text."""
    first, prompt = request.prompt.first_text, request.prompt_tokens
    end = done + count
    if first < prompt and (first < done < prompt or first < end < prompt):
        raise RuntimeError(
            f"A prompt's text (tokens {first} to {prompt}) was cut: this step holds tokens {done} to {end}. Its rows share "
            "the anchors of the last one. The engine must run with vlm-anchors' scheduler."
        )
    return end > min(first, prompt)


def _group(
    requests: Sequence[AnchoredRequest],
    batch_rows: Sequence[int],
    starts: Sequence[int],
    lengths: Sequence[int],
    block_table: Tensor,
    block_size: int,
    step: bool,
) -> RowGroup:
    keys = max(lengths[row] for row in batch_rows)
    count = -(-keys // block_size)
    first = requests[0]
    if step:
        tokens = torch.tensor([[starts[row]] for row in batch_rows])
        places = torch.tensor([[lengths[row] - 1] for row in batch_rows])
        valid, rows = torch.ones_like(tokens, dtype=torch.bool), TextRows(None, None, None, None)
    else:
        tokens, places, valid, rows = _prompt_rows(requests, batch_rows, starts, lengths)
    later = torch.arange(count * block_size) > places[..., None]
    mask = torch.zeros(later.shape).masked_fill_(later, MASKED)[:, None]
    paged = PagedRows(
        block_table[list(batch_rows), :count], np.array([lengths[row] for row in batch_rows], np.int64), block_size
    )
    return RowGroup(
        first.method, first.layers, first.depth, tokens, valid, rows, _visual(tuple(requests)), paged, mask
    )  # fmt: skip


def _prompt_rows(
    requests: Sequence[AnchoredRequest], batch_rows: Sequence[int], starts: Sequence[int], lengths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, TextRows]:
    """(tokens, positions, valid, rows) of pieces of prompts. Rows after the prompt (a resumed answer) stand alone."""
    found: list[tuple[Tensor, Tensor, int]] = []
    for request, row in zip(requests, batch_rows, strict=True):
        done = lengths[row] - (starts[row + 1] - starts[row])
        text = request.prompt.text[done : lengths[row]].nonzero()[:, 0] + done
        answer = torch.arange(max(done, request.prompt_tokens), lengths[row])
        places = torch.cat([text, answer])
        found.append((places - done + starts[row], places, len(text)))
    size = max(len(places) for _, places, _ in found)
    tokens, positions = torch.zeros(len(found), size, dtype=torch.long), torch.zeros(len(found), size, dtype=torch.long)
    valid, shared = torch.zeros(len(found), size, dtype=torch.bool), torch.zeros(len(found), size, dtype=torch.bool)
    for one, (index, places, text_rows) in enumerate(found):
        tokens[one, : len(index)], positions[one, : len(index)] = index, places
        valid[one, : len(index)], shared[one, :text_rows] = True, True
    source = (shared.sum(1) - 1).clamp(min=0)
    alone = bool((valid & ~shared).any())
    index = torch.arange(size).expand(len(found), size)
    return tokens, positions, valid, TextRows(index, valid, shared if alone else None, source)


@lru_cache(maxsize=8)
def _visual(requests: tuple[AnchoredRequest, ...]) -> Visual:
    """The visual keys of a group; decoding steps ask for the same one again and again."""
    size = max(len(request.prompt.visual) for request in requests)
    index = torch.zeros(len(requests), size, dtype=torch.long)
    valid, image = torch.zeros_like(index, dtype=torch.bool), torch.zeros_like(index)
    for one, request in enumerate(requests):
        count = len(request.prompt.visual)
        index[one, :count], image[one, :count], valid[one, :count] = request.prompt.visual, request.prompt.image, True
    images = max(request.prompt.images for request in requests)
    return Visual(index, valid, image, images, images == 1 and bool(valid.all()))
