"""Prune: image tokens dropped before the decoder, or FastV's way inside it. FastV: arXiv 2403.06764, ECCV 2024

Of the n visual tokens of each image the k = max(1, floor(share n + 1/2)) of the highest score are kept:

    by = attention    score_j = mean over heads of A_h(last row, j) in layer K; after layer K no row from the first visual
                      token on sees the other ones (FastV, Section 4; the paper's example is share = 0.5, K = 2)
    by = cosine       score_m = max_n cos(T_n, I_m) over the prompt's words n behind the patch: what matches no word goes
    by = random       score_m drawn from `seed` and the prompt's words, a control

What is saved. By cosine and at random the tokens are really removed from the inputs: the decoder reads, and its cache holds,
a shorter prompt. By attention their keys are masked after layer K: every token is still computed and kept in the cache, so
the answers are those of FastV and the cost is that of the plain model.

Positions. By attention each token keeps its own. Removed tokens leave no gap, except where positions have three parts
(M-RoPE): there every patch keeps its place in the image. Row newlines are never dropped. With `attanchor`, anchors are
inserted first, and stay where they are if their patch is dropped. tests/reference_prune.py holds both forms as plain loops.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import CannotAct
from ..interventions.attention_view import AttentionEdit, AttentionView
from ..interventions.forward_pass import PER_SAMPLE
from ..interventions.insertion.batch import Prompts, marked, read_prompts
from ..interventions.insertion.plan import nothing_copied
from ..interventions.method import DEFAULTS, Method, Preset
from ..parameters import parameter
from .shared import hiding, scaled

if TYPE_CHECKING:
    from ..interventions.forward_pass import Generation
    from ..models.decoder import AttentionTarget
    from ..models.vlm import Vlm

LAYER = 2


@dataclass
class KeptTokens:
    """State of one generation: the visual tokens that are still seen after layer K."""

    kept: Bool[Tensor, "b v"] | None = field(default=None, metadata=PER_SAMPLE)


@dataclass(frozen=True)
class Prune(Method):
    """Image tokens dropped by an early layer's attention (FastV, arXiv 2403.06764), by cosine with the words, or at random.

    Args:
        share: The share of each image's visual tokens that is kept; 1 = all, exactly the unmodified model.
        by: What ranks them: "attention" (masked after `layer`), "cosine" or "random" (both removed before the decoder).
        layer: The layer, from 1, whose attention ranks the tokens; None = 2 of 32, scaled to the model's depth.
        seed: Of the random choice.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"attention", "prepare"})
    target: ClassVar[str] = "decoder"
    rows: ClassVar[str] = "image"
    after_insertion: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "any", "paper", {"share": 0.5}),
        DEFAULTS,
    )

    share: float = parameter(0.5, 0, 1, slider=(0.05, 1, 0.05))
    by: str = parameter("attention", choices=("attention", "cosine", "random"))
    layer: int | None = parameter(None, 1, whole=True, optional=True)
    seed: int = parameter(0, 0, whole=True)

    def active_hooks(self) -> frozenset[str]:
        if self.share == 1:
            return frozenset()
        return frozenset({"attention" if self.by == "attention" else "prepare"})

    def disabled(self) -> "Prune":
        return replace(self, share=1.0)

    def layer_on(self, target: "AttentionTarget") -> int:
        return scaled(LAYER, target.depth) if self.layer is None else self.layer

    def check(self, target: "AttentionTarget") -> None:
        if "attention" in self.active_hooks():
            target.require_layer(self.layer_on(target), "layer")
            if self.layer_on(target) == target.depth:
                raise CannotAct(
                    f"prune hides visual tokens after `layer`, and layer {target.depth} is the last. Choose an earlier one."
                )

    def prepare(
        self,
        vlm: "Vlm | Any",
        inputs: Mapping[str, Any],
        *,
        anchorable: Tensor | None = None,
        labels: Tensor | None = None,
        samples: Any = (),
        **options: Any,
    ) -> dict[str, Any]:
        """Inputs without the image tokens that are dropped by cosine or at random; otherwise as they are.

        Args:
            vlm: What `va.load` returns, a (model, processor) pair, or a model.
            inputs: What its processor returned, or what `va.AttAnchor(...).prepare` made of it.
            anchorable: Booleans (b, t), the tokens that count as the prompt's words; with a bare model needed.
            labels: (b, t), also as `inputs["labels"]`; they shrink along.
            samples: Not used.
            options: What `read_prompts` takes.

        Returns:
            Inputs for `model.generate` or a forward pass; `.effects` says how many tokens were dropped.
        """
        if "prepare" not in self.active_hooks():
            same: Any = inputs if labels is None else {**inputs, "labels": labels}
            return same
        prompts = read_prompts("prune", vlm, inputs, "user", anchorable, labels, again=True, **options)
        if prompts is None:
            return dict(inputs) if labels is None else {**inputs, "labels": labels}
        with torch.no_grad():
            score = prompts.cosine().amax(1) if self.by == "cosine" else self.drawn(prompts)
            valid = prompts.patches.valid
            kept = highest(score, valid, prompts.image_of_patches(), self.share)
            removed = marked(prompts.patches.place, valid & ~kept, prompts.ids.shape[1])

        def say() -> list[dict[str, Any]]:
            return [_reported(*counts) for counts in zip(valid.sum(1).tolist(), kept.sum(1).tolist(), strict=True)]

        return prompts.inserted(nothing_copied(removed), of_patch=False, say=say)

    def drawn(self, prompts: Prompts) -> Float[Tensor, "b m"]:
        """A number for each patch, the same whatever else is in the batch."""
        score = torch.zeros(prompts.patches.place.shape)
        words = zip(prompts.ids, prompts.words.place, prompts.words.valid, strict=True)
        for row, (ids, place, valid) in zip(score, words, strict=True):
            key = zlib.crc32(repr((self.seed, ids[place[valid]].tolist())).encode())
            row.copy_(torch.rand(len(row), generator=torch.Generator().manual_seed(key)))
        return score.to(prompts.ids.device)

    def new_state(self) -> KeptTokens:
        return KeptTokens()

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset(range(self.layer_on(target), target.depth + 1))

    def attention(self, view: AttentionView) -> AttentionEdit | None:
        state: KeptTokens = view.state
        first = min(view.forward.generation.setup.attention_layers)
        if view.layer > first:
            assert state.kept is not None
            kept = state.kept
            return AttentionEdit(bias=view.once(lambda: hiding(view, kept), "hidden", view.columns[0], view.row_mask))
        if state.kept is None:
            _require_words(view)
            looks = view.at_visual(view.last_row_weights()).mean(1)[:, 0]
            state.kept = highest(looks, view.visual.valid, view.visual.image, self.share)
        return None

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        state: KeptTokens = generation.state
        if state.kept is None:
            return [{} for _ in generation.visual.valid]
        counts = zip(generation.visual.valid.sum(1).tolist(), state.kept.sum(1).tolist(), strict=True)
        return [_reported(*each) for each in counts]


