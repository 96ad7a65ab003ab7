"""Traces become tables: one pure function a question, a list of dictionaries as the answer (pandas.DataFrame takes it).

Equations are those of arXiv 2603.25088 (CLVA). Layers and heads count from 1, visual tokens from 0 in reading order.
Shapes: l layers, h query heads, r text rows, v visual tokens.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import CannotAct
from .capture import Trace

Table = list[dict[str, Any]]

SETS = ("all", "sensitive", "insensitive")


def middle_layer(depth: int) -> int:
    """Where CLVA takes its positive anchors: L/2 - 2, at least 2 (methods/clva.py)."""
    return max(2, depth // 2 - 2)


def head_intensity(trace: Trace) -> Table:
    """Eq. 1 and Fig. 1: for each layer and head the mean over text rows of the mass on visual tokens, system and words.

    Columns: layer, head, visual (Phi_h), system, words; the three sum to 1.
    """
    masses = {name: getattr(trace, name).mean(-1) for name in ("visual", "system", "words")}
    return [
        {"layer": layer, "head": head + 1, **{name: float(mass[at, head]) for name, mass in masses.items()}}
        for at, layer in enumerate(trace.layers)
        for head in range(trace.visual.shape[1])
    ]


def standing_out(intensity: Float[Tensor, "*l h"], sensitive: bool, lam: float = 1.0) -> Bool[Tensor, "*l h"]:
    """Eq. 2-3: heads with Phi_h > mu + lam sigma (sensitive) or Phi_h < mu - lam sigma; may be none."""
    mean, sigma = intensity.mean(-1, keepdim=True), intensity.std(-1, keepdim=True, correction=0)
    above = intensity - mean if sensitive else mean - intensity
    return above > lam * sigma


def heads_of(intensity: Float[Tensor, "*l h"], which: str, lam: float = 1.0) -> Bool[Tensor, "*l h"]:
    """One head set a layer: "all", "sensitive" or "insensitive" (Eq. 2-3; where none stands out, the most extreme one)."""
    if which == "all":
        return torch.ones_like(intensity, dtype=torch.bool)
    chosen = standing_out(intensity, which == "sensitive", lam)
    extreme = (intensity if which == "sensitive" else -intensity).argmax(-1, keepdim=True)
    fallback = torch.zeros_like(chosen).scatter_(-1, extreme, True)
    return torch.where(chosen.any(-1, keepdim=True), chosen, fallback)


def head_sets(trace: Trace, lam: float = 1.0) -> Table:
    """Eq. 2-3: columns layer, head, intensity, z (sigmas from the layer's mean) and set ("" for most heads)."""
    intensity = trace.visual.mean(-1)
    mean, sigma = intensity.mean(-1, keepdim=True), intensity.std(-1, keepdim=True, correction=0)
    z = (intensity - mean) / sigma.clamp(min=1e-12)
    high, low = standing_out(intensity, True, lam), standing_out(intensity, False, lam)
    return [
        {
            "layer": layer,
            "head": head + 1,
            "intensity": float(intensity[at, head]),
            "z": float(z[at, head]),
            "set": "sensitive" if high[at, head] else "insensitive" if low[at, head] else "",
        }
        for at, layer in enumerate(trace.layers)
        for head in range(intensity.shape[1])
    ]


def saliency_maps(trace: Trace, which: str = "all", lam: float = 1.0) -> Float[Tensor, "l v"]:
    """Eq. 4, M(l, heads): the last text row's attention to each visual token, averaged over a head set of each layer."""
    last = trace.last
    chosen = heads_of(trace.visual.mean(-1), which, lam)
    if last.shape[1] != chosen.shape[1]:
        if which != "all":
            raise CannotAct(
                f"Only the mean over heads was kept of this token, so its {which} heads cannot be separated. "
                "Capture with a larger token_bytes, or fewer layers."
            )
        return last.mean(1)
    weight = chosen.to(last.dtype)
    return torch.einsum("lh,lhv->lv", weight, last) / weight.sum(-1, keepdim=True)


def saliency(trace: Trace, which: str = "all", lam: float = 1.0) -> Table:
    """Eq. 4 as a table: columns layer, heads (the set), token (visual, from 0), image, saliency."""
    maps = saliency_maps(trace, which, lam)
    return [
        {"layer": layer, "heads": which, "token": token, "image": int(trace.image[token]), "saliency": float(value)}
        for layer, row in zip(trace.layers, maps, strict=True)
        for token, value in enumerate(row)
    ]


def entropy_of(maps: Float[Tensor, "l v"]) -> Float[Tensor, " l"]:
    """Eq. 5: -sum_j M_j log M_j in nats, on M as it is."""
    return -torch.xlogy(maps, maps).sum(-1)


def entropy(trace: Trace, which: str = "sensitive", lam: float = 1.0) -> Table:
    """Eq. 5 and Fig. 2b, of the sensitive heads' map by default. Columns: layer, heads, entropy, entropy_normalised.

    `entropy` takes M as the paper writes it, which does not sum to 1, so it grows with the mass on the image;
    `entropy_normalised` is that of M / sum(M), in [0, log v].
    """
    maps = saliency_maps(trace, which, lam)
    plain, normal = entropy_of(maps), entropy_of(maps / maps.sum(-1, keepdim=True).clamp(min=1e-30))
    return [
        {"layer": layer, "heads": which, "entropy": float(plain[at]), "entropy_normalised": float(normal[at])}
        for at, layer in enumerate(trace.layers)
    ]


def norms(trace: Trace) -> Table:
    """Eq. 12: |O_P| and |O_V|, lengths of the linguistic and visual parts of the attention output before the output
    projection, all heads side by side, mean over text rows. Columns: layer, linguistic, visual, visual_part (of the sum)."""
    if trace.norms is None:
        raise CannotAct("The norms of Eq. 12 were not captured. Use Capture(norms=True).")
    linguistic, visual = trace.norms.pow(2).sum(2).sqrt().mean(-1)
    return [
        {
            "layer": layer,
            "linguistic": float(linguistic[at]),
            "visual": float(visual[at]),
            "visual_part": float(visual[at] / (visual[at] + linguistic[at])),
        }
        for at, layer in enumerate(trace.layers)
    ]


def pearson(a: Float[Tensor, "*l v"], b: Float[Tensor, " v"]) -> Float[Tensor, "*l"]:
    """Eq. 6: the correlation of each map with one map; 0 where either is flat."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean()
    length = a.norm(dim=-1) * b.norm()
    return torch.where(length > 0, (a * b).sum(-1) / length.clamp(min=1e-30), 0.0)


def drift(trace: Trace, positive_layer: int | None = None, negative_layer: int = 1, lam: float = 1.0) -> Table:
    """Eq. 6 and Fig. 2b: how M(l, all heads) correlates with the negative anchor map M(first, insensitive heads) and the
    positive one M(middle, sensitive heads). Columns: layer, to_negative, to_positive, in [-1, 1]."""
    positive_layer = positive_layer or middle_layer(max(trace.layers))
    maps = saliency_maps(trace)
    negative = saliency_maps(trace, "insensitive", lam)[_at(trace, negative_layer)]
    positive = saliency_maps(trace, "sensitive", lam)[_at(trace, positive_layer)]
    to_negative, to_positive = pearson(maps, negative), pearson(maps, positive)
    return [
        {"layer": layer, "to_negative": float(to_negative[at]), "to_positive": float(to_positive[at])}
        for at, layer in enumerate(trace.layers)
    ]


def _at(trace: Trace, layer: int) -> int:
    if layer not in trace.layers:
        raise CannotAct(f"Layer {layer} was not captured; this trace holds {', '.join(map(str, trace.layers))}.")
    return trace.layers.index(layer)


def anchor_mask(saliency: Float[Tensor, " v"], image: Int[Tensor, " v"], tau: float = 2.0) -> Bool[Tensor, " v"]:
    """Eq. 8-9: Z = [M - mu > tau sigma], over each image's visual tokens by themselves."""
    found = torch.zeros_like(saliency, dtype=torch.bool)
    for one in image.unique():
        inside = image == one
        own = saliency[inside]
        found[inside] = own - own.mean() > tau * own.std(correction=0)
    return found


def anchor_masks(
    trace: Trace, positive_layer: int | None = None, negative_layer: int = 1, tau: float = 2.0, lam: float = 1.0
) -> dict[str, Bool[Tensor, " v"]]:
    """The masks CLVA would find on this row: "positive" (middle layer, sensitive) and "negative" (first, insensitive)."""
    layers = {"positive": positive_layer or middle_layer(max(trace.layers)), "negative": negative_layer}
    sets = {"positive": "sensitive", "negative": "insensitive"}
    return {
        sign: anchor_mask(saliency_maps(trace, sets[sign], lam)[_at(trace, layer)], trace.image, tau)
        for sign, layer in layers.items()
    }


def anchors(trace: Trace, positive_layer: int | None = None, negative_layer: int = 1, tau: float = 2.0) -> Table:
    """Eq. 8-9 as a table: one row an anchor, columns sign, image, token."""
    masks = anchor_masks(trace, positive_layer, negative_layer, tau)
    return [
        {"sign": sign, "image": int(trace.image[token]), "token": int(token)}
        for sign, mask in masks.items()
        for token in mask.nonzero()[:, 0]
    ]


def shares(trace: Trace, edited: Trace | None = None) -> Table:
    """Mean over heads and text rows of the mass on visual tokens, layer by layer.

    Columns: layer, visual, system, words, first (on the first token), counting (what as many keys would get if all keys
    were alike) and, where the trace after a method's edit is given, visual_edited.
    """
    counting = float((len(trace.image) / trace.keys.float()).mean())
    table = []
    for at, layer in enumerate(trace.layers):
        row = {name: float(getattr(trace, name)[at].mean()) for name in ("visual", "system", "words", "first")}
        row = {"layer": layer, **row, "counting": counting}
        if edited is not None:
            row["visual_edited"] = float(edited.visual[at].mean())
        table.append(row)
    return table


def average(tables: Iterable[Table], by: Sequence[str] = ("layer",)) -> Table:
    """Tables of several images as one: mean of every number over rows with the same `by`, and how many there were (n).

    Text columns that are the same in all rows stay. Every mean comes with its standard error as `name_se` (0 of one row).
    """
    groups: dict[tuple[Any, ...], Table] = {}
    for row in (row for table in tables for row in table):
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    return [{**dict(zip(by, key, strict=True)), **_means(rows, by), "n": len(rows)} for key, rows in groups.items()]


def _means(rows: Table, by: Sequence[str]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in by:
            continue
        if isinstance(values[0], str):
            if len(set(values)) == 1:
                summary[name] = values[0]
            continue
        mean = math.fsum(values) / len(values)
        spread = math.fsum((value - mean) ** 2 for value in values)
        summary[name] = mean
        summary[f"{name}_se"] = math.sqrt(spread / max(len(values) - 1, 1) / len(values))
    return summary
