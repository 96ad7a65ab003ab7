"""The rows that a method edits inside vLLM, from a paged cache, against softmax over every key written out."""

import numpy as np
import pytest
import torch

from vlm_anchors.integrations.vllm import edit_rows as rows
from vlm_anchors.integrations.vllm.prompt_map import PromptMap
from vlm_anchors.integrations.vllm.row_plan import AnchoredRequest, PagedRows, plan_rows
from vlm_anchors.methods.clva import CLVA

HEADS, GROUPS, WIDTH, SIZE, DEPTH = 4, 2, 8, 4, 6
LAYERS = range(1, DEPTH + 1)


class Pages:
    """A cache of one layer, (blocks, g, size, d), whose blocks are handed out in a random order."""

    def __init__(self, keys, values):
        self.key, self.value = keys, values

    def keys(self, paged):
        return self.key[paged.blocks].transpose(1, 2).flatten(2, 3)

    def values(self, paged):
        return self.value[paged.blocks].transpose(1, 2).flatten(2, 3)

    def scores(self, query, paged, scale):
        return query @ self.keys(paged).repeat_interleave(HEADS // GROUPS, 1).transpose(2, 3) * scale

    def weighted(self, weights, paged):
        return weights @ self.values(paged).repeat_interleave(HEADS // GROUPS, 1)


def request(method, visual, tokens):
    """A prompt of `tokens` tokens with an image at `visual`."""
    first, last = visual
    place = torch.arange(first, last)
    text = torch.zeros(tokens, dtype=torch.bool)
    text[last:] = True
    layers = frozenset(LAYERS)
    return AnchoredRequest(method, layers, DEPTH, PromptMap(place, torch.zeros_like(place), text), tokens)


def run(method, pieces, always=False):
    """(tokens of the step, outputs of each layer) for [(request, tokens before, tokens now)]."""
    torch.manual_seed(0)
    starts, lengths = [0], []
    for _, done, count in pieces:
        starts.append(starts[-1] + count)
        lengths.append(done + count)
    blocks = max(-(-n // SIZE) for n in lengths)
    table = torch.randperm(len(pieces) * blocks).view(len(pieces), blocks)
    requests = {row: one for row, (one, _, _) in enumerate(pieces) if one is not None}
    groups = plan_rows(requests, starts, lengths, table, SIZE)
    shape = (table.numel(), GROUPS, SIZE, WIDTH)
    outputs = []
    for layer in LAYERS:
        query = 2 * torch.randn(starts[-1], HEADS, WIDTH)
        cache = Pages(torch.randn(shape), torch.randn(shape))
        plain = kernel(query, cache, table, starts, lengths)
        output = plain.clone()
        for group in groups:
            view = rows.PagedView(group, layer, query, cache, WIDTH**-0.5, None)
            edit = group.forward.see(view)
            if edit is not None or always:
                rows.write_rows(view, edit, group, output)
        outputs.append((plain, output))
    return starts, outputs


def kernel(query, cache, table, starts, lengths):
    """What the engine's own kernel puts out: causal attention of each request to its own keys."""
    out = torch.zeros_like(query)
    for row, length in enumerate(lengths):
        own = slice(starts[row], starts[row + 1])
        paged = PagedRows(table[row : row + 1], np.array([length]), SIZE)
        keys = cache.keys(paged)[0, :, :length].repeat_interleave(HEADS // GROUPS, 0)
        values = cache.values(paged)[0, :, :length].repeat_interleave(HEADS // GROUPS, 0)
        scores = query[own].transpose(0, 1) @ keys.transpose(1, 2) * WIDTH**-0.5
        count = starts[row + 1] - starts[row]
        later = torch.arange(length) > torch.arange(length - count, length)[:, None]
        out[own] = (scores.masked_fill(later, -torch.inf).softmax(-1) @ values).transpose(0, 1)
    return out


def pieces(method):
    whole, other = request(method, (3, 35), 40), request(method, (1, 25), 31)
    return [
        (whole, 0, 40),
        (None, 5, 1),
        (other, 31, 1),
        (whole, 40, 1),
        (other, 0, 31),
        (other, 0, 20),
        (whole, 0, 43),
    ]


def test_a_layer_without_an_edit_is_the_kernels_own():
    method = CLVA(layers=(6, 6))
    _, layers = run(method, pieces(method), always=True)
    for plain, new in layers[:5]:
        assert torch.allclose(plain, new, atol=1e-5)


def test_rows_together_are_rows_alone():
    method = CLVA(tau=1.6, lam=0.5)
    listed = pieces(method)
    starts, together = run(method, listed)
    for layer, (plain, new) in enumerate(together):
        for row, (one, done, count) in enumerate(listed):
            own = slice(starts[row], starts[row + 1])
            changed = (plain[own] != new[own]).flatten(1).any(1)
            if one is None or done + count <= 25 or layer + 1 < 3:
                assert not changed.any()
            else:
                text = torch.cat([one.prompt.text, torch.ones(9, dtype=torch.bool)])[done : done + count]
                assert not changed[~text].any()


def test_text_that_was_cut_is_an_error():
    method = CLVA()
    with pytest.raises(RuntimeError, match="was cut"):
        run(method, [(request(method, (3, 35), 40), 0, 38)])
    with pytest.raises(RuntimeError, match="was cut"):
        run(method, [(request(method, (3, 35), 40), 37, 3)])
