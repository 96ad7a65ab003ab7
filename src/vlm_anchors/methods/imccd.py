"""IMCCD (later CMAC): image positions closed up, and a contrastive branch whose looks at the image are blurred.

                                                                                                   arXiv 2501.01926
Positions, in both branches: for text rows, an image of N tokens from position s is as long as r N tokens. Text keeps its
positions, token i of the image is seen from s + (1 - r) N + r i. r = 1/3 for LLaVA, 2/3 for InstructBLIP.

Second branch, text rows of every layer, z scores and A weights on image keys, V values:

    m    = mean of z over heads, text rows of the pass and image keys;      M = [z > m];      v_h = mean of V_h (one number)
    O_h  = sum_j A_j (1 - M_j) V_j + (sum_j A_j M_j) v_h                    (rows are not normalised again)

    z    = (1 + alpha) z1 - alpha z2,    tokens with p1 < beta max p1 are left out

Both modules have exact forms: an image key is turned by the difference of its two positions, once a prompt and layer; and
the branch's output is the unchanged one minus sum_j A_j M_j (V_j - v_h), which needs the text rows' weights only.

Where code and paper differ. The paper's first version calls the second module attention refinement; the official code
closes up positions, which is the later version's CMPC, and so do we. Its gamma is read by nothing and is left out here.
m is one number for a batch of one there; ours is one a sample, over its real rows. On InstructBLIP the
code's closed-up positions never act, as their flag is reset before it is read: the official presets have rate 1 there, and
2/3 is the constant that the code would use. Its contrastive branch keeps no cache there, so that every step takes m over all
text rows; in ours a step has an m of its own, as in the code for LLaVA. Qwen-VL's two constants disagree, and
for M-RoPE models there is no definition at all: there `rate` must be 1, which leaves the contrastive branch only.

The code's captioning adds a gate: with g_t the sum over image keys of the last row's A, mean over heads and layers, a step
whose g_t is below the mean of a window of earlier steps takes alpha = 0 (the cut stays). For LLaVA it sums z in place of A:
`gate="scores"`, for InstructBLIP A: "weights". The window is the first 30 steps when it samples, the last 30 when it does
not: `window`. The last 30 contain the step
itself, so it is compared with 29 earlier ones, in code and here; the first step is never gated. The code's two POPE scripts
for InstructBLIP have beta 0.2 and 0.3: presets "pope-0.2" and "pope". The presets for CHAIR have
the gate ("chair" samples, as the scripts do); nothing else has.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import BadParameter, CannotAct
from ..interventions.attention_view import AttentionEdit, AttentionView
from ..interventions.forward_pass import PER_SAMPLE
from ..interventions.method import DEFAULTS, Method, Preset
from ..parameters import parameter
from .shared import ONLY_ONE_LEFT, TESTED, Counted, contrast, refuse_untested

if TYPE_CHECKING:
    from ..interventions.branch.branch_prompt import Prompt
    from ..interventions.branch.contrastive import BranchInputs
    from ..interventions.forward_pass import Generation
    from ..interventions.forward_view import ForwardPass
    from ..interventions.text_rows import Visual
    from ..models.decoder import AttentionTarget

RATES = {"llava": 1 / 3, "instructblip": 2 / 3}
WINDOW = 30
_LLAVA_CAPTIONS = {"alpha": 1.0, "beta": 0.2, "rate": 1 / 3, "gate": "scores"}
_INSTRUCTBLIP_CAPTIONS = {"alpha": 1.0, "beta": 0.3, "rate": 1.0, "gate": "weights"}


@dataclass
class Closing:
    """How image keys are turned to their closed-up positions (cos and sin), and each layer's keys up to the last image."""

    turn: tuple[Tensor, Tensor] | None = None
    end: int = 0
    closed: dict[int, Float[Tensor, "b g k d"]] = field(default_factory=dict)


