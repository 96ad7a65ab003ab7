"""AttAnchor, Text-into-Image: copies of the user's words beside the image patches they resemble. arXiv 2509.23109

An image and the words about it stand far apart in the sequence, so rotary attention between them is weak. AttAnchor puts
a copy of a word right behind the patch that resembles it most, as a signpost; the prompt itself stays whole.

    m*(n) = argmax_m cos(T_n, I_m)            the patch for word n
    if cos(T_n, I_m*) >= tau:                 (Algorithm 1)
        a copy of T_n goes into the image, right behind I_m*

T_n are embeddings of prompt tokens, I_m the projected patches. A copy of a word is its token id, so all that changes is
the sequence of ids: the model encodes nothing twice and runs as it always does (docs/decisions/0020-attanchor.md).
tests/reference_attanchor.py holds the algorithm as plain loops; this file is tested equal to it. Where the paper is silent
the choice is a parameter whose default is ours (docs/methods.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..interventions.insertion.anchored import Anchored
from ..interventions.insertion.batch import Prompts, read_prompts, unprepared
from ..interventions.insertion.plan import Copies
from ..interventions.method import DEFAULTS, Method, Preset
from ..parameters import parameter

if TYPE_CHECKING:
    from ..models.vlm import Vlm


@dataclass(frozen=True)
class AttAnchor(Method):
    """Attention anchors, words into the image (arXiv 2509.23109, Algorithm 1).

    Args:
        tau: Cosine from which a word is copied, in [0, 1]; 1 = off, exactly the unmodified model. The papers use 0.12
            with LLaVA-style projectors and 0.08 with Qwen2.5-VL; `va.calibrate` finds the one that anchors a tenth of
            the words.
        order: Several words behind one patch stand in "prompt" order, or in "reverse" (the algorithm read literally,
            each inserted right behind the patch).
        tokens: The "user"'s words, or "all" of the prompt, the template's words included; special tokens and answers
            never.
        images: a word goes behind the "best" patch of all images before it, or behind the best of "each".
        mrope: Where positions have three parts, an anchor takes its "patch"'s, or counts as "text" of its own, which
            moves what follows on by one.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"prepare"})
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("tinyllava-1b", "any", "paper", {"tau": 0.12}),
        Preset("llava-1.5-7b", "any", "paper", {"tau": 0.12}),
        Preset("qwen2.5-vl-3b", "any", "paper", {"tau": 0.08}),
        DEFAULTS,
    )

    tau: float = parameter(0.12, 0, 1, slider=(0, 1, 0.01))
    order: str = parameter("prompt", choices=("prompt", "reverse"))
    tokens: str = parameter("user", choices=("user", "all"))
    images: str = parameter("best", choices=("best", "each"))
    mrope: str = parameter("patch", choices=("patch", "text"))

    def disabled(self) -> "AttAnchor":
        return replace(self, tau=1.0)

    @property
    def off(self) -> bool:
        """Whether inputs stay as they are."""
        return self.tau == 1

    def prepare(
        self,
        vlm: "Vlm | Any",
        inputs: Mapping[str, Any],
        *,
        anchorable: Tensor | None = None,
        labels: Tensor | None = None,
        samples: Any = (),
        **options: Any,
    ) -> Anchored:
        """Inputs with anchors, for `model.generate(**anchored)` or `model(**anchored)`; `.effects` lists the anchors.

        Args:
            vlm: What `va.load` returns, a (model, processor) pair, or a model.
            inputs: What its processor returned. labels: (b, t), also as `inputs["labels"]`; -100 up to the answer.
                They grow along, and answers are never copied.
            anchorable: Booleans (b, t), the tokens that may become anchors, instead of `tokens`; with a bare model
                needed, or every word counts.
        """
        if self.off:
            return unprepared("attanchor", inputs, labels)
        prompts = read_prompts("attanchor", vlm, inputs, self.tokens, anchorable, labels, **options)
        return unprepared("attanchor", inputs, labels) if prompts is None else self.anchored(prompts)

    def anchored(self, prompts: Prompts) -> Anchored:
        """Algorithm 1 on a batch."""
        with torch.no_grad():
            copies = self.chosen(prompts)
        return prompts.inserted(copies, of_patch=False)

    def chosen(self, prompts: Prompts) -> Copies:
        """Every word beside its best patch, and which of them become copies."""
        cosine, patch = self.best(prompts.cosine(), prompts.image_of_patches())
        word = prompts.words.place[:, :, None].expand_as(patch)
        host = prompts.patches.place.gather(1, patch.flatten(1)).view_as(patch)
        return self.copies(word, host, cosine)

    def best(
        self, cosine: Float[Tensor, "b n m"], image: Int[Tensor, "b m"]
    ) -> tuple[Float[Tensor, "b n k"], Int[Tensor, "b n k"]]:
        """m*(n) and its cosine: over all images (k = 1), or over each of the k images."""
        if self.images == "best":
            best = cosine.max(-1, keepdim=True)
            return best.values, best.indices
        numbers = range(int(image.max()) + 1)
        each = [cosine.masked_fill((image != number)[:, None], -torch.inf).max(-1) for number in numbers]
        return torch.stack([best.values for best in each], -1), torch.stack([best.indices for best in each], -1)

    def copies(self, word: Int[Tensor, "b n k"], host: Int[Tensor, "b n k"], cosine: Float[Tensor, "b n k"]) -> Copies:
        """The words whose best patch resembles them enough, in the order they shall stand behind it."""
        source, host, cosine = (each.flatten(1) for each in (word, host, cosine))
        if self.order == "reverse":
            source, host, cosine = source.flip(1), host.flip(1), cosine.flip(1)
        chosen = cosine >= self.tau
        return Copies(source, host, chosen, torch.full_like(chosen, self.mrope == "text"), cosine)
