"""Attention of text rows to the image, captured in an ordinary sdpa forward pass or generation.

`output_attentions=True` needs eager attention, which makes and keeps every Q x K matrix: 12 layers of 12 heads over 620
tokens are 220 MB, of a 7B model 1.6 GB. What people look at are the rows of words and the columns of the image. Those are
computed here for themselves, layer by layer, and kept on the CPU in half precision; results/capture_memory.json has the
sizes. Equal to eager's weights within float error (tests/test_capture.py).

Shapes: l layers captured, h query heads, r text rows, m rows whose maps are kept (the last of the r), v visual tokens.
"""

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import BadSetting, CannotAct
from ..interventions.attention_parts import Parts, keys_seen, parts_of
from ..interventions.attention_view import AttentionEdit, AttentionView
from ..interventions.text_rows import TextRows, Visual


@dataclass(frozen=True)
class Trace:
    """What was seen of one sample in one pass: the prompt (r text rows), or the step to one more token (r = 1).

    Masses in [0, 1]; what is neither visual nor system is words of the user and the answer.
    """

    layers: tuple[int, ...]
    """Numbers of the captured layers, from 1."""
    weights: Float[Tensor, "l _h m v"]
    """Attention of the last m text rows to each visual token, float32; h = 1 where only the mean over heads was kept."""
    visual: Float[Tensor, "l h r"]
    system: Float[Tensor, "l h r"]
    first: Float[Tensor, "l h r"]
    """Mass on the sequence's first token."""
    keys: Int[Tensor, " r"]
    """Keys that each row may attend to."""
    image: Int[Tensor, " v"]
    """Which image a visual token belongs to, from 0."""
    positions: Int[Tensor, " r"] | None
    """Where the rows stand in the (padded) prompt; None for a generated token."""
    norms: Float[Tensor, "2 l h r"] | None = None
    """|O_P|, |O_V| of Eq. 12 for each head."""

    @property
    def words(self) -> Float[Tensor, "l h r"]:
        """Mass on words after the image's first token."""
        return 1 - self.visual - self.system

    @property
    def last(self) -> Float[Tensor, "l _h v"]:
        """The last row's attention: the one that chooses the next token."""
        return self.weights[:, :, -1]


@dataclass
class _Layer:
    before: Parts
    after: Parts | None
    keys: Tensor


@dataclass
class _Pass:
    index: Tensor | None
    """Positions of the text rows (b, r); None where every row is one."""
    count: list[int] | None
    """Text rows of each sample."""
    image: Tensor
    valid: Tensor
    layers: dict[int, _Layer] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: TextRows, visual: Visual) -> "_Pass":
        count = None if rows.valid is None else rows.valid.sum(1).tolist()
        index = None if rows.index is None else rows.index.cpu()
        return cls(index, count, visual.image.cpu(), visual.valid.cpu())