@dataclass
class IMCCDState(Counted):
    """Of one generation.

    Args:
        looks: Attention to the image at each step so far.
        gated: Steps without contrast, a sample.
    """

    closing: Closing = field(default_factory=Closing)
    looks: Float[Tensor, "b s"] | None = field(default=None, metadata=PER_SAMPLE)
    gated: Int[Tensor, " b"] | None = None


@dataclass
class IMCCDPassState:
    """Of one forward pass: attention to the image in each layer."""

    looks: list[Float[Tensor, " b"]] = field(default_factory=list)


@dataclass
class BlurState:
    """Of the contrastive branch: its own closed-up keys, and v_h of each layer."""

    closing: Closing
    blur: dict[int, Float[Tensor, "b h 1 1"]] = field(default_factory=dict)


@dataclass(frozen=True)
class IMCCD(Method):
    """IMCCD, later CMAC (arXiv 2501.01926).

    Args:
        alpha: How much of the blurred branch's logits is taken off; 0 = no contrastive branch.
        beta: Tokens less probable than this share of the most probable one are left out; 0 = none.
        rate: How far an image token advances the position, text being 1; None = the official one of the family, 1 =
            as the model has it.
        gate: No contrast at steps that look at the image less than a window of earlier ones, by "scores" or
            "weights"; "off" = contrast at every step.
        window: The "first" or the "last" 30 steps.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"attention", "logits"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = TESTED
    elsewhere: ClassVar[str] = "refused"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "pope", "official-code", {"alpha": 3.0, "beta": 0.2, "rate": 1 / 3}),
        Preset("llava-1.5-7b", "chair", "official-code", _LLAVA_CAPTIONS),
        Preset("llava-1.5-7b", "chair-greedy", "official-code", {**_LLAVA_CAPTIONS, "window": "last"}),
        Preset("llava-1.5-7b", "mme", "official-code", {"alpha": 1.0, "beta": 0.5, "rate": 1 / 3}),
        Preset("instructblip-7b", "pope", "official-code", {"alpha": 3.0, "beta": 0.3, "rate": 1.0}),
        Preset("instructblip-7b", "pope-0.2", "official-code", {"alpha": 3.0, "beta": 0.2, "rate": 1.0}),
        Preset("instructblip-7b", "chair", "official-code", _INSTRUCTBLIP_CAPTIONS),
        Preset("instructblip-7b", "chair-greedy", "official-code", {**_INSTRUCTBLIP_CAPTIONS, "window": "last"}),
        Preset("instructblip-7b", "mme", "official-code", {"alpha": 0.5, "beta": 0.5, "rate": 1.0}),
        Preset("qwen2.5-vl-7b", "pope", "ours", {"alpha": 3.0, "beta": 0.2, "rate": 1.0}),
        Preset("qwen2.5-vl-7b", "any", "ours", {"rate": 1.0}),
        DEFAULTS,
    )

    alpha: float = parameter(1.0, 0, slider=(0, 3, 0.1))
    beta: float = parameter(0.2, 0, 1, slider=(0, 1, 0.05), senseless=ONLY_ONE_LEFT)
    rate: float | None = parameter(None, 0, 1, optional=True)
    gate: str = parameter("off", choices=("off", "scores", "weights"))
    window: str = parameter("first", choices=("first", "last"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gate != "off" and not self.alpha:
            raise BadParameter(
                f"IMCCD.gate chooses the steps that are contrasted, and alpha=0 contrasts none; found {self.gate!r}."
            )
        if self.gate == "off" and self.window != IMCCD.window:
            raise BadParameter(
                f"IMCCD.window chooses the steps that a gate compares with, and gate='off' has none; found {self.window!r}. "
                "Set gate='scores' or gate='weights' as well."
            )
        if self.rate == 0:
            raise BadParameter("IMCCD.rate must be above 0: at 0 all image tokens would stand in one place.")

    @property
    def off(self) -> bool:
        return not self.alpha and not self.beta and self.rate == 1

    def active_hooks(self) -> frozenset[str]:
        return frozenset() if self.off else self.hooks

    def disabled(self) -> "IMCCD":
        return replace(self, alpha=0.0, beta=0.0, rate=1.0, gate="off", window="first")

    def rate_on(self, target: "AttentionTarget") -> float:
        if self.rate is not None:
            return self.rate
        if target.family.name not in RATES:
            raise CannotAct(
                f"imccd has no official position rate for {target.family.title}. Set rate=1 for its contrastive branch alone"
                f"{'.' if target.family.mrope else ', or a number below 1 to try.'}"
            )
        return RATES[target.family.name]

    def check(self, target: "AttentionTarget") -> None:
        refuse_untested(self, target)
        if self.rate_on(target) != 1 and (target.family.mrope or inverse_frequencies(target) is None):
            raise CannotAct(
                "imccd's closed-up positions are defined for plain rotary positions only, and this model has others. "
                "Set rate=1 for its contrastive branch alone."
            )

    def new_state(self) -> IMCCDState:
        return IMCCDState()

    def new_pass_state(self) -> IMCCDPassState:
        return IMCCDPassState()

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        idle = self.off or (self.rate_on(target) == 1 and self.gate == "off")
        return frozenset() if idle else frozenset(range(1, target.depth + 1))

    def begin(self, prompt: "Prompt") -> None:
        rate, frequencies = self.rate_on(prompt.target), inverse_frequencies(prompt.target)
        if rate != 1 and frequencies is not None:
            visual = prompt.view.visual
            turn = turning(visual, rate, frequencies)
            prompt.state.closing = Closing(turn, int(visual.index.max()) + 1)

    def attention(self, view: AttentionView) -> AttentionEdit | None:
        closing: Closing = view.state.closing
        key = closed_up(view, closing)
        if self.gate != "off":
            scores = view.anchor_row(view.scores_of(key))
            image_mass = scores if self.gate == "scores" else scores.softmax(-1)
            image = view.visual_keys()[:, None, None]
            view.pass_state.looks.append((image_mass * image).sum((2, 3)).mean(1))
        return None if closing.turn is None else AttentionEdit(key=key)

    def branch(self, prompt: "Prompt") -> "BranchInputs | None":
        closing: Closing = prompt.state.closing
        own = BlurState(Closing(closing.turn, closing.end))
        return prompt.edited(Blurred(), own) if self.alpha else None

    def logits(self, view: "ForwardPass", first: Tensor, second: Tensor | None) -> Tensor:
        state: IMCCDState = view.state
        mixed = state.contrast(first, second, self.alpha, self.beta)
        if self.gate == "off":
            return mixed
        gated = self._gated(view)
        state.gated = gated.long() + (0 if state.gated is None else state.gated)
        return torch.where(gated[:, None], contrast(first, None, 0, self.beta), mixed)

    def _gated(self, view: "ForwardPass") -> Bool[Tensor, " b"]:
        """Samples that look at the image less in this step than in the window."""
        image_mass = torch.stack(view.pass_state.looks).mean(0)
        known: Tensor | None = view.state.looks
        earlier = image_mass[:, None][:, :0] if known is None else known
        view.state.looks = torch.cat([earlier, image_mass[:, None]], 1)
        held = earlier[:, :WINDOW] if self.window == "first" else earlier[:, 1 - WINDOW :]
        return image_mass < held.mean(1)

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        visual = [sum(counts) for counts in generation.visual.per_image()]
        state: IMCCDState = generation.state
        effects = [{**state.effects(), "visual_tokens": own} for own in visual]
        if state.gated is None:
            return effects
        return [{**one, "gated": n} for one, n in zip(effects, state.gated.tolist(), strict=True)]


@dataclass(frozen=True)
class Blurred(Method):
    """The edit of IMCCD's contrastive branch; never attached by itself."""

    hooks: ClassVar[frozenset[str]] = frozenset({"attention"})

    def disabled(self) -> "Blurred":
        return self

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        return frozenset(range(1, target.depth + 1))

    def attention(self, view: AttentionView) -> AttentionEdit | None:
        state: BlurState = view.state
        key = closed_up(view, state.closing)
        scores = view.scores_of(key)
        image_mass, share = looked_at(view, scores.shape[1])
        strong = image_mass & (scores > (scores * share).sum((1, 2, 3), keepdim=True))
        weak = scores.softmax(-1).masked_fill(strong, 0)
        if view.layer not in state.blur:
            state.blur[view.layer] = mean_value(view, scores.shape[1])
        blur = state.blur[view.layer]
        return AttentionEdit(output=torch.addcmul(view.weighted(weak), 1 - weak.sum(-1, keepdim=True), blur))


