"""AttAnchor's anchors: which word of the prompt resembles which patch, and how far apart they stand before and after.

arXiv 2509.23109, Algorithm 1. Rotary attention weakens with the distance of two tokens in the sequence; a copy of the word
right behind its patch brings that distance to 1 (methods/attanchor.py).
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float

from ..interventions.insertion.batch import read_prompts
from ..interventions.insertion.placements import report
from ..interventions.insertion.plan import insert
from ..methods.attanchor import AttAnchor

if TYPE_CHECKING:
    from ..interventions.insertion.batch import Prompts
    from ..interventions.insertion.plan import Copies
    from ..models.vlm import Vlm
    from .measures import Table


def cosine_map(
    vlm: "Vlm", inputs: dict[str, Any], tokens: str = "user"
) -> "tuple[list[str], Float[torch.Tensor, 'n m']]":
    """The words of the first prompt, and cos(T_n, I_m) of each with each patch before it (-inf behind it).

    inputs: what the processor returned, for one prompt.
    """
    return cosines(prompts_of(vlm, inputs, tokens))


def cosines(prompts: "Prompts") -> "tuple[list[str], Float[torch.Tensor, 'n m']]":
    """`cosine_map` of prompts that were read before."""
    with torch.no_grad():
        cosine = prompts.cosine()[0].cpu()
    words, patches = (listed.valid[0].cpu() for listed in (prompts.words, prompts.patches))
    ids = prompts.ids[0][prompts.words.place[0]][prompts.words.valid[0]].tolist()
    return [prompts.tokenizer.decode([id]).strip() for id in ids], cosine[words][:, patches]


def anchor_table(vlm: "Vlm", inputs: dict[str, Any], method: AttAnchor | None = None) -> "Table":
    """One row for each word that AttAnchor copies beside a patch, strongest first.

    Columns: word, image, tile, row, column (of the patch, from 0), cosine, and the distance in tokens, which is what 1-D
    rotary embeddings turn by: `before`, from the patch to the word in the prompt; `after`, from the patch to its copy.
    Where positions have three parts (M-RoPE) a copy takes its patch's own and these count the sequence only.
    """
    method = method or AttAnchor()
    if method.off:
        return []
    return [row for row, _ in posted(prompts_of(vlm, inputs, method.tokens), method)[1]]


class Post(NamedTuple):
    """Where a word of the prompt, its patch and its copy stand in the inserted sequence."""

    word: int
    patch: int
    copy: int


def posted(prompts: "Prompts", method: AttAnchor) -> "tuple[Copies, list[tuple[dict[str, Any], Post]]]":
    """The copies of the first prompt's words, and for each its row of `anchor_table` and where it stands."""
    with torch.no_grad():
        copies = method.chosen(prompts)
    plan = insert(prompts.ids.shape[1], copies, pad_left=True)
    slot = plan.slots(prompts.ids.shape[1])[0].tolist()
    copied = {int(column): i for i, column in enumerate(plan.column[0]) if column >= 0}
    summary = iter(report(prompts._places(), copies, of_patch=False)[0]["anchors"])
    found = sorted(
        (int(copies.source[0, column]), int(copies.resembled[0, column]), float(copies.cosine[0, column]), column)
        for column in copies.chosen[0].nonzero()[:, 0].tolist()
    )
    rows = []
    for word, patch, _, column in found:
        post = Post(slot[word], slot[patch], copied[column])
        rows.append(({**_reported(next(summary)), "before": word - patch, "after": post.copy - post.patch}, post))
    return copies, sorted(rows, key=lambda row: -row[0]["cosine"])


def _reported(anchor: dict[str, Any]) -> dict[str, Any]:
    return {name: anchor[name] for name in ("word", "image", "tile", "row", "column", "cosine")}


def prompts_of(vlm: "Vlm", inputs: dict[str, Any], tokens: str = "user") -> "Prompts":
    """The prompts as AttAnchor reads them; a sentence where it cannot."""
    with torch.no_grad():
        prompts = read_prompts("attanchor", vlm, inputs, tokens)
    assert prompts is not None, "a strict reading refuses with a sentence instead"
    return prompts
