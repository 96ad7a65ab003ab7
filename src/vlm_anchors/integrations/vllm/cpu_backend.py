"""vLLM's CPU attention backend, with the methods after its kernel.

The kernel runs as it is, for all rows. Then the text rows of the layers that a method watches are shown to it, and
those of the layers it edits are replaced. Without such rows the output is the kernel's own. A step in which every row
would be replaced is computed here alone.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm import _custom_ops as ops
from vllm.config import VllmConfig
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.attention.backend import AttentionType, CommonAttentionMetadata
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
    CPUAttentionMetadataBuilder,
)

from ...errors import CannotAct
from .cpu_cache import CPUCache, compile_kernels
from .edit_rows import PagedView, write_rows
from .model_facts import check_engine
from .request_table import table_of
from .row_plan import PagedRows, RowGroup, plan_rows


@dataclass
class AnchorMetadata(CPUAttentionMetadata):
    """The kernel's own metadata, and the text rows of the step."""

    groups: list[RowGroup] = field(default_factory=list)


class AnchorMetadataBuilder(CPUAttentionMetadataBuilder):
    """Plans the text rows of a step."""

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: VllmConfig, device: torch.device):
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        check_engine(vllm_config)
        if not self.is_cross_attention and not self.is_encoder_only_attention:
            compile_kernels()
            require_known_layout(self.isa, self.dtype, self.num_kv_heads, self.block_size, self.head_dim)

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> CPUAttentionMetadata:
        metadata = super().build(common_prefix_len, common_attn_metadata, fast_build)
        table = table_of(self.vllm_config)
        if table is None or not table.requests or self.is_cross_attention or self.is_encoder_only_attention:
            return metadata
        count = common_attn_metadata.num_reqs
        groups = plan_rows(
            table.requests,
            common_attn_metadata.query_start_loc_cpu[: count + 1].tolist(),
            common_attn_metadata.seq_lens[:count].tolist(),
            common_attn_metadata.block_table_tensor,
            self.block_size,
        )
        return AnchorMetadata(**vars(metadata), groups=groups) if groups else metadata


class AnchorAttentionImpl(CPUAttentionBackendImpl):
    """The kernel, and the methods."""

    _number: int | None = None

    def forward(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: CPUAttentionMetadata | None,
        output: Tensor,
        output_scale: Tensor | None = None,
        output_block_scale: Tensor | None = None,
    ) -> Tensor:
        def kernel() -> Tensor:
            run = super(AnchorAttentionImpl, self).forward
            return run(layer, query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale)

        if not isinstance(attn_metadata, AnchorMetadata) or self.attn_type != AttentionType.DECODER:
            return kernel()
        if self._number is None:
            self._number = extract_layer_index(layer.layer_name) + 1
        groups = [group for group in attn_metadata.groups if self._number in group.layers]
        # Where every row of the step is a text row, as in most decoding steps, the kernel would work in vain.
        alone = sum(group.count for group in groups) == attn_metadata.num_actual_tokens
        if not alone:
            kernel()
        rows, cache = output.view(query.shape), CPUCache(kv_cache)
        for group in groups:
            view = PagedView(group, self._number, query, cache, self.scale, self.logits_soft_cap or None)
            edit = group.forward.see(view)
            if edit is not None or alone:
                write_rows(view, edit, group, rows)
        return output


class AnchorCPUBackend(CPUAttentionBackend):
    """Registered in place of `CPU_ATTN`, whose name it keeps."""

    @staticmethod
    def get_impl_cls() -> type[CPUAttentionBackendImpl]:
        return AnchorAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[CPUAttentionMetadataBuilder]:
        return AnchorMetadataBuilder


def require_known_layout(isa: str, dtype: torch.dtype, heads: int, size: int, width: int) -> None:
    """Write two blocks of known keys and values with the kernel's own function, and read them back.

    Raises:
        CannotAct: They come back in another order: this processor's kernel keeps its cache in a layout of its own.
    """
    cache = torch.zeros(3, heads, size, 2 * width, dtype=dtype)
    tokens = 2 * size
    key = torch.arange(tokens)[:, None, None] % 61 + torch.arange(heads)[:, None] * 67 + torch.arange(width) % 59 / 64
    key = key.to(dtype).contiguous()
    value = (-key).contiguous()
    key_cache, value_cache = cache.view(3, heads, 2 * size, width).chunk(2, dim=2)
    ops.cpu_attn_reshape_and_cache(
        key, value, key_cache, value_cache, torch.arange(size, 3 * size), isa, k_scale=1.0, v_scale=1.0,
        kv_cache_dtype="auto",
    )  # fmt: skip
    held, paged = CPUCache(cache), PagedRows(torch.tensor([[1, 2]]), np.array([tokens]), size)
    if not (
        torch.equal(held.keys(paged)[0], key.transpose(0, 1))
        and torch.equal(held.values(paged)[0], -key.transpose(0, 1))
    ):
        raise CannotAct(
            f"vLLM keeps keys in a layout of its own on this processor ({isa}, {str(dtype).removeprefix('torch.')}, blocks of "
            f"{size}), which methods cannot read. Run with --dtype float32."
        )
