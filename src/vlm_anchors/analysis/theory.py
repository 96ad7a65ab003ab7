"""AttAnchor's theorems as measurements: does the cosine choose the right anchors, and does an anchor pull its patch closer?

arXiv 2509.23109. Theorem 4: anchors chosen by cos >= tau have a precision and a recall, and some tau has the best F1;
Corollary 1: that tau moves with how well words and patches are aligned. Theorem 1: a copy of a word right behind its patch
attends more to it than the word far behind, since rotary attention weakens with distance.

Each function makes one table of counts for one prompt, to be added up: precision is a quotient of sums over scenes, and an
interval comes from drawing scenes (`over_scenes`). Which words are right is known where objects' boxes are (samples.py).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import CannotAct
from ..evaluation.statistics import DRAWS, draws_of, middle
from ..generation.sample_batches import read_sample
from ..inputs.prompt_builder import prepare
from ..interventions.attachment import attach
from ..interventions.attention_parts import keys_seen
from ..interventions.attention_view import AttentionEdit, AttentionView
from ..interventions.insertion.anchored import ENCODED, Encoded
from ..methods.attanchor import AttAnchor
from .anchor_distances import Post, cosines, posted, prompts_of
from .image_grid import grid_of
from .samples import Probe, cells_on, naming

if TYPE_CHECKING:
    import numpy as np

    from ..interventions.insertion.batch import Prompts
    from ..models.vlm import Vlm
    from .measures import Table

    Counts = Mapping[str, np.ndarray]
    Formula = Callable[[Counts], dict[str, np.ndarray]]


def selection(cosine: Float[Tensor, "n m"], right: Bool[Tensor, "n m"], taus: Sequence[float]) -> "Table":
    """Theorem 4, counts of one prompt: a word is anchored if its best cosine reaches tau (tau = 1: never).

    Args:
        cosine: Of n words with m patches (`anchor_table.cosine_map`).
        right: The patches on the object that a word names; none for a word that names nothing in the image. Columns:
            tau, words, anchored, right (anchored, on a right patch), wanted (words that have a right patch).
    """
    best = cosine.max(1)
    hits, wanted = right.gather(1, best.indices[:, None])[:, 0], int(right.any(1).sum())
    rows = []
    for tau in taus:
        anchored = (best.values >= tau) & (tau < 1)
        counts = {"words": len(cosine), "anchored": int(anchored.sum()), "right": int((anchored & hits).sum())}
        rows.append({"tau": tau, **counts, "wanted": wanted})
    return rows


def named_patches(
    vlm: "Vlm", probe: Probe, alignment: float = 1.0, seed: int = 0
) -> "tuple[Float[Tensor, 'n m'], Bool[Tensor, 'n m']]":
    """What `selection` takes, of one question about an image whose boxes are known.

    A word is right beside a patch whose middle is on a box of the object it names (`samples.cells_on`), hidden or not.
    """
    sample = read_sample(probe.image, probe.question)
    inputs = prepare(vlm, [sample]).tensors
    prompts = prompts_of(vlm, inputs)
    words, cosine = cosines(prompts if alignment == 1 else misaligned(prompts, alignment, seed))
    grid = grid_of(vlm, inputs, sample.images[0], cosine.shape[1])
    if not grid.shows_all_of(sample.images[0]):
        raise CannotAct(f"{vlm.name} sees its images cropped or in tiles, so boxes do not lie where patches are.")
    right = torch.zeros_like(cosine, dtype=torch.bool)
    on = cells_on(probe.boxes(), sample.images[0].size, grid.rows, grid.columns)
    for at in naming(words, probe.asked):
        right[at, grid.token] = on
    return cosine, right


def quality(counts: "Counts") -> "dict[str, np.ndarray]":
    """Theorem 4: precision, recall and F1 of anchors from sums of `selection`'s counts; nan where there is none."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        return {
            "anchored": counts["anchored"] / counts["words"],
            "precision": counts["right"] / counts["anchored"],
            "recall": counts["right"] / counts["wanted"],
            "f1": 2 * counts["right"] / (counts["anchored"] + counts["wanted"]),
        }


