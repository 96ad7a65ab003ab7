"""Reads vLLM's paged cache on a CPU where it lies: what is copied is what a method asks for.

A layer's cache is (blocks, g, s, 2 d): for each block and head s d numbers of keys, then s d of values. The kernel keeps
the keys of a block transposed, (d, s), and its values as they are, (s, d).

Shapes: b requests, n blocks of each, g key heads, h query heads, r rows, s keys in a block, d head width, k = n s keys.
"""

import inspect
from collections.abc import Callable

import llvmlite.binding
import numba
import numpy as np
import torch
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

from .row_plan import PagedRows

# vLLM's CPU worker asks every object of every module for its __dict__, and llvmlite's library takes that for a function's
# name: a second engine in one process would not start.
llvmlite.binding.ffi.lib._fntab.setdefault("__dict__", {})


class CPUCache:
    """Keys and values of one layer."""

    def __init__(self, cache: Float[Tensor, "blocks g s _both"]):
        blocks, heads, size, both = cache.shape
        self.size, self.width = size, both // 2
        self.halves = cache.view(blocks, heads, 2, size * self.width)

    def keys(self, paged: PagedRows) -> Float[Tensor, "b g k d"]:
        """A copy of the keys, in the order of the request."""
        b, n = paged.blocks.shape
        held = self.halves[paged.blocks, :, 0].view(b, n, -1, self.width, self.size)
        return held.permute(0, 2, 3, 1, 4).reshape(b, held.shape[2], self.width, n * self.size).transpose(-1, -2)

    def values(self, paged: PagedRows) -> Float[Tensor, "b g k d"]:
        """A copy of the values, in the order of the request."""
        b, n = paged.blocks.shape
        held = self.halves[paged.blocks, :, 1].view(b, n, -1, self.size, self.width)
        return held.transpose(1, 2).reshape(b, held.shape[2], n * self.size, self.width)

    def scores(self, query: Float[Tensor, "b h r d"], paged: PagedRows, scale: float) -> Float[Tensor, "b h r k"]:
        """Products of rows and keys times `scale`, in the query's dtype; 0 where a request has no key."""
        b, h, r, d = query.shape
        found = query.new_zeros(b, h, r, paged.keys)
        if r == 1 and query.dtype == self.halves.dtype == torch.float32:
            row_scores(
                query.view(b, h, d).numpy(), self.halves.numpy(), paged.table, paged.lengths, scale,
                found.view(b, h, -1).numpy(),
            )  # fmt: skip
            return found
        g = self.halves.shape[1]
        rows = query.reshape(b, g, -1, d)
        for one, blocks in enumerate(paged.listed):
            for place, block in enumerate(blocks):
                keys = self.halves[block, :, 0].view(g, self.width, self.size).to(query.dtype)
                at = slice(place * self.size, (place + 1) * self.size)
                found[one, :, :, at] = torch.baddbmm(
                    rows[one, ..., :1], rows[one], keys, beta=0, alpha=scale
                ).view(h, r, -1)  # fmt: skip
        return found

    def weighted(self, weights: Float[Tensor, "b h r k"], paged: PagedRows) -> Float[Tensor, "b h r d"]:
        """The values summed by these weights; float32."""
        b, h, r, _ = weights.shape
        out = torch.zeros(b, h, r, self.width)
        if r == 1 and self.halves.dtype == torch.float32:
            weighted_values(
                weights.view(b, h, -1).numpy(), self.halves.numpy(), paged.table, paged.lengths,
                out.view(b, h, -1).numpy(),
            )  # fmt: skip
            return out
        g = self.halves.shape[1]
        grouped, sums = weights.reshape(b, g, -1, paged.keys), out.view(b, g, -1, self.width)
        for one, blocks in enumerate(paged.listed):
            for place, block in enumerate(blocks):
                values = self.halves[block, :, 1].view(g, self.size, self.width).float()
                at = slice(place * self.size, (place + 1) * self.size)
                sums[one].baddbmm_(grouped[one, :, :, at], values)
        return out


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """`function` as numba makes it; without the checks that tests put around every function."""
    options = {"parallel": True, "fastmath": {"contract", "reassoc"}, "error_model": "numpy"}
    return njit(**options)(inspect.unwrap(function))  # type: ignore[no-any-return]


# A matrix product is slow for one row a request and head, as a decoding step has. These two read each number once, in order.
@_compiled
def row_scores(query, halves, table, lengths, scale, out):  # type: ignore[no-untyped-def]
    """out (b, h, k) = scale * query (b, h, d) . keys; what lies after a request's length stays as it is."""
    b, h, d = query.shape
    g, size = halves.shape[1], halves.shape[3] // d
    for job in prange(b * h):
        one, head = job // h, job % h
        for place in range((lengths[one] + size - 1) // size):
            keys = halves[table[one, place], head * g // h, 0].reshape(d, size)
            end = min(size, lengths[one] - place * size)
            row = out[one, head, place * size : place * size + end]
            for c in range(d):
                x = query[one, head, c] * scale
                for key in range(end):
                    row[key] += x * keys[c, key]


@_compiled
def weighted_values(weights, halves, table, lengths, out):  # type: ignore[no-untyped-def]
    """out (b, h, d) += weights (b, h, k) values; weights after a request's length are not read."""
    b, h, d = out.shape
    g, size = halves.shape[1], halves.shape[3] // d
    for job in prange(b * h):
        one, head = job // h, job % h
        row = out[one, head]
        for place in range((lengths[one] + size - 1) // size):
            values = halves[table[one, place], head * g // h, 1].reshape(size, d)
            for key in range(min(size, lengths[one] - place * size)):
                x = weights[one, head, place * size + key]
                for c in range(d):
                    row[c] += x * values[key, c]


def compile_kernels() -> None:
    """Compile these functions for float32, and have them use as many threads as torch does.

    With OpenMP numba's threads are torch's own, which vLLM has bound to processors. When numba starts, it sets their number
    for all of OpenMP to that of the processors; so torch's is set again afterwards.
    """
    threads = torch.get_num_threads()
    numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    rows, page = np.zeros((1, 1, 16), np.float32), np.zeros((1, 1, 2, 16), np.float32)
    table, lengths = np.zeros((1, 1), np.int32), np.ones(1, np.int64)
    row_scores(rows, page, table, lengths, 1.0, np.zeros((1, 1, 1), np.float32))
    weighted_values(rows, page, table, lengths, np.zeros((1, 1, 16), np.float32))
    torch._C.set_num_threads(threads)  # vLLM replaces torch.set_num_threads by a function that refuses.
