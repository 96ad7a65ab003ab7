"""What methods did, as one line of text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_INSTEAD = ("steps", "corrected", "contrasted", "mixed", "triggers", "images_added")
"""What is counted by methods that edit no attention; beside one of these, no edited row says nothing."""


def in_words(effects: Any) -> str:
    """What a method did, on one line: `rows edited 12, anchors: 3 positive and 2 negative, layers 5-12`."""
    if isinstance(effects, Mapping):
        key, value = next(iter(effects.items()), ("", None))
        if (
            len(effects) == 1 and isinstance(value, Mapping) and key != "anchors"
        ):  # of one method: its name goes without saying
            return in_words(value)
        left_out = {"rows_edited"} if effects.get("rows_edited") == 0 and any(k in effects for k in _INSTEAD) else ()
        return ", ".join(_item(key, value) for key, value in effects.items() if key not in left_out)
    if isinstance(effects, (list, tuple)):
        return " ".join(in_words(each) for each in effects) or "none"
    return f"{effects:.3g}" if isinstance(effects, float) else str(effects)


def _item(key: str, value: Any) -> str:
    name = key.replace("_", " ")
    if key == "layers":
        return f"layers {_range(value)}"
    if key == "anchors" and isinstance(value, Mapping):
        return f"anchors: {_per_image(value)}"
    if key == "anchors":
        return f"anchors {_words(value)}"
    if key.endswith("_heads") and isinstance(value, Mapping):
        return f"{name} of layer {value['layer']}: {', '.join(map(str, value['heads'])) or 'none'}"
    if key == "visual_share":
        shares = [f"layer {one['layer']} {one['before']:.2f} to {one['after']:.2f}" for one in value]
        return f"share of attention on the image: {', '.join(shares)}"
    return f"{name}{':' if isinstance(value, Mapping) else ''} {in_words(value)}"


def _range(layers: Sequence[int]) -> str:
    """`5-12` where they follow each other, or where only the first and the last are named."""
    if len(layers) < 2:
        return in_words(list(layers))
    whole = len(layers) == 2 or list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}-{layers[-1]}" if whole else ", ".join(map(str, layers))


def _per_image(anchors: Mapping[str, Sequence[int]]) -> str:
    """`3 positive and 2 negative`; of several images, each by its number."""
    images = max((len(counts) for counts in anchors.values()), default=0)
    found = [
        " and ".join(f"{counts[image]} {kind}" for kind, counts in anchors.items() if image < len(counts))
        for image in range(images)
    ]
    return "; ".join(f"image {n}: {one}" for n, one in enumerate(found, 1)) if images > 1 else "".join(found) or "none"


def _words(anchors: Sequence[Any]) -> str:
    """The words that became anchors, each once; where each of them went is in the JSON."""
    counts = Counter(each["word"] if isinstance(each, Mapping) else str(each) for each in anchors)
    return " ".join(word if n == 1 else f"{word} (x {n})" for word, n in counts.items()) or "none"