def misaligned(prompts: "Prompts", alignment: float, seed: int = 0) -> "Prompts":
    """Corollary 1: the same prompts with every patch turned away, so that its cosine with what it was is `alignment`.

    The direction it is turned in is random, so cosines with words shrink by about that factor.
    """
    features = prompts.features.float()
    drawn = torch.randn(features.shape, generator=torch.Generator().manual_seed(seed)).to(features)
    unit = torch.nn.functional.normalize(features, dim=-1)
    aside = torch.nn.functional.normalize(drawn - (drawn * unit).sum(-1, keepdim=True) * unit, dim=-1)
    turned = alignment * unit + (1 - alignment**2) ** 0.5 * aside
    return replace(prompts, features=(turned * features.norm(dim=-1, keepdim=True)).to(prompts.features))


def pulls(vlm: "Vlm", inputs: dict[str, Any], method: AttAnchor) -> "Table":
    """Theorem 1: what a copy and the word it was made of give to the same patch, in one pass over the inserted prompt.

    inputs: what the processor returned, for one prompt. One row a copy, layer and head: word, cosine, before, after (as
    in `anchor_table.anchor_table`), layer, head, and for `word` and `copy` alike logit_ (the score before the softmax), weight_
    (after it) and keys_ (how many tokens share the weight: a copy inside the image sees fewer). In layer 1 both have the
    same content, so their logits differ by rotary distance alone; deeper, a copy has read other things than its word.
    """
    prompts = prompts_of(vlm, inputs, method.tokens)
    copies, posts = posted(prompts, method)
    if not posts:
        return []
    recorder = _Pairs([post for _, post in posts])
    with attach(vlm, "none", recorder=recorder), torch.no_grad():
        vlm.model(**_with_copies_as_rows(prompts.inserted(copies, of_patch=False), recorder.posts))
    return [
        {**{name: summary[name] for name in ("word", "cosine", "before", "after")}, "layer": layer, "head": head + 1, **seen}
        for layer, pairs in sorted(recorder.seen.items())
        for (summary, _), heads in zip(posts, pairs, strict=True)
        for head, seen in enumerate(heads)
    ]  # fmt: skip


def pull_counts(rows: "Table") -> "Table":
    """Theorem 1, counts of one prompt by layer, for `pulled`: pairs (copies x heads), sums, and how many rise.

    A weight rises beyond counting if it does as a multiple of what each key would get if all were alike.
    """

    def counted(row: dict[str, Any]) -> dict[str, Any]:
        summed = ("before", "after", "logit_word", "logit_copy", "weight_word", "weight_copy")
        return {
            "layer": row["layer"],
            "pairs": 1,
            **{name: row[name] for name in summed},
            "uniform_word": 1 / row["keys_word"],
            "uniform_copy": 1 / row["keys_copy"],
            "logit_rises": row["logit_copy"] > row["logit_word"],
            "weight_rises": row["weight_copy"] > row["weight_word"],
            "lift_rises": row["weight_copy"] * row["keys_copy"] > row["weight_word"] * row["keys_word"],
        }

    return added((counted(row) for row in rows), "layer")


def pulled(counts: "Counts") -> "dict[str, np.ndarray]":
    """Theorem 1: means over pairs, and shares of pairs that rise, from sums of `pull_counts`."""
    return {name: values / counts["pairs"] for name, values in counts.items() if name != "pairs"}


def added(rows: "Iterable[dict[str, Any]]", by: str) -> "Table":
    """Rows of counts with the same `by` as one row of their sums, in rising order of it."""
    sums: dict[Any, dict[str, float]] = {}
    for row in rows:
        into = sums.setdefault(row[by], dict.fromkeys((name for name in row if name != by), 0))
        for name in into:
            into[name] += row[name]
    return [{by: value, **sums[value]} for value in sorted(sums)]


def over_scenes(tables: "Sequence[Table]", by: str, formula: "Formula", draws: int = DRAWS, seed: int = 0) -> "Table":
    """A formula of the counts of all scenes, with the middle 95 % of draws of scenes as NAME_low and NAME_high.

    tables: one a scene, the same values of `by` in each. None where nothing was counted.
    """
    sums = _Sums.of(tables, by)
    whole = formula(sums.all())
    drawn = _joined([formula(each) for each in sums.drawn(draws, seed)])
    rows = []
    for at, value in enumerate(sums.values):
        row: dict[str, Any] = {by: value}
        for name, values in whole.items():
            span = middle([float(one) for one in drawn[name][:, at] if one == one])
            row |= {name: _known(values[at]), f"{name}_low": span and span.low, f"{name}_high": span and span.high}
        rows.append(row)
    return rows


