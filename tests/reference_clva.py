"""CLVA straight from its equations: full matrices, one sequence, double precision. Slow on purpose.

`Literal` stands in for a model's attention kernel. It sees one unpadded sample, computes every weight of every row,
and applies Eq. 1-4 and 8-11 with loops where the paper has sums. `near` counts decisions closer to their threshold
than 1e-4 sigma: there, rounding decides, and a test leaves the input out.
"""

import contextlib
import copy
import math

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

NEAR = 1e-4


class Literal:
    """alpha .. tau: the paper's parameters. l_pos, l_neg, edited: layers from 1. images: visual key positions, one list an image.

    text: text-row positions of the prompt; later rows are all text. last: the row whose map makes the anchors.
    latents: rows are a Q-Former's queries, of which all ("mean") or one ("last") count.
    """

    def __init__(self, images, text, last, depth, alpha=14.0, beta=0.9, lam=1.0, tau=2.0, normalise="row",
                 l_pos=None, l_neg=1, edited=None, empty="extreme", heads="sigma", gain="anchors", refresh="step",
                 score="each", latents=None):  # fmt: skip
        self.gain, self.refresh = gain, refresh
        self.images, self.text, self.last = images, set(text), last
        self.alpha, self.beta, self.lam, self.tau = alpha, beta, lam, tau
        self.l_pos = l_pos or max(2, depth // 2 - 2)
        self.l_neg = l_neg
        self.edited = edited or range(self.l_pos + 1, depth + 1)
        self.normalise, self.empty, self.heads, self.latents = normalise, empty, heads, latents
        self.visual = [j for image in images for j in image]
        self.scored = self.images if score == "each" else [self.visual]
        self.z, self.near, self.counts, self.picked, self.layers = {}, 0, {}, {}, {}

    def layer(self, module):
        return self.layers[id(module)] if self.layers else module.layer_idx + 1

    def __call__(self, module, query, key, value, attention_mask, scaling=None, softcap=None, **kwargs):
        if id(module) not in self.layers and self.layers:
            return _plain(query, key, value, attention_mask, scaling)
        layer = self.layer(module)
        weights = _softmax(query, key, attention_mask, scaling, softcap)
        first = key.shape[2] - query.shape[2]
        rows = [i for i in range(query.shape[2]) if self.latents or first + i in self.text or first + i >= self.after]
        if layer == self.l_neg and self.gain == "anchors" and not (self.refresh == "prompt" and "-" in self.z):
            self.z["-"] = self.anchors(weights, rows, sensitive=False)
        if layer == self.l_pos and not (self.refresh == "prompt" and "+" in self.z):
            find = self.average if self.gain == "average" else self.anchors
            self.z["+"] = find(weights, rows, sensitive=True)
        if layer in self.edited and rows:
            weights = self.reanchor(weights, rows)
        return (weights @ _repeat(value, query)).transpose(1, 2).contiguous(), None

    @property
    def after(self):
        return max([*self.text, *self.visual, self.last or 0]) + 1

    def counted(self, rows):
        """The rows that a Q-Former's map and intensity are averaged over, or all text rows."""
        return rows[-1:] if self.latents == "last" else rows

    def intensity(self, weights, rows, h):
        """Eq. 1, or how far from even the map of the head is."""
        if self.heads != "concentration":
            rows = self.counted(rows)
            return sum(float(weights[0, h, i, self.visual].sum()) for i in rows) / len(rows)
        lines = self.counted(rows) if self.latents else rows[-1:]
        row = [sum(float(weights[0, h, i, j]) for i in lines) for j in self.visual]
        shares = [w / sum(row) for w in row]
        return 1 + sum(p * math.log(p) for p in shares if p) / math.log(len(shares))

    def stands_out(self, saliency):
        """Eq. 8-9."""
        z = {}
        for image in self.scored:
            mu = sum(saliency[j] for j in image) / len(image)
            sd = math.sqrt(sum((saliency[j] - mu) ** 2 for j in image) / len(image))
            z |= {j: float(saliency[j] - mu > self.tau * sd) for j in image}
            self.near += any(abs(saliency[j] - mu - self.tau * sd) < NEAR * sd for j in image)
        return z

    def average(self, weights, rows, sensitive):
        """Eq. 15: anchors of each head by itself, averaged over all heads."""
        if not rows:
            return {}
        lines = self.counted(rows) if self.latents else [rows[-1]]
        heads = weights.shape[1]
        total = dict.fromkeys(self.visual, 0.0)
        for h in range(heads):
            z = self.stands_out({j: sum(float(weights[0, h, i, j]) for i in lines) for j in self.visual})
            total = {j: total[j] + z[j] / heads for j in self.visual}
        self.counts.setdefault("+", sum(share > 0 for share in total.values()))
        return total

    def anchors(self, weights, rows, sensitive):
        if not rows:
            return {}
        heads = weights.shape[1]
        phi = [self.intensity(weights, rows, h) for h in range(heads)]
        mean = sum(phi) / heads
        sigma = math.sqrt(sum((p - mean) ** 2 for p in phi) / heads)
        sign = 1 if sensitive else -1
        chosen = [h for h in range(heads) if sign * (phi[h] - mean) > self.lam * sigma]
        self.near += any(abs(sign * (p - mean) - self.lam * sigma) < NEAR * sigma for p in phi)
        if self.heads == "all":
            chosen = list(range(heads))
        if not chosen and self.empty == "extreme":
            chosen = [max(range(heads), key=lambda h: sign * phi[h])]
        self.picked.setdefault("+" if sensitive else "-", [h + 1 for h in chosen])
        if not chosen:
            return {}
        lines = self.counted(rows) if self.latents else [rows[-1]]
        saliency = {
            j: sum(float(weights[0, h, i, j]) for h in chosen for i in lines) / (len(chosen) * len(lines))
            for j in self.visual
        }
        z = self.stands_out(saliency)
        self.counts.setdefault("+" if sensitive else "-", sum(z.values()))
        return z

    def reanchor(self, weights, rows):
        factor = torch.ones(weights.shape[-1], dtype=weights.dtype)
        for j in self.visual:
            f = 1 + self.alpha * self.z["+"].get(j, 0)
            f -= self.beta * self.z["+" if self.gain == "average" else "-"].get(j, 0)
            factor[j] = max(f, 0.0)
        weights = weights.clone()
        for i in rows:
            new = weights[0, :, i] * factor
            if self.normalise == "visual":
                ratio = weights[0, :, i, self.visual].sum(-1) / new[:, self.visual].sum(-1)
                new[:, self.visual] = new[:, self.visual] * ratio[:, None]
            weights[0, :, i] = new / new.sum(-1, keepdim=True)
        return weights


def _repeat(tensor, query):
    return tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1)


def _softmax(query, key, mask, scaling, softcap=None):
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ _repeat(key, query).transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def _plain(query, key, value, mask, scaling):
    return (_softmax(query, key, mask, scaling) @ _repeat(value, query)).transpose(1, 2).contiguous(), None


_current = None


def _dispatch(module, query, key, value, attention_mask, **kwargs):
    return _current(module, query, key, value, attention_mask, **kwargs)


class _Eager(str):
    """Models that prepare their masks for the eager kernel only must take this for it; registries tell it by its hash."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return str.__eq__(self, other) or other == "eager"


_NAME = _Eager("literal_clva")
AttentionInterface.register("literal_clva", _dispatch)
AttentionMaskInterface.register("literal_clva", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


@contextlib.contextmanager
def literal(model, reference, stack=None):
    """The model in double precision with the literal kernel in its decoder (or in `stack(model)`)."""
    global _current
    double = copy.deepcopy(model).double()
    module = double.get_decoder() if stack is None else stack(double)
    module.config._attn_implementation_internal = _NAME
    _current = reference
    try:
        yield double
    finally:
        _current = None
