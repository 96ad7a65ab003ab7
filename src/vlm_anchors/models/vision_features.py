"""Projected visual tokens as the vision towers return them: each family in its own containers, here as one table."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def flat_features(output: Any) -> Float[Tensor, "rows d"]:
    """All visual tokens of one modality in reading order, whatever they came in: a list of images, or one tensor."""
    return _flat(projected(output))


def projected(output: Any) -> Any:
    """A tower's visual tokens as the decoder takes them; a class without a pooler has no other output.

    Granite 4 Vision adds features to several layers and has none for the first: those of the earliest stand for it.
    """
    if getattr(output, "pooler_output", None) is not None:
        return output.pooler_output
    deeper = getattr(output, "deepstack_features", None)
    return _features_of(deeper[0]) if deeper else output.last_hidden_state


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
        deeper = output.get("deepstack_features") is not None
        read = "pooler_output" if output.get("pooler_output") is not None else "last_hidden_state"
        if read == "pooler_output" or not deeper:
            output[read] = _like(output[read], _flat(output[read])[chosen], sizes)
        if deeper:
            output["deepstack_features"] = [_deeper(layer, chosen, sizes) for layer in output["deepstack_features"]]
        made[modality] = output
    return made


_KEPT = ("last_hidden_state", "pooler_output", "deepstack_features")


def _deeper(layer: Any, chosen: Int[Tensor, " n"], sizes: list[int]) -> Any:
    """Features for one deeper layer; some classes name the layer: (number, features)."""
    features = _features_of(layer)
    new = _like(features, _flat(features)[chosen], sizes)
    return new if features is layer else (layer[0], new)


def _features_of(layer: Any) -> Any:
    named = isinstance(layer, tuple) and len(layer) == 2 and isinstance(layer[0], int)
    return layer[1] if named else layer


def _flat(features: Any) -> Float[Tensor, "rows d"]:
    parts = [features] if isinstance(features, Tensor) else list(features)
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _like(old: Any, rows: Float[Tensor, "n d"], sizes: list[int]) -> Any:
    """New rows in the old kind of container: a tensor of (n, 1, d), or a list with one tensor a sample."""
    return rows[:, None] if isinstance(old, Tensor) else list(rows.split(sizes))