def best_tau(tables: "Sequence[Table]", draws: int = DRAWS, seed: int = 0) -> dict[str, float]:
    """Theorem 4: the tau of the highest F1 (of equals the highest tau), with the middle 95 % of draws of scenes; and its F1."""
    sums = _Sums.of(tables, "tau")
    order = sorted(range(len(sums.values)), key=lambda at: -sums.values[at])
    taus = [sums.values[at] for at in order]

    def best(f1: "np.ndarray") -> list[int]:
        import numpy as np

        return np.nan_to_num(f1[..., order], nan=-1.0).argmax(-1).reshape(-1).tolist()

    (chosen,) = best(whole := quality(sums.all())["f1"])
    span = middle([taus[at] for each in sums.drawn(draws, seed) for at in best(quality(each)["f1"])])
    assert span is not None
    return {"tau": taus[chosen], "tau_low": span.low, "tau_high": span.high, "f1": float(whole[order][chosen])}


@dataclass(frozen=True)
class _Sums:
    """Counts of every scene (scenes, values, names)."""

    values: list[Any]
    names: list[str]
    table: "np.ndarray"

    @classmethod
    def of(cls, tables: "Sequence[Table]", by: str) -> "_Sums":
        import numpy as np

        names = [name for name in tables[0][0] if name != by]
        table = np.array([[[float(row[name]) for name in names] for row in rows] for rows in tables])
        return cls([row[by] for row in tables[0]], names, table)

    def all(self) -> "Counts":
        return dict(zip(self.names, self.table.sum(0).T, strict=True))

    def drawn(self, draws: int, seed: int) -> "list[Counts]":
        """Sums over draws of scenes with repetition, (draws, values) a name, some draws at a time."""
        import numpy as np

        sums = (np.tensordot(weights, self.table, 1) for weights in draws_of(len(self.table), draws, seed))
        return [dict(zip(self.names, np.moveaxis(one, -1, 0), strict=True)) for one in sums]


def _joined(parts: "Sequence[Mapping[str, np.ndarray]]") -> "dict[str, np.ndarray]":
    import numpy as np

    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _known(value: float) -> float | None:
    return float(value) if value == value else None


class _Pairs:
    """A watcher of chosen pairs: layer -> copy -> head -> what word and copy give to their patch."""

    def __init__(self, posts: list[Post]):
        self.posts = posts
        self.seen: dict[int, list[list[dict[str, float]]]] = {}

    def see(self, view: AttentionView, edit: AttentionEdit | None) -> None:
        assert view.rows.index is not None, "a prompt, not a decoding step"
        row = {int(place): at for at, place in enumerate(view.rows.index[0])}
        scores = view.scores()[0]
        weights, keys = scores.softmax(-1), keys_seen(view)[0]
        of = {"word": [post.word for post in self.posts], "copy": [post.copy for post in self.posts]}
        patch = [post.patch for post in self.posts]
        summary: dict[str, Tensor] = {}
        for name, places in of.items():
            rows = [row[place] for place in places]
            summary[f"logit_{name}"], summary[f"weight_{name}"] = scores[:, rows, patch], weights[:, rows, patch]
            summary[f"keys_{name}"] = keys[rows].expand(len(scores), -1)
        lists = {name: values.T.tolist() for name, values in summary.items()}
        self.seen[view.layer] = [
            [{name: lists[name][pair][head] for name in lists} for head in range(len(scores))]
            for pair in range(len(patch))
        ]


def _with_copies_as_rows(anchored: Any, posts: list[Post]) -> dict[str, Any]:
    """Prepared inputs whose copies count as text rows: a watcher sees text rows only."""
    encoded = anchored[ENCODED]
    delimiters: Bool[Tensor, "1 s"] = encoded.inserted.marks.delimiters.clone()
    delimiters[0, torch.tensor([post.copy for post in posts])] = False
    marks = replace(encoded.inserted.marks, delimiters=delimiters)
    return {**anchored, ENCODED: Encoded(dict(encoded), replace(encoded.inserted, marks=marks))}
