"""MemVR: memory-space visual retracing.                                       arXiv 2410.03577, ICML 2025

When a middle layer is unsure of the next token, the next layer's MLP looks at the image again: the projected image V
(n x d) serves as keys and values of an extra memory. Once a pass at most, for every row of the pass:

    u_l  = entropy of the softmax over the 10 largest of lm_head(norm(h_l)), last row, divided by ln 10
    if u_l > gamma, l in layers 7-16 of 32, and not yet in this pass, then in layer l + 1 (8-17), x the MLP's input,
    MLP(x) <- (1 - alpha) MLP(x) + alpha a mean|MLP(x)| / mean|a|,      a = (x V^T) V

Where code and paper differ. The paper's memory has an activation between the products, the official LLaVA path none, and
neither has ours; `activation="silu"` is the code's form for Qwen-VL, a = silu(x V1^T) V with V1 = V mean|W_up| / mean|V|,
W_up the weights that widen that layer's MLP. (The code scales the second V too, and on LLaVA both, by mean sizes of weights:
the normalisation cancels that.) Qwen-VL's entropy skips the final norm: `norm=False`. But as shipped its Qwen-VL and GLM-4V
paths never inject, so no value for them is known to work. Its scripts for Qwen-VL-Chat ask for alpha 0.28 (CHAIR: 0.29),
those for GLM-4V for 0.28 (CHAIR and VizWiz: 0.26), both for gamma 0.75 and start,end = 9,16, which is layers 11-16 of 32.
Our preset for Qwen2.5-VL, another model, takes Qwen-VL-Chat's alpha 0.28, gamma, activation and entropy, but not its
layers: presets hold none, so 7-16 of 32, scaled, stay. The code's entropy is summed over a batch and one image serves all
samples; ours decides per sample, with that sample's images (all of them), means taken over its real rows. There is no
official alpha for POPE; in the code's captioning script alpha is 0.12 whatever its shell script asks for (0.31). The
entropy is that of raw logits, as on the code's LLaVA path, where no logits processor comes before it.
"""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import CannotAct
from ..interventions.hooks import layers_of, widening_of
from ..interventions.method import DEFAULTS, Method, Preset
from ..parameters import parameter
from .shared import TESTED, layer_range, warn_untested

if TYPE_CHECKING:
    from ..interventions.branch.branch_prompt import Prompt
    from ..interventions.forward_pass import Generation
    from ..interventions.forward_view import ForwardPass
    from ..models.decoder import AttentionTarget

LAYERS = (7, 16)
TOP = 10


@dataclass
class MemVRState:
    """Of one generation: the projected image, injections a sample, and the size of each layer's widening weights."""

    image: Float[Tensor, "b n d"] | None = None
    triggers: list[int] | None = None
    widening: dict[int, Float[Tensor, ""]] = field(default_factory=dict)


@dataclass
class MemVRPassState:
    """Of one forward pass: the layer to change and its samples, and which samples are done with."""

    fired: dict[int, list[bool]] = field(default_factory=dict)
    done: list[bool] | None = None


