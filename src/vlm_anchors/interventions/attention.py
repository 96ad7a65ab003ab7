"""The attention function that carries every edit, registered beside transformers' own kernels.

Inactive, it is a call of the base kernel with the same arguments: bit-identical output. Active, on a prompt, it runs
the base kernel untouched and then again for the text rows alone with the edit ("split"); on a decoding step it is one
call with the edit. No Q x K matrix is made by us (methods.md, "two exact realisations").
"""

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import CannotAct
from .attention_view import AttentionEdit, AttentionView, spread_bias, take_rows
from .chunk_attention import edited_rows, put_rows
from .forward_pass import ForwardState, row_mask_of

PREFIX = "vlm_anchors_"

_BASES = ("sdpa", "eager")
_COMPARISON = re.compile(r"_attn_implementation\b\s*(?:==|!=|in\b|not in\b)")

PAGED = (
    "generate_batch (continuous batching) runs attention over pages that requests share, which no method can edit. "
    "Use generate, or take the method off first."
)


class EditedName(str):
    """A name under which ours is registered, and which is equal to its base's wherever a model asks for its kernel.

    Some classes build a sparse mask, or slice their rows, only where `config._attn_implementation` is "sdpa" or "eager";
    under any other name they would compute something else. Registries look names up by hash, which is its own.
    Only those classes get it: torch.compile cannot trace a subclass of str.
    """

    base: str

    def __new__(cls, base: str) -> "EditedName":
        name = super().__new__(cls, PREFIX + base)
        name.base = base
        return name

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) or (type(other) is str and other == self.base)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def __reduce__(self) -> tuple[type["EditedName"], tuple[str]]:
        return EditedName, (self.base,)


def edited_name(base: str, stack: nn.Module) -> str:
    """Name of the delegating version of a base attention implementation; registered at the first call.

    Args:
        base: Name of the kernel that the user chose.
        stack: Module that runs the layers; its class says which kind of name it can bear.
    """
    if base.startswith(PREFIX):
        return base
    if base.startswith("paged"):
        raise CannotAct(PAGED)
    if base not in _BASES:
        raise CannotAct(
            f"This model runs attention by {base!r}, which cannot take an additive bias per key. "
            f"Load it with attn_implementation='sdpa' (which uses flash kernels for the prompt by itself)."
        )
    name = EditedName(base) if _compares_names(sys.modules[type(stack).__module__]) else PREFIX + base
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _edited_name_of(base))
        # Without this second registration transformers would build no mask at all for an unknown name.
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


@lru_cache
def _compares_names(module: ModuleType) -> bool:
    """Whether a modeling file compares the kernel's name with others, as in `if config._attn_implementation == "sdpa"`."""
    try:
        return _COMPARISON.search(inspect.getsource(module)) is not None
    except (OSError, TypeError):
        return False


