"""Where the images of a prompt stand, from its token ids and the model's config alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ...errors import CannotAct
from ...interventions.call_context import CallContext
from ...interventions.text_rows import text_mask
from ...interventions.token_map import mark_ids
from ...models.decoder import AttentionTarget, config_id, delimiter_ids
from ...models.families import family_of

FAMILIES = ("llava", "qwen2-vl", "qwen2.5-vl", "qwen3-vl", "internvl")
"""Families whose images can be separated by token ids alone; each is tested inside vLLM against transformers."""


def target_of(config: Any, tokenizer: Any = None) -> AttentionTarget:
    """The attention target of a model that vLLM runs: what a method's `check` reads, without modules.

    Args:
        config: The model's Hugging Face config.
        tokenizer: Its tokenizer, of which some families name the tags around their images.

    Raises:
        CannotAct: The family is none of `FAMILIES`.
    """
    family = family_of(config)
    if family.name not in FAMILIES:
        raise CannotAct(
            f"Inside vLLM, methods run on {', '.join(FAMILIES)}; this model is of another family ({config.model_type})."
        )
    text = config.get_text_config()
    visual = {name: one for name in family.visual if (one := config_id(config, name)) is not None}
    return AttentionTarget(
        kind="decoder",
        depth=text.num_hidden_layers,
        blocks=text.num_hidden_layers,
        heads=text.num_attention_heads,
        family=family,
        stack=nn.Identity(),
        layers={},
        outer=(),
        visual_ids=tuple(visual.values()),
        delimiter_ids=delimiter_ids(config, family, tokenizer),
        modalities=tuple(name.split("_")[0] for name in visual),
    )


@dataclass(frozen=True)
class PromptMap:
    """The visual tokens and text rows of one prompt of n tokens."""

    visual: Int[Tensor, " v"]
    """Positions of the visual tokens."""
    image: Int[Tensor, " v"]
    """Number of the image of each, from 0."""
    text: Bool[Tensor, " n"]
    """Rows that a method edits."""

    @cached_property
    def first_text(self) -> int:
        """The first row that a method edits: every row before it is the plain model's. n where there is none."""
        found = self.text.nonzero()
        return int(found[0, 0]) if len(found) else len(self.text)

    @property
    def images(self) -> int:
        return int(self.image.max()) + 1 if len(self.image) else 0


def map_prompt(
    target: AttentionTarget, tokens: Sequence[int], tokens_per_image: int | None, all_rows: bool
) -> PromptMap:
    """Read one prompt.

    Args:
        target: The model's attention target.
        tokens: The prompt's token ids, each visual token with its placeholder.
        tokens_per_image: Visual tokens of each image, where all have as many; tells images that touch apart.
        all_rows: Whether rows before the image are text rows as well (`Method.rows`).

    Raises:
        CannotAct: The prompt holds a video.
    """
    videos = [one for one, kind in zip(target.visual_ids, target.modalities, strict=True) if kind == "video"]
    if any(token in videos for token in tokens):
        raise CannotAct(
            "Inside vLLM, methods act on images, and this prompt holds a video. Token ids do not show where its frames "
            "end. Ask through transformers, or without a method."
        )
    ids = torch.tensor(tokens)[None]
    marks = mark_ids(target, ids, _encoded(target, tokens, tokens_per_image))
    before = torch.full((1,), all_rows)
    text = text_mask(marks.visual, torch.ones_like(marks.visual), marks.delimiters, before)[0]
    visual = marks.visual[0].nonzero()[:, 0]
    if not len(visual):
        text = torch.zeros_like(text)
    return PromptMap(visual, marks.image[0][visual], text)


def _encoded(target: AttentionTarget, tokens: Sequence[int], tokens_per_image: int | None) -> CallContext:
    """What the vision tower would have shown: the length of each image."""
    if tokens_per_image is None or not any(token in target.visual_ids for token in tokens):
        return CallContext()
    count = sum(token in target.visual_ids for token in tokens) // tokens_per_image
    lengths = SimpleNamespace(pooler_output=[range(tokens_per_image)] * count)
    return CallContext(mm_encoder_outputs={"image": lengths})


def tokens_per_image(config: Any) -> int | None:
    """Visual tokens of each image of LLaVA, whose images are all resized to one size; None for other families."""
    if family_of(config).name != "llava":
        return None
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    return patches + (config.vision_feature_select_strategy == "full")
