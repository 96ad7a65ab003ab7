"""What methods did, as one line of text."""

from typing import Any


def in_words(effects: Any) -> str:
    """What a method did, on one line: `rows edited 12, anchors: positive 3, negative 2, layers 5-12`."""
    if isinstance(effects, dict) and len(effects) == 1 and isinstance(next(iter(effects.values())), dict):
        return in_words(next(iter(effects.values())))
    if isinstance(effects, dict):
        return ", ".join(_item(key, value) for key, value in effects.items())
    if isinstance(effects, list) and effects and all(isinstance(each, dict) and "word" in each for each in effects):
        return " ".join(each["word"] for each in effects)  # where each word went is in the JSON
    if isinstance(effects, list):
        return " ".join(in_words(each) for each in effects) or "none"
    return f"{effects:.3g}" if isinstance(effects, float) else str(effects)


def _item(key: str, value: Any) -> str:
    if key == "layers":  # the first and the last
        return "layers {}-{}".format(*value)
    return f"{key.replace('_', ' ')}{':' if isinstance(value, dict) else ''} {in_words(value)}"
