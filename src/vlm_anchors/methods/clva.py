"""CLVA: cross-layer visual anchors.                                                       arXiv 2603.25088

Deep layers drift away from the image. Their attention to visual tokens is re-anchored: towards what the visually
sensitive heads of a middle layer saw, away from what the insensitive heads of the first layer saw.

    Phi_h     = mean over text rows i of sum over visual keys j of A_h(i, j)                       (Eq. 1)
    H+ , H-   = heads with Phi_h > mu + lam sigma , Phi_h < mu - lam sigma  (mu, sigma over heads)  (Eq. 2, 3)
    M         = mean over the heads of the set of A_h(last row, j)                                 (Eq. 4)
    Z         = [ M - mu_j > tau sigma_j ]  (over the visual tokens of an image)                   (Eq. 8, 9)
    A~(i, j)  = A(i, j) (1 + alpha Z+_j - beta Z-_j), each row then normalised again               (Eq. 10, 11)

Z+ comes from H+ of layer L/2 - 2, Z- from H- of layer 1; A~ replaces A in the layers after L/2 - 2. In Q-Former models
the same happens in the Q-Former's cross-attention, rows being the latent queries (Eq. 14).

Multiplying a weight and normalising its row again is adding a logarithm before the softmax, so the edit is one bias per
visual key, shared by all deep layers. tests/reference_clva.py holds the equations with full matrices; this file is
tested equal to it. Where the paper is silent the choice is a parameter whose default is ours (docs/methods.md).
"""

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import AnchorsWarning, CannotAct
from ..interventions.attention_view import AttentionEdit, AttentionView
from ..interventions.method import Method, Preset
from ..parameters import INF, parameter

if TYPE_CHECKING:
    from ..interventions.forward_pass import Generation
    from ..interventions.text_rows import Visual
    from ..models.decoder import AttentionTarget

ZERO = 1e-30
"""Stands for a factor of 0: far below float32's resolution of any row that has other keys, yet it has a logarithm."""


@dataclass
class CLVAState:
    """Of one generation: the anchors found last, for `refresh="prompt"`."""

    positive: Float[Tensor, "b s v"] | None = None
    negative: Float[Tensor, "b s v"] | None = None


@dataclass
class CLVAPassState(CLVAState):
    """Of one forward pass: its anchors, the heads they came from, and the edit that all deep layers share."""

    sensitive: Bool[Tensor, "b h s"] | None = None
    insensitive: Bool[Tensor, "b h s"] | None = None
    edit: AttentionEdit | None = None


