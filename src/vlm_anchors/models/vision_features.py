"""Projected visual tokens as the vision towers return them: each family in its own containers, here as one table."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def flat_features(output: Any) -> Float[Tensor, "rows d"]:
    """All visual tokens of one modality in reading order, whatever they came in: a list of images, or one tensor."""
    return _flat(output.pooler_output)


def newlines(inner: nn.Module, features: Float[Tensor, "rows d"]) -> Bool[Tensor, " rows"]:
    """Row newlines: LLaVA-NeXT and OneVision put one learned vector among the patches, under the same placeholder."""
    newline = getattr(inner, "image_newline", None)
    if newline is None:
        return torch.zeros(len(features), dtype=torch.bool, device=features.device)
    return (features == newline.to(features)).all(-1)


def kept(encoded: Mapping[str, Any]) -> dict[str, Any]:
    """Encoded images in new containers, without the hidden states of every layer of the tower."""
    return {
        modality: type(output)(**{name: output[name] for name in _KEPT if output.get(name) is not None})
        for modality, output in encoded.items()
        if output is not None
    }


def repeated(
    encoded: Mapping[str, Any], rows: Mapping[str, Int[Tensor, " n"]], counts: Mapping[str, list[int]]
) -> dict[str, Any]:
    """Encoded images with chosen rows in a new order, some of them more than once.

    Args:
        rows: For each modality, the row that each of its placeholders shows.
        counts: How many of them each sample has, since beam search looks for the samples' borders among the features.
    """
    made = {}
    for modality, output in kept(encoded).items():
        chosen, sizes = rows[modality], [count for count in counts[modality] if count]
        for name in _READ:
            if output.get(name) is None:
                continue
            layers = output[name] if name == "deepstack_features" else [output[name]]
            new = [_like(layer, _flat(layer)[chosen], sizes) for layer in layers]
            output[name] = new if name == "deepstack_features" else new[0]
        made[modality] = output
    return made


_READ = ("pooler_output", "deepstack_features")
_KEPT = ("last_hidden_state", *_READ)


def _flat(features: Any) -> Float[Tensor, "rows d"]:
    parts = [features] if isinstance(features, Tensor) else list(features)
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _like(old: Any, rows: Float[Tensor, "n d"], sizes: list[int]) -> Any:
    """New rows in the old kind of container: a tensor of (n, 1, d), or a list with one tensor a sample."""
    return rows[:, None] if isinstance(old, Tensor) else list(rows.split(sizes))