class Capture:
    """A watcher: `with attach(vlm, method, watch=Capture()) as handle: ...`, then `of(sample)`. Holds the latest prompt.

    Args:
        layers: Which decoder layers, from 1; None = all.
        heads: Which heads, from 1; None = all.
        rows: Keep the maps of the "all" (at most `max_rows`, the last ones) or only the "last" text row of a prompt;
            masses are kept of every row.
        norms: Also |O_P| and |O_V| (Eq. 12).
        dtype: Of the kept maps.
        max_tokens: Generated tokens that are kept; later ones are counted in `left_out`.
        token_bytes: What the maps of one generated token may take; a layer that would exceed its share is kept as the
            mean over its heads. The cost is text rows x visual tokens a layer and head, before and after the method's
            edit; a generation of n tokens never keeps more than n x token_bytes for them.
    """

    def __init__(
        self,
        layers: "set[int] | range | tuple[int, ...] | None" = None,
        heads: "set[int] | range | tuple[int, ...] | None" = None,
        *,
        rows: str = "all",
        norms: bool = False,
        dtype: torch.dtype = torch.float16,
        max_rows: int = 256,
        max_tokens: int = 512,
        token_bytes: int = 4 << 20,
    ):
        if rows not in ("all", "last"):
            raise BadSetting(f"Capture's rows must be 'all' or 'last'; found {rows!r}.")
        for name, value in (("layers", layers), ("heads", heads)):
            if value is not None and (not value or min(value) < 1):
                raise BadSetting(f"Capture's {name} count from 1 and must not be empty; found {sorted(value)}.")
        self.layers = None if layers is None else frozenset(layers)
        self.heads = None if heads is None else sorted(set(heads))
        self.rows, self.norms, self.dtype = rows, norms, dtype
        self.max_rows, self.max_tokens, self.token_bytes = max_rows, max_tokens, token_bytes
        self.left_out = 0
        """Generated tokens beyond `max_tokens`, which were not kept."""
        self._generation: Any = lambda: None
        self._passes: list[_Pass] = []
        self._current: Any = lambda: None

    def see(self, view: AttentionView, edit: AttentionEdit | None) -> None:
        """Called by the engine for every layer of every pass."""
        if self.layers is not None and view.layer not in self.layers:
            return
        seen = self._pass_of(view)
        if seen is None:
            return
        with torch.no_grad():
            before, after = parts_of(view, edit, self.norms)
            self._check_heads(view.layer, before.weights.shape[1])
            step = len(self._passes) > 1
            seen.layers[view.layer] = _Layer(
                self._kept(view, before, step),
                None if after is None else self._kept(view, after, step),
                keys_seen(view).cpu(),
            )

    def _pass_of(self, view: AttentionView) -> _Pass | None:
        """The pass this layer belongs to. Held weakly: a generation holds caches."""
        if view.forward.generation is not self._generation():
            self._generation, self._current = weakref.ref(view.forward.generation), lambda: None
            self._passes, self.left_out = [], 0
        full = len(self._passes) > self.max_tokens
        if self._current() is view.forward:
            return None if self.left_out else self._passes[-1]
        self._current = weakref.ref(view.forward)
        if full:
            self.left_out += 1
            return None
        self._passes.append(_Pass.of(view.rows, view.visual))
        return self._passes[-1]

    def _check_heads(self, layer: int, heads: int) -> None:
        if self.heads is not None and self.heads[-1] > heads:
            raise CannotAct(f"Head {self.heads[-1]} was asked for; layer {layer} has heads 1 to {heads}.")

    def _kept(self, view: AttentionView, parts: Parts, step: bool) -> Parts:
        """On the CPU: chosen heads, chosen rows, maps in `dtype`; a step's maps within their share of bytes."""
        chosen = slice(None) if self.heads is None else [head - 1 for head in self.heads]
        weights = self._rows(view, parts.weights[:, chosen])
        layers = view.depth if self.layers is None else len(self.layers)
        if step and 2 * weights[0].numel() * self.dtype.itemsize > self.token_bytes // layers:
            weights = weights.mean(1, keepdim=True)
        visual, system, first = (mass[:, chosen].float().cpu() for mass in (parts.visual, parts.system, parts.first))
        norms = None if parts.norms is None else parts.norms[:, :, chosen].cpu()
        return Parts(weights.to(self.dtype).cpu(), visual, system, first, norms)

    def _rows(self, view: AttentionView, weights: Tensor) -> Tensor:
        valid = view.rows.valid
        if valid is None:
            return weights
        most = 1 if self.rows == "last" else self.max_rows
        b, h, r, v = weights.shape
        if r <= most:
            return weights
        first = (valid.sum(1, keepdim=True) - most).clamp(min=0)
        index = first + torch.arange(most, device=first.device)
        return weights.gather(2, index[:, None, :, None].expand(b, h, most, v))

    def of(self, sample: int = 0, edited: bool = False) -> list[Trace]:
        """What was seen of one sample: the prompt first, then one `Trace` a generated token.

        edited: weights after the method's edit, in layers that it edits (elsewhere there is no difference).
        """
        return [self._trace(one, sample, edited) for one in self._passes if one.layers]

    def _trace(self, one: _Pass, sample: int, edited: bool) -> Trace:
        layers = sorted(one.layers)
        seen = [one.layers[layer] for layer in layers]
        parts = [each.after if edited and each.after is not None else each.before for each in seen]
        count = parts[0].visual.shape[2] if one.count is None else one.count[sample]
        maps = min(count, parts[0].weights.shape[2])
        visual, system, first = (
            torch.stack([getattr(each, name)[sample, :, :count] for each in parts])
            for name in ("visual", "system", "first")
        )
        return Trace(
            layers=tuple(layers),
            weights=_stacked([each.weights[sample, :, :maps].float() for each in parts])[..., one.valid[sample]],
            visual=visual,
            system=system,
            first=first,
            keys=seen[-1].keys[sample, :count],
            image=one.image[sample][one.valid[sample]],
            positions=None if one.index is None else one.index[sample, :count],
            norms=_norms([each.norms for each in parts], sample, count),
        )

    @property
    def kept_bytes(self) -> int:
        """Bytes of everything kept now."""
        tensors = (
            tensor
            for one in self._passes
            for layer in one.layers.values()
            for parts in (layer.before, layer.after)
            if parts is not None
            for tensor in (parts.weights, parts.visual, parts.system, parts.first, parts.norms)
            if tensor is not None
        )
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _stacked(maps: list[Float[Tensor, "_h m v"]]) -> Float[Tensor, "l _h m v"]:
    """All layers together; where some were kept as a mean over heads, all become one."""
    if len({len(one) for one in maps}) > 1:
        maps = [one.mean(0, keepdim=True) for one in maps]
    return torch.stack(maps)


def _norms(norms: list[Tensor | None], sample: int, count: int) -> Float[Tensor, "2 l h r"] | None:
    kept = [one[:, sample, :, :count] for one in norms if one is not None]
    return torch.stack(kept, 1) if kept else None