def looked_at(view: AttentionView, heads: int) -> tuple[Bool[Tensor, "b 1 r k"], Float[Tensor, "b 1 r k"]]:
    """Image keys that a real text row may see, and their weight in the mean over heads, rows and keys; once a pass."""

    def make() -> tuple[Tensor, Tensor]:
        image_mass = image[:, None, None]
        if mask is not None:
            image_mass = image_mass & (mask > torch.finfo(mask.dtype).min / 2)
        if view.rows.valid is not None:
            image_mass = image_mass & view.rows.valid[:, None, :, None]
        return image_mass, image_mass.float() / (heads * image_mass.sum((1, 2, 3), keepdim=True)).clamp(min=1)

    image, mask = view.visual_keys(), view.row_mask
    return view.once(make, "looks", image, mask)


def mean_value(view: AttentionView, heads: int) -> Float[Tensor, "b h 1 1"]:
    """v_h of each query head."""
    valid = view.visual.valid
    held = view.visual_of(view.value).float() * valid[:, None, :, None]
    mean = held.mean(-1).sum(-1) / valid.sum(1, keepdim=True).clamp(min=1)
    return mean.repeat_interleave(heads // mean.shape[1], 1)[..., None, None]


def inverse_frequencies(target: "AttentionTarget") -> Tensor | None:
    """Angles a position of the decoder's rotary embedding; None where it has another kind of positions."""
    return getattr(getattr(target.stack, "rotary_emb", None), "inv_freq", None)


def turning(visual: "Visual", rate: float, frequencies: Float[Tensor, " f"]) -> tuple[Tensor, Tensor]:
    """cos and sin, (b, 1, v, 2 f), of the turn from a visual token's position to its closed-up one."""
    member = torch.nn.functional.one_hot(visual.image, max(visual.images, 1)) * visual.valid[..., None]
    place = (member.cumsum(1) * member).sum(-1) - 1
    size = (member * member.sum(1, keepdim=True)).sum(-1)
    steps = (1 - rate) * (size - place).float() * visual.valid
    angles = steps[..., None] * frequencies.to(steps.device).float()
    angles = torch.cat([angles, angles], -1)[:, None]
    return angles.cos(), angles.sin()


def closed_up(view: AttentionView, closing: Closing) -> Float[Tensor, "b g k d"]:
    """The layer's keys with those of the image turned. Up to the last image they are made with the prompt and kept."""
    if closing.turn is None:
        return view.key
    kept, end = closing.closed.get(view.layer), closing.end
    window = view.columns[0] is not view.visual.index
    if kept is not None and not window:
        return torch.cat([kept, view.key[:, :, end:]], 2)
    cos, sin = closing.turn
    own = view.visual_of(view.key).float()
    first, last = own.chunk(2, -1)
    turned = (own * cos + torch.cat([-last, first], -1) * sin).to(view.dtype)
    closed = view.with_visual(view.key, turned)
    if not window:
        closing.closed[view.layer] = closed[:, :, :end].clone()
    return closed
