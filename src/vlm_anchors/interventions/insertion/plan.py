"""Copies of tokens inserted into a batch of sequences: one stable sort of keys, no loop over tokens.

Shapes: b samples, t tokens of the sequences as they were, c candidates for a copy (the longest sample's number), s slots
of the inserted sequences.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

IGNORED = -100
"""Label of a token that no loss is taken of."""
PAUSE = -1
"""As the source of a copy: no token of the sequence but the padding token, attended to (a pause token)."""


@dataclass(frozen=True)
class Copies:
    """What shall be copied where. Copies behind one host stand in the order of their columns."""

    source: Int[Tensor, "b c"]
    """Position of the token that is copied, or `PAUSE`."""
    host: Int[Tensor, "b c"]
    """Position of the token behind which the copy goes."""
    chosen: Bool[Tensor, "b c"]
    """Which candidates become copies at all."""
    advances: Bool[Tensor, "b c"]
    """Where positions have several parts (M-RoPE): which copies count as tokens of their own; the others take the
    position of a patch."""
    cosine: Float[Tensor, "b c"]
    """What made each a candidate; shown to people, not computed with."""
    match: Int[Tensor, "b c"] | None = None
    """The patch (or word) that each resembles, where that is not its host; shown to people as well."""
    removed: Bool[Tensor, "b t"] | None = None
    """Tokens that are taken out of the sequence; None: none."""

    @property
    def resembled(self) -> Int[Tensor, "b c"]:
        """Position of the token that each candidate resembles."""
        return self.host if self.match is None else self.match

    @property
    def change(self) -> bool:
        """Whether anything is inserted or removed at all."""
        return bool(self.chosen.any()) or (self.removed is not None and bool(self.removed.any()))


def nothing_copied(removed: Bool[Tensor, "b t"]) -> Copies:
    """No copy at all: tokens are only removed."""
    none = torch.zeros(len(removed), 0, dtype=torch.long, device=removed.device)
    return Copies(none, none, none.bool(), none.bool(), none.float(), removed=removed)


@dataclass(frozen=True)
class Plan:
    """Where each slot of the inserted sequences comes from."""

    source: Int[Tensor, "b s"]
    """Position of the token in the slot; `PAUSE` in a pause token, 0 in new padding."""
    host: Int[Tensor, "b s"]
    """Position of the token behind which a copy stands; of the token itself where it is no copy."""
    copy: Bool[Tensor, "b s"]
    fill: Bool[Tensor, "b s"]
    """New padding, where other samples of the batch grew more."""
    advances: Bool[Tensor, "b s"]
    column: Int[Tensor, "b s"]
    """Which candidate a copy is; -1 where it is none."""

    def take(self, values: Int[Tensor, "*lead b t"], at: Int[Tensor, "b s"]) -> Int[Tensor, "*lead b s"]:
        """`values` at positions `at`; leading axes (time, height, width) are taken along."""
        at = at.clamp(min=0).expand(*values.shape[:-1], -1)
        return values.gather(-1, at)

    def slots(self, length: int) -> Int[Tensor, "b t"]:
        """Where each of the `length` tokens of the sequences as they were stands now; -1 where it was removed."""
        own = ~self.copy & ~self.fill
        place = torch.arange(own.shape[1], device=own.device).expand_as(own)
        slots = place.new_full((len(own), length + 1), -1)
        return slots.scatter_(1, self.source.where(own, length), place)[:, :length]

    def originals(self, length: int) -> Int[Tensor, "b s"]:
        """The slot of the token that the one in a slot is a copy of; its own where it is none, or where that was removed."""
        place = torch.arange(self.copy.shape[1], device=self.copy.device).expand_as(self.copy)
        found = self.take(self.slots(length), self.source)
        return found.where(self.copy & (self.source != PAUSE) & (found >= 0), place)


def insert(length: int, copies: Copies, pad_left: bool) -> Plan:
    """The plan for sequences of `length` tokens; samples that grew less are padded on the left (or the right).

    A token at position p has the key p (c + 1), the copy of column k behind it p (c + 1) + 1 + k: sorted, each copy stands
    behind its host. Candidates that are not chosen, and tokens that are removed, are sorted to the padding's side and cut off.
    """
    b, c = copies.chosen.shape
    place = torch.arange(length, device=copies.host.device).expand(b, -1)
    rank = torch.arange(c, device=copies.host.device)
    aside = -1 if pad_left else length * (c + 1)
    own, no = torch.zeros_like(place, dtype=torch.bool), torch.zeros_like(place)
    gone = own if copies.removed is None else copies.removed
    beside = (copies.host * (c + 1) + 1 + rank).where(copies.chosen, aside)
    keys = torch.cat([(place * (c + 1)).where(~gone, aside), beside], 1)
    size = int((copies.chosen.sum(1) + (~gone).sum(1)).max())
    order = keys.argsort(dim=1, stable=True)
    order = order[:, -size:] if pad_left else order[:, :size]
    fill = torch.cat([gone, ~copies.chosen], 1).gather(1, order)
    return Plan(
        source=torch.cat([place, copies.source], 1).gather(1, order).where(~fill, 0),
        host=torch.cat([place, copies.host], 1).gather(1, order).where(~fill, 0),
        copy=torch.cat([own, copies.chosen], 1).gather(1, order),
        fill=fill,
        advances=torch.cat([own, copies.chosen & copies.advances], 1).gather(1, order),
        column=torch.cat([no - 1, rank.expand(b, -1)], 1).gather(1, order).where(~fill, -1),
    )


def insert_tokens(plan: Plan, tensors: Mapping[str, Any], pad_id: int) -> dict[str, Any]:
    """`input_ids` and what else has a value for each token (b, t), inserted to (b, s); other entries are left out.

    Copies are attended to and carry no label. `token_type_ids` steer attention (an image's block is bidirectional in
    Gemma 3), so a copy takes its host's; `mm_token_type_ids` tell images from text, so a copy keeps its own.
    """
    shape = tensors["input_ids"].shape
    ids = plan.take(tensors["input_ids"], plan.source).masked_fill(plan.fill | (plan.source == PAUSE), pad_id)
    inserted: dict[str, Any] = {"input_ids": ids}
    mask = tensors.get("attention_mask")
    if mask is not None or plan.fill.any():
        real = torch.ones(shape, dtype=torch.long, device=ids.device) if mask is None else mask
        inserted["attention_mask"] = plan.take(real, plan.host).masked_fill(plan.copy, 1).masked_fill(plan.fill, 0)
    if tensors.get("labels") is not None:
        inserted["labels"] = plan.take(tensors["labels"], plan.host).masked_fill(plan.copy | plan.fill, IGNORED)
    if tensors.get("token_type_ids") is not None:
        inserted["token_type_ids"] = plan.take(tensors["token_type_ids"], plan.host).masked_fill(plan.fill, 0)
    if tensors.get("mm_token_type_ids") is not None:
        kinds = plan.take(tensors["mm_token_type_ids"], plan.source)
        inserted["mm_token_type_ids"] = kinds.masked_fill(plan.fill | (plan.source == PAUSE), 0)
    return inserted


def insert_positions(
    plan: Plan,
    positions: Int[Tensor, "*parts b t"],
    at: Int[Tensor, "b s"],
    advances: Bool[Tensor, "b s"],
    closed: Bool[Tensor, "b t"] | None = None,
) -> Int[Tensor, "*parts b s"]:
    """Positions of the inserted sequences.

    A copy that `advances` counts as a token of its own: it comes right behind everything before it, all parts alike, and
    what follows moves on by one. Any other copy takes the position of the token `at` and moves nothing. closed: removed
    tokens whose places what follows moves back into; None: none.
    """
    moved = advances.long().cumsum(1)
    furthest = positions.cummax(-1).values
    if positions.dim() == 3:
        furthest = furthest.amax(0, keepdim=True).expand_as(positions)
    shifted = torch.where(advances, plan.take(furthest, plan.host), plan.take(positions, at))
    if closed is not None:
        moved = moved - plan.take(closed.long().cumsum(1), plan.host)
    return (shifted + moved).masked_fill(plan.fill, 0)
