"""What a method sees of one attention layer, and the edit it may return. Nothing here is Q x K: text rows only.

Shapes: b samples, h query heads, g key heads, r text rows, v visual keys, k keys, d head width, s sets of anchors
(1 where all rows share them, else r).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .text_rows import TextRows, Visual

T = TypeVar("T")


class PassOfLayers(Protocol):
    """What an attention layer needs of the forward pass that it belongs to, `forward_pass.ForwardState`."""

    @property
    def depth(self) -> int: ...
    @property
    def visual(self) -> Visual: ...
    @property
    def latents(self) -> bool: ...
    @property
    def generation(self) -> Any: ...
    @property
    def states(self) -> tuple[Any, ...]: ...
    def once(self, make: Callable[[], T], *things: Any) -> T: ...


@dataclass(frozen=True)
class AttentionEdit:
    """A change to the attention of text rows; every part is optional.

    Attributes:
        bias: Added to the scores of visual keys before the softmax, float32, finite. Adding log f is multiplying the
            weight by f and normalising the row again.
        shift: The same for all keys, in the query's dtype.
        key: What text rows see in place of the layer's keys; the cache keeps the layer's own.
        value: The same for the values.
        output: What text rows put out, in place of everything; the kernel is not run for them.
        rows: Which text rows it changes, where not all: for `effects`, nothing is computed from it.
    """

    bias: Float[Tensor, "b _h _r v"] | None = None
    shift: Float[Tensor, "b _h _r k"] | None = None
    key: Float[Tensor, "b g k d"] | None = None
    value: Float[Tensor, "b g k d"] | None = None
    output: Float[Tensor, "b h r d"] | None = None
    rows: Bool[Tensor, "b r"] | None = None

    @property
    def only_bias(self) -> bool:
        return self.shift is None and self.key is None and self.value is None and self.output is None


@dataclass
class AttentionView:
    """A lazy view of one layer in one forward pass: only what is asked for is computed, and only once."""

    layer: int
    """Decoder layer (or Q-Former cross-attention layer), from 1."""
    forward: PassOfLayers = field(repr=False)
    """The forward pass it belongs to."""
    rows: TextRows
    _query: Float[Tensor, "b h q d"]
    _layer_key: Float[Tensor, "b g k d"] | None
    _row_mask: Float[Tensor, "b 1 r k"] | None
    _columns: tuple[Int[Tensor, "b v"], Bool[Tensor, "b v"]]
    _scale: float
    _softcap: float | None = None
    _weights: Float[Tensor, "b h r v"] | None = field(default=None)
    _value: Float[Tensor, "b g k d"] | None = None
    _number: int = -1

    def of(self, number: int) -> "AttentionView":
        """The same layer as the method of this number sees it, with its own state."""
        self._number = number
        return self

    @property
    def depth(self) -> int:
        """How many such layers the model has."""
        return self.forward.depth

    @property
    def visual(self) -> Visual:
        return self.forward.visual

    @property
    def latents(self) -> bool:
        """True in a Q-Former, whose rows are latent queries: there is no last row."""
        return self.forward.latents

    @property
    def state(self) -> Any:
        """The method's own state of this generation."""
        return self.forward.generation.states[self._number]

    @property
    def pass_state(self) -> Any:
        """The method's own state of this forward pass."""
        return self.forward.states[self._number]

    def once(self, make: Callable[[], T], *things: Any) -> T:
        """`make()` once a forward pass for the same things (texts and numbers by value, all else by identity)."""
        return self.forward.once(make, self._number, *things)

    @property
    def visible(self) -> Bool[Tensor, "b v"]:
        """The prompt's visual keys. One that left a sliding window counts with weight 0, whether the cache keeps it or not."""
        return self.visual.valid

    @property
    def full(self) -> bool:
        """One image in each sample, all of equal size: nothing is padding, and per image means per sample."""
        return self.visual.full

    @property
    def only_visual(self) -> bool:
        """True in a Q-Former all of whose keys are visual: each row's visual mass is 1 then, whatever the head."""
        return self.latents and self.key_count == self.visual.index.shape[1]

    @property
    def _key(self) -> Float[Tensor, "b g k d"]:
        assert self._layer_key is not None
        return self._layer_key

    @property
    def key_count(self) -> int:
        """How many keys the layer has."""
        return self._key.shape[2]

    def rows_in(self, queries: int) -> int:
        """Text rows of a pass with so many query rows."""
        return queries if self.rows.index is None else self.rows.index.shape[1]

    @property
    def row_mask(self) -> Float[Tensor, "b 1 r k"] | None:
        """What is added to the scores of text rows where keys are padding or later; None where nothing is."""
        return self._row_mask

    @property
    def columns(self) -> tuple[Int[Tensor, "b v"], Bool[Tensor, "b v"]]:
        """Index among this layer's keys, and existence, of each visual key."""
        return self._columns

    @property
    def key(self) -> Float[Tensor, "b g k d"]:
        """The layer's keys, positions rotated in; never write to them."""
        return self._key

    @property
    def value(self) -> Float[Tensor, "b g k d"]:
        """The layer's values; never write to them."""
        if self._value is None:
            raise AttributeError("This view was made without values.")
        return self._value

    @property
    def dtype(self) -> torch.dtype:
        return self._query.dtype

    def visual_keys(self) -> Bool[Tensor, "b k"]:
        """Which of this layer's keys are visual tokens; made once a pass."""
        index, valid = self._columns
        size = self.key_count

        def make() -> Tensor:
            inside = torch.zeros(len(index), size, dtype=torch.int8, device=index.device)
            return inside.scatter_add_(1, index, valid.to(torch.int8)).bool()

        return self.forward.once(make, "visual keys", index, size)

    def keys_before(self) -> Bool[Tensor, "b k"]:
        """Which keys stand before the first visual token (the system prompt; padding in front counts); once a pass."""
        visual = self.visual_keys()
        return self.forward.once(lambda: (visual.cumsum(1) == 0) & visual.any(1, keepdim=True), "keys before", visual)

    def last_rows(self) -> Bool[Tensor, "b r"] | None:
        """The row that chooses the next token: the prompt's last, or each given answer row; None means every row."""
        if self.rows.index is None or self.rows.source is None:
            return None
        place = torch.arange(self.rows.index.shape[1], device=self.rows.index.device)
        last = place[None] == self.rows.source[:, None]
        return last if self.rows.shared is None else last | ~self.rows.shared

    def last_row_weights(self) -> Float[Tensor, "b h 1 k"]:
        """Softmax attention over all keys of the row that chooses the next token, float32; no other row is computed."""
        query, mask = self._query, self._last_mask()
        if self.rows.index is not None:
            assert self.rows.source is not None
            query = take_rows(query, self.rows.index.gather(1, self.rows.source[:, None]))
        scores = self._own_scores(query.float())
        return (scores if mask is None else scores + mask).softmax(-1)

    def last_row_keys(self) -> Bool[Tensor, "b k"]:
        """The keys that the row which chooses the next token may see."""
        mask = self._last_mask()
        if mask is None:
            return torch.ones(len(self._query), self.key_count, dtype=torch.bool, device=self._query.device)
        return (mask > torch.finfo(mask.dtype).min / 2)[:, 0, 0]

    def _last_mask(self) -> Float[Tensor, "b 1 1 k"] | None:
        mask, source = self._row_mask, self.rows.source
        if mask is None or source is None:
            return mask
        mask = mask.expand(len(source), -1, -1, -1)
        return mask.gather(2, source[:, None, None, None].expand(-1, 1, 1, mask.shape[-1]))

    def plain_scores(self) -> Float[Tensor, "b h r k"]:
        """Scores of the text rows before the softmax, no mask added, in the query's own dtype."""
        return self._own_scores(take_rows(self._query, self.rows.index))

    def scores(self) -> Float[Tensor, "b h r k"]:
        """Scores of the text rows before the softmax, masks added, float32."""
        return self._masked(self._own_scores(take_rows(self._query, self.rows.index).float()))

    def scores_of(self, key: Float[Tensor, "b g k d"]) -> Float[Tensor, "b h r k"]:
        """The same with other keys."""
        return self._masked(self._scores(take_rows(self._query, self.rows.index).float(), key.float()))

    def at_visual(self, values: Float[Tensor, "b h r k"]) -> Float[Tensor, "b h r v"]:
        """Columns of the visual keys; 0 where a key is filling."""
        return self._take_visual(values)

    def visual_of(self, keys: Float[Tensor, "b g k d"]) -> Float[Tensor, "b g v d"]:
        """Rows of the layer's keys (or values) that are visual tokens; filling repeats some other key."""
        index, _ = self._columns
        b, g, _, d = keys.shape
        return keys.gather(2, index[:, None, :, None].expand(b, g, -1, d))

    def with_visual(self, keys: Float[Tensor, "b g k d"], visual: Float[Tensor, "b g v d"]) -> Float[Tensor, "b g k d"]:
        """Keys (or values) with those of the visual tokens replaced; the given ones are not written to."""
        index, valid = self._columns
        place = index[:, None, :, None].expand_as(visual)
        if self.full:
            return keys.scatter(2, place, visual)
        # Filling points at key 0, which must not be overwritten with a stale copy of itself when it is visual too.
        spread = torch.zeros_like(keys).scatter_add_(2, place, visual * valid[:, None, :, None])
        return torch.where(self.visual_keys()[:, None, :, None], spread, keys)

    def _masked(self, scores: Float[Tensor, "b h r k"]) -> Float[Tensor, "b h r k"]:
        return scores if self._row_mask is None else scores + self._row_mask

    def _own_scores(self, query: Float[Tensor, "b h r d"]) -> Float[Tensor, "b h r k"]:
        """Scores of some rows against the layer's own keys, in the query's dtype."""
        return self._scores(query, self._key.to(query.dtype))

    def _scores(self, query: Float[Tensor, "b h r d"], key: Float[Tensor, "b g k d"]) -> Float[Tensor, "b h r k"]:
        b, h, r, d = query.shape
        groups = query.reshape(b * key.shape[1], -1, d)
        # With beta = 0 the first argument is not read; so product and scale are one kernel.
        scores = torch.baddbmm(
            groups[..., :1], groups, key.flatten(0, 1).transpose(-1, -2), beta=0, alpha=self._scale
        ).view(b, h, r, -1)
        return self._capped(scores)

    def _capped(self, scores: Float[Tensor, "b h r k"]) -> Float[Tensor, "b h r k"]:
        return scores if self._softcap is None else self._softcap * (scores / self._softcap).tanh()

    def weighted(self, weights: Float[Tensor, "b h r k"]) -> Float[Tensor, "b h r d"]:
        """The layer's values, summed by these weights; float32."""
        b, h, r, k = weights.shape
        values = self.value.float()
        return (weights.reshape(b, values.shape[1], -1, k) @ values).reshape(b, h, r, -1)

    def weights(self) -> Float[Tensor, "b h r v"]:
        """A: softmax attention of text rows (over all keys) to the visual keys; 0 at keys that are padding."""
        if self._weights is None:
            self._weights = self._take_visual(self.scores().softmax(-1))
        return self._weights

    def edited_weights(self, edit: AttentionEdit) -> Float[Tensor, "b h r v"]:
        """A~: the same after an edit of scores or keys."""
        if edit.bias is None and edit.shift is None and edit.key is None:
            return self.weights()
        return self._take_visual(self.edited_scores(edit).softmax(-1))

    def edited_scores(self, edit: AttentionEdit | None) -> Float[Tensor, "b h r k"]:
        """`scores` after an edit of scores or keys; of an edit that replaces the output, those before it."""
        if edit is None:
            return self.scores()
        scores = self.scores() if edit.key is None else self.scores_of(edit.key)
        if edit.shift is not None:
            scores = scores + edit.shift.float()
        if edit.bias is not None:
            scores = scores + spread_bias(edit.bias, self._columns, scores.shape[-1], torch.float32)
        return scores

    def _take_visual(self, weights: Float[Tensor, "b h r k"]) -> Float[Tensor, "b h r v"]:
        index, valid = self._columns
        b, h, r, _ = weights.shape
        taken = weights.gather(-1, index[:, None, None].expand(b, h, r, -1))
        return taken if self.full and valid is self.visual.valid else taken * valid[:, None, None]

    def row_mean(self, values: Float[Tensor, "b h r"]) -> Float[Tensor, "b h s"]:
        """Mean over the rows that share anchors (over all latent queries in a Q-Former); a row by itself elsewhere."""
        if self.rows.valid is None:
            return values.mean(-1, keepdim=True) if self.latents else values
        if self.rows.one_anchor_set:
            valid = self.rows.valid[:, None].to(values.dtype)
            return (values * valid).sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp(min=1)
        assert self.rows.shared is not None
        shared = self.rows.shared[:, None]
        weight = shared.to(values.dtype)
        mean = (values * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp(min=1)
        return torch.where(shared, mean, values)

    def anchor_row(self, values: Float[Tensor, "b h r v"]) -> Float[Tensor, "b h s v"]:
        """The row whose attention makes the anchors: the prompt's last one, or each row's own."""
        if self.rows.index is None:
            return values
        assert self.rows.source is not None
        b, h, _, v = values.shape
        last = self.rows.source[:, None, None, None].expand(b, h, 1, v)
        if self.rows.one_anchor_set:
            return values.gather(2, last)
        assert self.rows.shared is not None
        return torch.where(self.rows.shared[:, None, :, None], values.gather(2, last), values)


def take_rows(tensor: Float[Tensor, "b h q d"], index: Int[Tensor, "b r"] | None) -> Float[Tensor, "b h r d"]:
    if index is None:
        return tensor
    b, h, _, d = tensor.shape
    return tensor.gather(2, index[:, None, :, None].expand(b, h, -1, d))


def spread_bias(
    bias: Float[Tensor, "b _h _r v"],
    columns: tuple[Int[Tensor, "b v"], Bool[Tensor, "b v"]],
    keys: int,
    dtype: torch.dtype,
) -> Float[Tensor, "b _h _r k"]:
    """The bias of visual keys as a bias of all keys, 0 elsewhere.

    The buffer's rows are a multiple of 16 long: CUDA's memory-efficient kernel copies a misaligned bias in every layer.
    """
    index, valid = columns
    b, h, r, v = bias.shape
    bias = bias.to(dtype) * valid[:, None, None]
    full = torch.zeros(b, h, r, -(-keys // 16) * 16, dtype=dtype, device=bias.device)
    return full.scatter_add_(-1, index[:, None, None].expand(b, h, r, v), bias)[..., :keys]