@dataclass(frozen=True)
class CLVA(Method):
    """Cross-layer visual anchors (arXiv 2603.25088). Layers count from 1.

    Args:
        alpha: Pull towards positive anchors, factor 1 + alpha; 0 = off (Table 4 uses 14).
        beta: Push away from negative anchors, factor 1 - beta, clamped at 0; 0 = off.
        lam: How many sigmas a head's intensity must stand out (Eq. 2, 3).
        tau: How many sigmas a visual token's saliency must stand out (Eq. 8, 9).
        positive_layer: Where positive anchors come from; None = max(2, L/2 - 2).
        negative_layer: The same for negative ones.
        layers: (first, last) layer that is edited; None = every layer after `positive_layer`.
        normalise: "row" lets visual mass grow at language's expense; "visual" keeps each row's visual mass (slower).
        refresh: "step" finds anchors anew at every forward pass, "prompt" once.
        empty: When no head stands out, take the most "extreme" one or "skip" the anchor.
        heads: "sigma" (Eq. 2, 3), "all", or "concentration", which ranks heads by 1 - H(M_h)/log n instead of Phi.
        gain: "anchors" (Eq. 10), or "average": 1 + (alpha - beta) times the mean over heads of per-head anchors of
            the middle layer (Eq. 15).
        places: Anchors as "found", or as many at "random" places drawn from `seed` (a control).
        images: z-score within "each" image or over "all" visual tokens.
        rows: Text rows are those "after" the first visual token, or "all" that are not visual.
        target: "auto", or "decoder" to edit a Q-Former model's language model instead (the paper's appendix B.1).
        latents: Of a Q-Former's rows take the "mean", or the "last" one.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"attention"})
    presets: ClassVar[tuple[Preset, ...]] = (Preset("any", "any", "paper", {"alpha": 14.0, "beta": 0.9}),)

    alpha: float = parameter(
        14.0, -INF, slider=(0, 50, 0.5), senseless=(("<", 0, "takes attention from the anchors it should strengthen"),)
    )
    beta: float = parameter(
        0.9,
        -INF,
        slider=(0, 1, 0.05),
        senseless=(
            ("<", 0, "strengthens the negative anchors it should weaken"),
            (">", 1, "takes more from negative anchors than they have, so their weight is negative"),
        ),
    )
    lam: float = parameter(1.0, 0, slider=(0, 3, 0.1))
    tau: float = parameter(2.0, 0, slider=(0, 4, 0.1))
    positive_layer: int | None = parameter(None, 1, whole=True, optional=True)
    negative_layer: int = parameter(1, 1, whole=True)
    layers: tuple[int, int] | None = parameter(None, layers=True, optional=True)
    normalise: str = parameter("row", choices=("row", "visual"))
    refresh: str = parameter("step", choices=("step", "prompt"))
    empty: str = parameter("extreme", choices=("extreme", "skip"))
    heads: str = parameter("sigma", choices=("sigma", "all", "concentration"))
    gain: str = parameter("anchors", choices=("anchors", "average"))
    places: str = parameter("found", choices=("found", "random"))
    images: str = parameter("each", choices=("each", "all"))
    rows: str = parameter("after", choices=("after", "all"))  # type: ignore[misc]
    target: str = parameter("auto", choices=("auto", "decoder"))  # type: ignore[misc]
    latents: str = parameter("mean", choices=("mean", "last"))
    seed: int = parameter(0, 0, 2**63 - 1, whole=True)

    @property
    def leaves_prefix_alone(self) -> bool:
        return self.rows == "after"

    def disabled(self) -> "CLVA":
        return replace(self, alpha=0.0, beta=0.0)

    def positive(self, depth: int) -> int:
        """The middle layer: L/2 - 2, at least 2 (14 of 32)."""
        return self.positive_layer or max(2, depth // 2 - 2)

    def edited(self, depth: int) -> range:
        """Layers whose attention is edited."""
        first, last = self.layers or (self.positive(depth) + 1, depth)
        return range(first, last + 1)

    def check(self, target: "AttentionTarget") -> None:
        if target.depth < 3 and self.positive_layer is None:
            raise CannotAct(
                f"CLVA needs a middle layer and deeper ones; this model has {target.depth}. Use a deeper model, "
                f"or set positive_layer and layers."
            )
        target.require_layer(self.positive(target.depth), "positive_layer")
        target.require_layer(self.negative_layer, "negative_layer")
        if self.layers is not None:
            target.require_layer(self.layers[1], "layers")
        if not self.edited(target.depth):
            raise CannotAct(
                f"positive_layer = {self.positive(target.depth)} is the last layer, so none is left to edit. Choose an "
                f"earlier one, or the edited ones with layers=(first, last)."
            )
        first = self.edited(target.depth).start
        used = [
            (self.alpha or self.gain == "average", "positive_layer", self.positive(target.depth)),
            (self.beta and self.gain == "anchors", "negative_layer", self.negative_layer),
        ]
        for strength, name, layer in used:
            if strength and layer >= first:
                raise CannotAct(
                    f"{name} = {layer} is not before the first edited layer {first}, so its anchors would come too "
                    f"late. Choose an earlier layer, or edit later ones with layers=(first, last)."
                )

    def check_prompt(self, visual: "Visual") -> None:
        """No token of n can lie more than sqrt(n - 1) sigmas above the mean."""
        alone = self.images == "each"
        counted = [n for counts in visual.per_image() for n in (counts if alone else [sum(counts)])]
        fewest = min(filter(None, counted), default=0)
        if 0 < fewest <= 1 + self.tau**2:
            warnings.warn(
                f"An image with {fewest} visual tokens can have no anchor at tau = {self.tau:g} (it takes more than "
                f"1 + tau^2 of them), so CLVA leaves it as it is: lower tau.",
                AnchorsWarning,
                stacklevel=2,
            )

    def new_state(self) -> CLVAState:
        return CLVAState()

    def new_pass_state(self) -> CLVAPassState:
        return CLVAPassState()

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        if not self.alpha and not self.beta:
            return frozenset()
        anchors = {self.positive(target.depth)} if self.alpha or self.gain == "average" else set()
        if self.beta and self.gain == "anchors":
            anchors.add(self.negative_layer)
        return frozenset(anchors | set(self.edited(target.depth)))

    def attention(self, view: AttentionView) -> AttentionEdit | None:
        middle = self.positive(view.depth)
        if view.layer == self.negative_layer and self.beta and self.gain == "anchors":
            self._remember(view, "negative", lambda: self.anchors(view, sensitive=False))
        if view.layer == middle and (self.alpha or self.gain == "average"):
            find = self.average_anchors if self.gain == "average" else self.anchors
            self._remember(view, "positive", lambda: find(view))
        if view.layer not in self.edited(view.depth):
            return None
        now: CLVAPassState = view.pass_state
        if now.edit is None:
            now.edit = AttentionEdit(bias=self._bias(view))
        edit = now.edit
        return self._keep_visual_mass(view, edit) if self.normalise == "visual" else edit

    def _remember(self, view: AttentionView, name: str, find: Any) -> None:
        """Find anchors once a pass, or once a generation; a hard threshold carries no gradient."""
        now, state = view.pass_state, view.state
        if getattr(now, name) is None:
            found = getattr(state, name) if self.refresh == "prompt" else None
            if found is None:
                with torch.no_grad():
                    found = find()
            setattr(now, name, found)
        setattr(state, name, getattr(now, name))

    def anchors(self, view: AttentionView, sensitive: bool = True) -> Float[Tensor, "b s v"]:
        """Eq. 1-4 and 8-9: 1 at anchors, 0 elsewhere."""
        weights = view.weights()
        chosen = self.head_set(view, sensitive)
        setattr(view.pass_state, "sensitive" if sensitive else "insensitive", chosen)
        row = self._latent(view, view.anchor_row(weights))
        # The sum stands for the mean of Eq. 4: Z does not depend on M's scale.
        saliency = (row * chosen[..., None]).sum(1)
        found = self.standing_out(view, saliency)
        if self.empty == "skip":
            found = found & chosen.any(1)[..., None]
        if self.places == "random":
            found = at_random(found, view.visual, self.seed)
        return found.to(weights.dtype)

    def average_anchors(self, view: AttentionView) -> Float[Tensor, "b s v"]:
        """Eq. 15: anchors of each head by itself, averaged over the heads; a dense gain in [0, 1]."""
        row = self._latent(view, view.anchor_row(view.weights()))
        b, h, s, v = row.shape
        found = self.standing_out(view, row.reshape(b, h * s, v))
        return found.reshape(b, h, s, v).to(row.dtype).mean(1)

    def standing_out(self, view: AttentionView, saliency: Float[Tensor, "b s v"]) -> Bool[Tensor, "b s v"]:
        """Eq. 8-9 on one saliency map."""
        if view.full:
            sigma, mean = torch.std_mean(saliency, -1, correction=0, keepdim=True)
            return saliency - mean > self.tau * sigma
        return z_mask(saliency, view.visual, view.visible, self.tau, self.images)

    def head_set(self, view: AttentionView, sensitive: bool) -> Bool[Tensor, "b h s"]:
        """Eq. 1-3: the heads that stand out, per sample."""
        intensity = self._intensity(view)
        if self.heads == "all":
            return torch.ones_like(intensity, dtype=torch.bool)
        sigma, mean = torch.std_mean(intensity, 1, correction=0, keepdim=True)
        above = intensity - mean if sensitive else mean - intensity
        chosen = above > self.lam * sigma
        if self.empty == "skip":
            return chosen
        extreme = torch.zeros_like(chosen).scatter_(1, above.argmax(1, keepdim=True), True)
        return torch.where(chosen.any(1, keepdim=True), chosen, extreme)

    def _intensity(self, view: AttentionView) -> Float[Tensor, "b h s"]:
        if self.heads == "concentration" or view.only_visual:
            row = self._latent(view, view.anchor_row(view.weights()))
            shares = row / row.sum(-1, keepdim=True).clamp(min=1e-30)
            count = view.visible.sum(1).clamp(min=2)[:, None, None].to(row.dtype)
            return 1 + torch.xlogy(shares, shares).sum(-1) / count.log()
        mass = view.weights().sum(-1)
        if view.latents and self.latents == "last":
            return mass[..., -1:]
        return view.row_mean(mass)

    def _latent(self, view: AttentionView, rows: Float[Tensor, "b h r v"]) -> Float[Tensor, "b h s v"]:
        """A Q-Former has no last row: the mean over its latent queries stands for it (or the last latent)."""
        if not view.latents:
            return rows
        return rows[:, :, -1:] if self.latents == "last" else rows.mean(2, keepdim=True)

    def _bias(self, view: AttentionView) -> Float[Tensor, "b 1 s v"]:
        """log f of Eq. 10. A factor of 0 or less becomes `ZERO`: the key is gone, but a row of such keys keeps its shape."""
        with torch.no_grad():
            now = view.pass_state
            if self.gain == "average":
                factor = 1 + (self.alpha - self.beta) * now.positive
            else:
                pull = self.alpha * now.positive if self.alpha else 0.0
                factor = 1 + pull - (self.beta * now.negative if self.beta else 0.0)
            return factor.clamp(min=ZERO).log()[:, None]

    def _keep_visual_mass(self, view: AttentionView, edit: AttentionEdit) -> AttentionEdit:
        """`normalise="visual"`: scale the visual keys' factors so that each row's visual mass stays what it was."""
        assert edit.bias is not None
        weights = view.weights()
        grown = (weights * edit.bias.exp()).sum(-1, keepdim=True)
        kept = (weights.sum(-1, keepdim=True) / grown.clamp(min=1e-30)).clamp(min=1e-30).log()
        return AttentionEdit(bias=edit.bias + kept)

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        visual = generation.visual
        now: CLVAPassState = generation.prompt_state
        edited = self.edited(generation.depth)
        effects: list[dict[str, Any]] = [{} for _ in visual.valid]
        for sign in ("positive", "negative"):
            anchors = getattr(now, sign)
            if anchors is not None:
                found = (anchors > 0).any(1)
                for sample, counts in enumerate(visual.per_image(found)):
                    effects[sample].setdefault("anchors", {})[sign] = counts
        layers = {"sensitive": self.positive(generation.depth), "insensitive": self.negative_layer}
        for name, layer in layers.items():
            found = getattr(now, name)
            for sample, heads in enumerate(() if found is None else found[..., 0]):
                chosen = (heads.nonzero()[:, 0] + 1).tolist()
                effects[sample][f"{name}_heads"] = {"layer": layer, "heads": chosen}
        for one in effects:
            one["layers"] = [edited.start, edited.stop - 1]
        return effects


def z_mask(
    saliency: Float[Tensor, "b s v"], visual: "Visual", visible: Bool[Tensor, "b v"], tau: float, images: str = "each"
) -> Bool[Tensor, "b s v"]:
    """Eq. 8-9: M - mu > tau sigma, per image; no division, so a flat map gives no anchor."""
    image = visual.image if images == "each" else torch.zeros_like(visual.image)
    member = torch.nn.functional.one_hot(image, visual.images if images == "each" else 1)
    member = (member * visible[..., None]).to(saliency.dtype)
    count = member.sum(1)[:, None].clamp(min=1)
    back = member.transpose(1, 2)
    centred = saliency - ((saliency @ member) / count) @ back
    sigma = (((centred * centred) @ member) / count).sqrt() @ back
    return (centred > tau * sigma) & visible[:, None]


def at_random(found: Bool[Tensor, "b s v"], visual: "Visual", seed: int) -> Bool[Tensor, "b s v"]:
    """As many anchors in each image as were found, at places drawn from (seed, place in the sample)."""
    noise = torch.rand(found.shape[-1], generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    noise = noise.to(found.device)
    places = torch.zeros_like(found)
    for image in range(visual.images):
        inside = (visual.valid & (visual.image == image))[:, None]
        wanted = (found & inside).sum(-1, keepdim=True)
        rank = noise.where(inside, 2.0).argsort(-1).argsort(-1)
        places |= inside & (rank < wanted)
    return places
