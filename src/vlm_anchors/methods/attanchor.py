"""AttAnchor, Text-into-Image: copies of the user's words beside the image patches they resemble. arXiv 2509.23109

An image and the words about it stand far apart in the sequence, so rotary attention between them is weak. AttAnchor puts
a copy of a word right behind the patch that resembles it most, as a signpost; the prompt itself stays whole.

    m*(n) = argmax_m cos(T_n, I_m)            the patch for word n
    if cos(T_n, I_m*) >= tau:                 (Algorithm 1)
        a copy of T_n goes into the image, right behind I_m*

Variants that the paper leaves open, each a parameter:

    each = patch    n*(m) = argmax_n cos(T_n, I_m); where it reaches tau, a copy of T_n* for every such patch m
    place = row     the copy goes behind the last patch of m*'s row; place = image: behind the image's last patch
    keep = others   a word that anchored leaves its place in the prompt; keep = anchors: all words leave it, anchored or
                    not, where any anchored (docs/open-questions.md)

T_n are embeddings of prompt tokens, I_m the projected patches. A copy of a word is its token id, so all that changes is
the sequence of ids: the model encodes nothing twice and runs as it always does (docs/decisions/0020-attanchor.md).
tests/reference_attanchor.py holds the algorithm as plain loops; this file is tested equal to it. Where the paper is silent
the choice is a parameter whose default is ours (docs/methods.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..interventions.insertion.anchored import Anchored
from ..interventions.insertion.batch import Prompts, marked, read_prompts, unprepared
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
        each: One anchor a "word", behind the patch that resembles it most, or one a "patch": a copy of the word that
            resembles it most, so that a word may stand in many places.
        place: A copy goes right behind its "patch", behind the patch's "row", or behind the last patch of its "image".
        keep: Which words stay in the prompt: "all"; the "others", so that an anchored word moves; or none but the
            "anchors", where any anchored. The prompt's last token always stays.
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
    each: str = parameter("word", choices=("word", "patch"))
    place: str = parameter("patch", choices=("patch", "row", "image"))
    keep: str = parameter("all", choices=("all", "others", "anchors"))
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
        """Every word beside its best patch (or every patch with its best word), and which of them become copies."""
        if self.each == "patch":
            best = prompts.cosine().max(1)
            word, patch, cosine = prompts.words.place.gather(1, best.indices), prompts.patches.place, best.values
        else:
            cosine, number = self.best(prompts.cosine(), prompts.image_of_patches())
            word = prompts.words.place[:, :, None].expand_as(number).flatten(1)
            patch, cosine = prompts.patches.place.gather(1, number.flatten(1)), cosine.flatten(1)
        if self.order == "reverse":
            word, patch, cosine = word.flip(1), patch.flip(1), cosine.flip(1)
        chosen = cosine >= self.tau
        host, match = self.host(prompts, patch)
        advances = torch.full_like(chosen, self.mrope == "text")
        return Copies(word, host, chosen, advances, cosine, match, self.removed(prompts, word, chosen))

    def host(self, prompts: Prompts, patch: Int[Tensor, "b c"]) -> tuple[Int[Tensor, "b c"], Int[Tensor, "b c"] | None]:
        """Behind which token the copy for a patch goes; and the patch, where that is another token."""
        if self.place == "patch":
            return patch, None
        ends = prompts.row_ends() if self.place == "row" else prompts.image_ends()
        return ends.gather(1, patch), patch

    def removed(
        self, prompts: Prompts, word: Int[Tensor, "b c"], chosen: Bool[Tensor, "b c"]
    ) -> Bool[Tensor, "b t"] | None:
        """Words that leave the prompt. Its last token, from which the answer goes on, stays."""
        if self.keep == "all":
            return None
        length = prompts.ids.shape[1]
        gone = marked(word, chosen, length)
        if self.keep == "anchors":
            gone = prompts.word_mask() & gone.any(1, keepdim=True)
        return gone & (torch.arange(length, device=gone.device) != prompts.end())

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
