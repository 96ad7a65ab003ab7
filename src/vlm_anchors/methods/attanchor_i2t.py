"""AttAnchor, Image-into-Text: copies of image patches beside the user's words they resemble. arXiv 2509.23109

The other direction of AttAnchor: the image stays in front as it is, and patches stand once more inside the prompt, each
right behind the word it resembles most.

    n*(m) = argmax_n cos(I_m, T_n)            the word for patch m
    if cos(I_m, T_n*) >= tau:                 (Algorithm 2)
        a copy of I_m goes into the prompt, right behind T_n*
    K pause tokens go between prompt and answer ("think mode")

A copied patch is one more placeholder whose projected feature is handed over twice. tests/reference_attanchor.py holds the
algorithm as plain loops; this file is tested equal to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..interventions.insertion.anchored import Anchored
from ..interventions.insertion.batch import Prompts, read_prompts, unprepared
from ..interventions.insertion.plan import PAUSE, Copies
from ..interventions.method import DEFAULTS, Method, Preset
from ..parameters import parameter

if TYPE_CHECKING:
    from ..models.vlm import Vlm


@dataclass(frozen=True)
class AttAnchorI2T(Method):
    """Attention anchors, patches into the prompt (arXiv 2509.23109, Algorithm 2).

    Args:
        tau: Cosine from which a patch is copied, in [0, 1]; 1 = none.
        pause_tokens: How many padding embeddings, attended to and without a label, stand between prompt and answer.
        order: Several patches behind one word stand in "raster" order of the image, or by falling "cosine".
        tokens: Behind the "user"'s words only, or behind "all" words of the prompt.
        mrope: Where positions have three parts, a copy counts as "text" at its place in the prompt, or keeps its
            "patch"'s.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"prepare"})
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("tinyllava-1b", "any", "paper", {"tau": 0.12}),
        Preset("llava-1.5-7b", "any", "paper", {"tau": 0.12}),
        Preset("qwen2.5-vl-3b", "any", "paper", {"tau": 0.12}),
        DEFAULTS,
    )

    tau: float = parameter(0.12, 0, 1, slider=(0, 1, 0.01))
    pause_tokens: int = parameter(0, 0, 1000, whole=True, slider=(0, 16, 1))
    order: str = parameter("raster", choices=("raster", "cosine"))
    tokens: str = parameter("user", choices=("user", "all"))
    mrope: str = parameter("text", choices=("text", "patch"))

    def disabled(self) -> "AttAnchorI2T":
        return replace(self, tau=1.0, pause_tokens=0)

    @property
    def off(self) -> bool:
        """Whether inputs stay as they are."""
        return self.tau == 1 and not self.pause_tokens

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
                They grow along, and nothing goes into an answer.
            anchorable: Booleans (b, t), the tokens that may take anchors, instead of `tokens`; with a bare model
                needed, or every word counts.
        """
        if self.off:
            return unprepared("attanchor-i2t", inputs, labels)
        prompts = read_prompts("attanchor-i2t", vlm, inputs, self.tokens, anchorable, labels, **options)
        return unprepared("attanchor-i2t", inputs, labels) if prompts is None else self.anchored(prompts)

    def anchored(self, prompts: Prompts) -> Anchored:
        """Algorithm 2 on a batch."""
        with torch.no_grad():
            best = prompts.cosine().max(1)
            host = prompts.words.place.gather(1, best.indices)
            copies = self.copies(prompts.patches.place, host, best.values, prompts.end())
        return prompts.inserted(copies, of_patch=True)

    def copies(
        self,
        patch: Int[Tensor, "b m"],
        host: Int[Tensor, "b m"],
        cosine: Float[Tensor, "b m"],
        end: Int[Tensor, "b 1"],
    ) -> Copies:
        """The patches whose best word resembles them enough, in the order they shall stand behind it; then the pauses."""
        if self.order == "cosine":
            falling = cosine.argsort(dim=1, descending=True, stable=True)
            patch, host, cosine = (each.gather(1, falling) for each in (patch, host, cosine))
        chosen = (cosine >= self.tau) & (self.tau < 1)
        # Generation counts positions on from the prompt's last token, so behind it a copy counts as text in any case.
        advances = (host == end) | (self.mrope == "text")
        pause = torch.ones(len(end), self.pause_tokens, dtype=torch.bool, device=end.device)
        return Copies(
            source=torch.cat([patch, torch.full_like(pause, PAUSE, dtype=patch.dtype)], 1),
            host=torch.cat([host, end.expand(-1, self.pause_tokens)], 1),
            chosen=torch.cat([chosen, pause], 1),
            advances=torch.cat([advances, pause], 1),
            cosine=torch.cat([cosine, torch.zeros_like(pause, dtype=cosine.dtype)], 1),
        )
