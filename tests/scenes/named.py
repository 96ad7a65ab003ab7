"""Which categories a text names, by their names, plurals and synonyms: a reader of the tests' own, beside the package's."""

import functools
import re

from vlm_anchors.scenes import coco, questions


@functools.cache
def _phrases() -> tuple[re.Pattern, dict[str, str]]:
    """Every way the model's vocabulary has to name a category, longest first."""
    owner: dict[str, str] = {}
    for name in coco.CATEGORIES:
        for word in (name, *questions.SYNONYMS.get(name, ())):
            owner |= {word: name, questions.plural(word): name}
    longest = sorted(owner, key=len, reverse=True)
    return re.compile(r"\b(" + "|".join(map(re.escape, longest)) + r")\b"), owner


def mentions(text: str) -> list[str]:
    """The categories a caption names, in order, with repetition."""
    pattern, owner = _phrases()
    return [owner[match] for match in pattern.findall(text.lower())]