def highest(
    score: Float[Tensor, "b v"], valid: Bool[Tensor, "b v"], image: Int[Tensor, "b v"], share: float
) -> Bool[Tensor, "b v"]:
    """The share of each image's tokens that has the highest scores, at least one of each; of equals the earlier ones."""
    images = int(image.max()) + 1 if image.numel() else 1
    group = image.where(valid, images)
    order = score.masked_fill(~valid, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    order = order.gather(1, group.gather(1, order).argsort(dim=-1, stable=True))
    counts = torch.zeros(len(score), images + 1, dtype=torch.long, device=score.device)
    counts = counts.scatter_add(1, group, torch.ones_like(group))
    place = torch.arange(order.shape[1], device=order.device) - (counts.cumsum(1) - counts).gather(
        1, group.gather(1, order)
    )
    rank = torch.zeros_like(order).scatter(1, order, place)
    number = (counts * share + 0.5).floor().long().clamp(min=1)
    return valid & (rank < number.gather(1, group))


def _require_words(view: AttentionView) -> None:
    """The row whose attention ranks the tokens must be a word: the prompt's last, in one piece with its image."""
    assert view.rows.index is not None and view.rows.source is not None
    last = view.rows.index.gather(1, view.rows.source[:, None])
    generation = view.forward.generation
    ends_with_image = bool(((last == view.visual.index) & view.visual.valid).any())
    if ends_with_image or generation.end > generation.chunk_end:
        raise CannotAct(
            "prune by attention ranks the image's tokens by the prompt's last word, so it needs the whole prompt in one piece "
            "with a word behind the image. Leave prefill_chunk_size out, or use by=cosine."
        )


def _reported(tokens: int, kept: int) -> dict[str, Any]:
    return {"visual_tokens": tokens, "kept_tokens": kept}
