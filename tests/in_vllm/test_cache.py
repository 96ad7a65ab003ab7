"""The paged cache is read as the copies of its keys and values say."""

import numpy as np
import pytest
import torch

from vlm_anchors.integrations.vllm.cpu_cache import CPUCache
from vlm_anchors.integrations.vllm.row_plan import PagedRows


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_and_sums_of_values(rows, heads, groups, dtype):
    torch.manual_seed(0)
    size, width, lengths = 16, 32, np.array([40, 7, 48])
    cache = CPUCache(torch.randn(12, groups, size, 2 * width, dtype=dtype))
    paged = PagedRows(torch.randperm(12)[:9].view(3, 3).int(), lengths, size)
    query = torch.randn(3, heads, rows, width)
    there = (torch.arange(paged.keys) < torch.from_numpy(lengths)[:, None])[:, None, None]
    keys = cache.keys(paged).float().repeat_interleave(heads // groups, 1)
    expected = (query @ keys.transpose(2, 3) * 0.3).where(there, 0)
    found = cache.scores(query, paged, 0.3)
    assert torch.allclose(found.where(there, 0), expected, atol=1e-5) and found.isfinite().all()
    weights = torch.rand(3, heads, rows, paged.keys).where(there, 0)
    values = cache.values(paged).float().repeat_interleave(heads // groups, 1)
    assert torch.allclose(cache.weighted(weights, paged), weights @ values, atol=1e-4)
