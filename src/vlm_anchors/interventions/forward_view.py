"""What a method sees in the hooks "hidden", "mlp" and "logits": one forward pass of the decoder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..models.decoder import AttentionTarget
from .branch.contrastive import BranchInputs
from .branch.model_branch import ModelInputs
from .branch.vision_tower import NotedFeatures
from .composition import Part
from .forward_pass import ForwardState, GenerationState
from .text_rows import Visual


@dataclass(frozen=True, eq=False)
class Head:
    """What makes logits of a hidden state: the decoder's final norm and the output embedding of `model`."""

    model: nn.Module
    norm: nn.Module
    out: nn.Module


class HookedModel(Protocol):
    """What a hook needs of the model that it is installed on, `hooks.ModelHooks`."""

    target: AttentionTarget
    head: Head

    noted: NotedFeatures | None

    def last_outputs(self, branch_inputs: BranchInputs | ModelInputs, method: Any) -> Float[Tensor, "b l d"]: ...


@dataclass(eq=False)
class ForwardPass:
    """One forward pass of the decoder as one method sees it in the hooks "hidden", "mlp" and "logits"."""

    hooks: HookedModel = field(repr=False)
    forward_state: ForwardState = field(repr=False)
    part: Part
    embeds: Float[Tensor, "b q d"]
    """What the decoder was given; visual tokens are the projected image."""
    real: Bool[Tensor, "b q"] | None
    """Rows that are not padding; None: all (a decoding step)."""
    prompt: bool
    """This pass holds the prompt; else it is a decoding step of one row."""
    branch_inputs: BranchInputs | ModelInputs | None = None
    arguments: Mapping[str, Any] | None = None
    """Of this pass's call of the model that returns logits; None where the decoder is called by itself."""
    early: Float[Tensor, "b n v"] | None = None
    """Logits of the rows that the method's `lm_head` put after the last one."""
    more: int = 0
    """How many they are."""

    @property
    def method(self) -> Any:
        return self.part.method

    @property
    def generation(self) -> GenerationState:
        return self.forward_state.generation

    @property
    def state(self) -> Any:
        """The method's own state of this generation."""
        return self.generation.states[self.part.number]

    @property
    def pass_state(self) -> Any:
        """The method's own state of this forward pass."""
        return self.forward_state.states[self.part.number]

    @property
    def target(self) -> AttentionTarget:
        return self.hooks.target

    @property
    def without_image(self) -> Bool[Tensor, " b"] | None:
        """Samples without an image, which are left alone; None where each has one."""
        return self.generation.without_image

    def seeing(self, new: Float[Tensor, "b ..."], plain: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """`new` for samples with an image, `plain` for the others."""
        if self.without_image is None:
            return new
        return torch.where(self.without_image.reshape(-1, *[1] * (new.dim() - 1)), plain.to(new.dtype), new)

    @property
    def depth(self) -> int:
        return self.forward_state.depth

    @property
    def visual(self) -> Visual:
        return self.forward_state.visual

    def normed(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """A layer's output through the final norm, as the output embedding takes it."""
        return self.hooks.head.norm(hidden)

    def early_logits(self, hidden: Float[Tensor, "*b d"], norm: bool = True) -> Float[Tensor, "*b n"]:
        """Logits of a layer's output at once; where they can wait for the last layer's, `lm_head` makes both in one product."""
        # Not by a call, which is the model's own to its output embedding and would be taken for it.
        return self.hooks.head.out.forward(self.normed(hidden) if norm else hidden)