def _edited_name_of(base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def edited_attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *args: Any,
        forward_state: ForwardState | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        kernel = base_kernel(base, module)
        layer = None if forward_state is None else forward_state.layer_of(module)
        if layer is None:
            return kernel(module, query, key, value, attention_mask, *args, **kwargs)
        return _edited(kernel, forward_state, layer, module, query, key, value, attention_mask, args, kwargs)

    return edited_attention


def base_kernel(base: str, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The unmodified kernel; "eager" is not in the registry but in the attention class's own file."""
    if base == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[base]


def _edited(kernel, forward_state, layer, module, query, key, value, attention_mask, args, kwargs):
    if len(query) < len(key):
        # BLIP-2's learned queries come with batch 1 and are broadcast over the images by the kernel.
        query = query.expand(len(key), -1, -1, -1)
    _refuse_unseen(kwargs)
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    row_mask = forward_state.row_mask(attention_mask, query, key, causal)
    columns = forward_state.columns(layer, key.shape[2])
    scale = kwargs.get("scaling")
    view = AttentionView(
        layer, forward_state, forward_state.rows, query, key, row_mask, columns,
        query.shape[-1] ** -0.5 if scale is None else scale, kwargs.get("softcap"), _value=value,
    )  # fmt: skip
    edit = _seen(forward_state, view, query.device.type)
    if edit is None or (edit.bias is None and edit.only_bias):
        return kernel(module, query, key, value, attention_mask, *args, **kwargs)
    forward_state.count_edit(edit)
    if not edit.only_bias:
        return edited_rows(kernel, forward_state, edit, module, query, key, value, attention_mask, view, args, kwargs)
    if forward_state.generation.setup.literal:
        return literal_attention(forward_state, edit, columns, query, key, value, attention_mask, view, causal), None
    if forward_state.rows.index is None:
        mask = _with_bias(forward_state, edit, columns, row_mask, attention_mask, query, key)
        return kernel(module, query, key, value, mask, *args, **kwargs)
    out, weights = kernel(module, query, key, value, attention_mask, *args, **kwargs)
    mask = _with_bias(forward_state, edit, columns, row_mask, attention_mask, query, key)
    again = {**kwargs, "is_causal": False}
    rows = take_rows(query, forward_state.rows.index)
    row_out, row_weights = kernel(module, rows, key, value, mask, *args, **again)
    out = put_rows(out, row_out, forward_state, dim=1)
    return out, weights if weights is None else put_rows(weights, row_weights, forward_state, dim=2)


def _seen(forward_state: ForwardState, view: AttentionView, device: str) -> AttentionEdit | None:
    """The method's edit; under autocast its scores stay in float32, or thresholds would move with the rounding."""
    if not torch.is_autocast_enabled(device):
        return forward_state.see(view)
    with torch.autocast(device, enabled=False):
        return forward_state.see(view)


def _refuse_unseen(kwargs: dict[str, Any]) -> None:
    """Some kernels add terms to the softmax that a view does not compute; anchors found without them would be wrong."""
    for name, meaning in (("s_aux", "attention sinks"), ("position_bias", "a learned position bias")):
        if kwargs.get(name) is not None:
            raise CannotAct(f"This model's attention has {meaning}, which methods cannot see. Choose another model.")


def literal_attention(forward_state, edit, columns, query, key, value, attention_mask, view, causal) -> Tensor:
    """The papers' own form: every weight of every row, text rows multiplied by the factors and normalised again."""
    every = replace(view, rows=replace(view.rows, index=None), _row_mask=None, _weights=None)
    scores = every.scores()
    q, k = scores.shape[-2:]
    if attention_mask is not None or (causal and q > 1):
        scores = scores + row_mask_of(attention_mask, None, q, k, query.device)
    weights = scores.softmax(-1)
    bias = spread_bias(edit.bias, columns, k, torch.float32)
    factors = bias.exp().expand(*bias.shape[:2], view.rows_in(q), k)
    text = factors * take_rows(weights, forward_state.rows.index)
    text = text / text.sum(-1, keepdim=True)
    weights = text if forward_state.rows.index is None else put_rows(weights, text, forward_state, dim=2)
    groups = query.shape[1] // value.shape[1]
    return (weights.to(value.dtype) @ value.repeat_interleave(groups, 1)).transpose(1, 2).contiguous()


def _with_bias(forward_state, edit: AttentionEdit, columns, row_mask, attention_mask, query, key) -> Tensor:
    """Row mask plus bias over all keys, in the query's dtype; shared by every layer that returns the same edit."""

    def make() -> Tensor:
        full = spread_bias(edit.bias, columns, key.shape[2], query.dtype)
        if row_mask is None:
            return full.expand(-1, -1, rows, -1) if full.shape[2] != rows else full
        floor = torch.finfo(query.dtype).min
        return (full + row_mask.to(query.dtype)).clamp(min=floor)

    rows = query.shape[2] if forward_state.rows.index is None else forward_state.rows.index.shape[1]
    return forward_state.once(make, edit.bias, attention_mask, columns[0], key.shape[2])