@dataclass(frozen=True)
class MemVR(Method):
    """Memory-space visual retracing (arXiv 2410.03577).

    Args:
        alpha: Share of the image memory in the MLP's output; 0 = off.
        gamma: Normalised entropy above which a layer counts as unsure; 1 or more never triggers.
        layers: (first, last) layer that is tested, from 1; the one after it is changed. None = 7-16 of 32, scaled to
            the model's depth.
        activation: Between the memory's two products, "none" or "silu".
        norm: Whether a tested layer's state passes the final norm before the output embedding.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"hidden", "mlp"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = TESTED
    elsewhere: ClassVar[str] = "warns"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "mme", "official-code", {"alpha": 0.12, "gamma": 0.75}),
        Preset("llava-1.5-7b", "chair", "official-code", {"alpha": 0.12, "gamma": 0.75}),
        Preset("llava-1.5-7b", "llava-bench", "official-code", {"alpha": 0.32, "gamma": 0.75}),
        Preset("llava-1.5-7b", "mm-vet", "official-code", {"alpha": 0.12, "gamma": 0.75}),
        Preset("llava-1.5-7b", "vizwiz", "official-code", {"alpha": 0.28, "gamma": 0.75}),
        Preset("llava-1.5-7b", "pope", "ours", {"alpha": 0.12}),
        Preset("qwen2.5-vl-7b", "any", "ours", {"alpha": 0.28, "activation": "silu", "norm": False}),
        DEFAULTS,
    )
    """Qwen2.5-VL's are those of the code for Qwen-VL-Chat, where nothing is ever injected, without its layers."""

    alpha: float = parameter(0.12, 0, 1, slider=(0, 1, 0.01))
    gamma: float = parameter(
        0.75,
        0,
        slider=(0, 1, 0.05),
        senseless=((">", 1, "is never reached: uncertainty is 1 at most, so nothing is done"),),
    )
    layers: tuple[int, int] | None = parameter(None, layers=True, optional=True)
    activation: str = parameter("none", choices=("none", "silu"))
    norm: bool = parameter(True)

    @property
    def off(self) -> bool:
        return self.alpha == 0 or self.gamma >= 1

    def active_hooks(self) -> frozenset[str]:
        return frozenset() if self.off else self.hooks

    def disabled(self) -> "MemVR":
        return replace(self, alpha=0.0)

    def check(self, target: "AttentionTarget") -> None:
        warn_untested(self, target)
        if not self.off and target.blocks in layer_range(self.layers, LAYERS, target, "blocks"):
            raise CannotAct(
                f"memvr changes the MLP after a tested layer, and layer {target.blocks} is the last. Let layers end before it."
            )
        if self.activation == "silu" and not self.off:
            for layer in self.mlp_layers(target):
                widening_of(layers_of(target)[layer - 1], self)

    def new_state(self) -> MemVRState:
        return MemVRState()

    def new_pass_state(self) -> MemVRPassState:
        return MemVRPassState()

    def hidden_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset(layer_range(self.layers, LAYERS, target, "blocks"))

    def mlp_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset(layer + 1 for layer in self.hidden_layers(target))

    def begin(self, prompt: "Prompt") -> None:
        prompt.need_one_piece()
        view = prompt.view
        index = view.visual.index[..., None].expand(-1, -1, view.embeds.shape[-1])
        image = view.embeds.gather(1, index) * view.visual.valid[..., None]
        prompt.state.image, prompt.state.triggers = image.float(), [0] * len(image)

    def hidden(self, view: "ForwardPass", layer: int, output: Tensor) -> None:
        """Reads the answer back from the device: a layer that need not be tested saves a product with the whole vocabulary."""
        now: MemVRPassState = view.pass_state
        if now.done is None:
            now.done = [False] * len(output) if view.without_image is None else view.without_image.tolist()
        done = now.done
        if all(done):
            return
        unsure = (uncertainty(view.early_logits(output[:, -1], self.norm)) > self.gamma).tolist()
        now.fired[layer + 1] = [own and not before for own, before in zip(unsure, done, strict=True)]
        now.done = [own or before for own, before in zip(unsure, done, strict=True)]

    def mlp(self, view: "ForwardPass", layer: int, inputs: Tensor, output: Tensor) -> Tensor | None:
        fired: list[bool] = view.pass_state.fired.get(layer, [])
        if not any(fired):
            return None
        view.state.triggers = [old + new for old, new in zip(view.state.triggers, fired, strict=True)]
        recalled = self._recalled(view, layer, inputs.float())
        size, own = mean_size(output, view.real), mean_size(recalled, view.real)
        mixed = (1 - self.alpha) * output + self.alpha * recalled * (size / own.clamp(min=1e-30))
        mixed = mixed.to(output.dtype)
        return (
            mixed
            if all(fired)
            else torch.where(torch.tensor(fired, device=output.device)[:, None, None], mixed, output)
        )

    def _recalled(self, view: "ForwardPass", layer: int, inputs: Float[Tensor, "b q d"]) -> Float[Tensor, "b q d"]:
        image = view.state.image
        products = inputs @ image.transpose(1, 2)
        if self.activation == "silu":
            entries = view.visual.valid.sum(1).clamp(min=1) * image.shape[-1]
            size = image.abs().sum((1, 2)) / entries
            products = torch.nn.functional.silu(products * (self._widening(view, layer) / size)[:, None, None])
        return products @ image

    def _widening(self, view: "ForwardPass", layer: int) -> Float[Tensor, ""]:
        """Mean size of the weights that widen a layer's MLP; measured once a generation."""
        known: dict[int, Tensor] = view.state.widening
        if layer not in known:
            weight = widening_of(layers_of(view.target)[layer - 1], self)
            known[layer] = weight.detach().abs().mean(dtype=torch.float32)
        return known[layer]

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        counts = generation.state.triggers or [0] * len(generation.visual.valid)
        return [{"triggers": one, "passes": generation.steps + 1} for one in counts]


def uncertainty(logits: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Entropy of the 10 largest logits, 0 to 1."""
    shares = logits.float().topk(min(TOP, logits.shape[-1]), dim=-1).values.softmax(-1)
    return torch.special.entr(shares).sum(-1) / math.log(TOP)


def mean_size(values: Float[Tensor, "b q d"], real: Bool[Tensor, "b q"] | None) -> Float[Tensor, "b 1 1"]:
    """Mean of |values| over each sample's real rows."""
    size = values.float().abs().mean(-1)
    if real is None:
        return size.mean(-1)[:, None, None]
    rows = real.to(size.dtype)
    return ((size * rows).sum(-1) / rows.sum(-1))[:, None, None]
