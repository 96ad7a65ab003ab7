"""A batch of prompts as the prepare methods read it: images encoded once, words separated from the template, copies inserted in.

Shapes: b samples, t tokens, n words, m patches (n and m of the longest sample), d width of the embeddings.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...errors import AnchorsWarning, BadImage, CannotAct
from ...models.decoder import AttentionTarget, plain_model
from ...models.vision import PIXELS, brings_pixels, encode_images, encoder_arguments, pixel_values
from ...models.vision_features import flat_features, kept, newlines, repeated
from ...models.vlm import model_and_processor
from ..call_context import CallContext
from ..token_map import Marks, mark_ids
from .anchored import ENCODED, Anchored, Encoded, Insertion, insertion_of
from .checks import checked, insertion_target
from .mrope import GRIDS, has_mrope, has_text_row, inserted_positions, original_positions
from .placements import Places, nothing, report
from .plan import Copies, Plan, insert, insert_positions, insert_tokens
from .user_tokens import allowed_words, before_answer, require_words


@dataclass(frozen=True)
class Listed:
    """Some tokens of each sample, left-justified."""

    place: Int[Tensor, "b n"]
    """Position in the sequence; 0 where `valid` is False."""
    valid: Bool[Tensor, "b n"]

    @staticmethod
    def of(mask: Bool[Tensor, "b t"]) -> "Listed":
        order = mask.logical_not().argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
        valid = mask.gather(1, order)
        return Listed(order.where(valid, 0), valid)


@dataclass(frozen=True, eq=False)
class Prompts:
    """What a prepare method sees; `inserted` makes new inputs of its decision.

    Args:
        method: Its catalogue name.
        model: The transformers model itself, out of any PEFT wrapper.
        tokenizer: None with a bare model.
        tensors: The inputs with images encoded.
        words: Tokens that may be anchors (or take them).
        patch: Visual tokens that stand for a place in the image, so no row newlines.
        patches: The same, listed by prompt: positions and which of them are real.
        features: Projected visual tokens of the whole batch.
        row: The row of `features` that a visual token shows, -1 elsewhere.
        pixels: What the vision tower was given.
    """

    method: str
    target: AttentionTarget
    model: nn.Module
    tokenizer: Any
    tensors: dict[str, Any]
    marks: Marks
    real: Bool[Tensor, "b t"]
    words: Listed
    patch: Bool[Tensor, "b t"]
    patches: Listed
    features: Float[Tensor, "rows d"]
    row: Int[Tensor, "b t"]
    pixels: Mapping[str, Any]
    strict: bool = True
    earlier: Insertion | None = None
    """What another method had done to these inputs before."""

    @property
    def ids(self) -> Int[Tensor, "b t"]:
        return self.tensors["input_ids"]

    @property
    def inner(self) -> nn.Module:
        """The model around tower, projector and decoder."""
        return self.target.outer[-1]

    def cosine(self) -> Float[Tensor, "b n m"]:
        """cos(T_n, I_m) of every word with every patch before it, in float32; -inf elsewhere."""
        table = self.model.get_input_embeddings()
        words = table(self.ids.gather(1, self.words.place)).float()
        patches = self.features[self.row.gather(1, self.patches.place)].to(words.device).float()
        cosine = _unit(words) @ _unit(patches).transpose(1, 2)
        before = self.patches.place[:, None, :] < self.words.place[:, :, None]
        allowed = before & self.patches.valid[:, None, :] & self.words.valid[:, :, None]
        return cosine.masked_fill(~allowed, -torch.inf)

    def image_of_patches(self) -> Int[Tensor, "b m"]:
        """Number of the image, counted from 0 in its sample, that each listed patch belongs to."""
        return self.marks.image.gather(1, self.patches.place)

    def row_ends(self) -> Int[Tensor, "b t"]:
        """For each visual token the last token of its row of the image."""
        return self._places().row_ends()

    def image_ends(self) -> Int[Tensor, "b t"]:
        """For each visual token the last visual token of its image."""
        place = torch.arange(self.ids.shape[1], device=self.ids.device).where(self.marks.visual, 0)
        images = place.new_zeros(len(place), int(self.marks.image.max()) + 1)
        return images.scatter_reduce(1, self.marks.image, place, "amax").gather(1, self.marks.image)

    def word_mask(self) -> Bool[Tensor, "b t"]:
        """The words as a mask of the sequence."""
        return marked(self.words.place, self.words.valid, self.ids.shape[1])

    def end(self) -> Int[Tensor, "b 1"]:
        """Position of each prompt's last token: the one before its answer, where an answer is given."""
        inside = self.real & before_answer(self.ids, self.tensors.get("labels"))
        place = torch.arange(inside.shape[1], device=inside.device)
        return place.where(inside, 0).amax(1, keepdim=True)

    def inserted(
        self, copies: Copies, of_patch: bool, say: Callable[[], list[dict[str, Any]]] | None = None
    ) -> Anchored:
        """New inputs with the copies in them, and without what is removed.

        Args:
            copies: What is copied where.
            of_patch: Patches are copied, not words.
            say: What to report of each sample; None = the anchors.
        """
        places = self._places()
        say = say or (lambda: report(places, copies, of_patch))
        if not copies.change:
            if copies.chosen.numel():
                self._say_nothing_found(copies)
            own = torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)
            originals = own if self.earlier is None else self.earlier.originals
            return self._riding(self.tensors, kept(self.tensors[ENCODED]), self.marks, originals, say)
        plan = insert(self.ids.shape[1], copies, _pads_left(self.tensors.get("attention_mask")))
        tensors = insert_tokens(plan, self.tensors, _pad_id(self.model.config, self.target.visual_ids))
        real = plan.take(self.real.long(), plan.host).bool() & ~plan.fill
        tensors.update(self._positions(plan, plan.source if of_patch else plan.host, real, copies.removed))
        rest = {name: value for name, value in self.tensors.items() if name not in _BY_TOKEN}
        pruned = copies.removed is not None and bool((copies.removed & self.marks.visual).any())
        encoded = self._repeated(plan) if of_patch or pruned else kept(self.tensors[ENCODED])
        originals = plan.originals(self.ids.shape[1])
        if self.earlier is not None:
            found = plan.slots(self.ids.shape[1]).gather(1, plan.take(self.earlier.originals, plan.source))
            originals = found.where((found >= 0) & ~plan.copy & ~plan.fill, originals)
        return self._riding({**rest, **tensors}, encoded, _inserted_marks(self.marks, plan), originals, say)

    def _say_nothing_found(self, copies: Copies) -> None:
        """Where the cosine is low throughout, nothing is inserted: a user must hear of it, a training run not each step."""
        if not self.strict:
            return
        best = float(copies.cosine.max()) if copies.cosine.numel() else -torch.inf
        why = f"no word of these prompts resembles a patch enough (best cosine {best:.2f}). Lower tau; va.calibrate finds one"
        if best == -torch.inf:
            why = "every word of these prompts stands before the image. Put the image first"
        warnings.warn(f"{self.method} inserted nothing: {why}.", AnchorsWarning, stacklevel=5)

    def _places(self) -> Places:
        sides = {
            name: self.tensors[name] for name in (*GRIDS.values(), "image_sizes") if self.tensors.get(name) is not None
        }
        return Places(self.ids, self.marks, self.patch, sides, self.model.config, self.tokenizer)

    def _riding(
        self, tensors: Mapping[str, Any], encoded: dict[str, Any], marks: Marks, originals: Int[Tensor, "b s"], say: Any
    ) -> Anchored:
        inserted = Insertion(self.method, marks, originals, self.pixels, say, self.earlier)
        return Anchored({**tensors, ENCODED: Encoded(encoded, inserted)}, lambda: inserted.effects)

    def _positions(
        self, plan: Plan, at: Int[Tensor, "b s"], real: Bool[Tensor, "b s"], removed: Bool[Tensor, "b t"] | None
    ) -> dict[str, Tensor]:
        if has_mrope(self.inner):
            original = original_positions(self.inner, self.tensors, self._kinds())
            # A patch keeps its place in the image whoever else is there; words close up.
            closed = None if removed is None else removed & ~self.marks.visual
            text_row = has_text_row(self.model, self.tensors, self._kinds(), len(original))
            return {"position_ids": inserted_positions(self.inner, plan, original, at, real, closed, text_row)}
        if self.tensors.get("position_ids") is None:
            return {}
        return {"position_ids": insert_positions(plan, self.tensors["position_ids"], plan.host, plan.copy, removed)}

    def _kinds(self) -> Int[Tensor, "b t"]:
        kinds = torch.zeros_like(self.ids)
        for one, modality in zip(self.target.visual_ids, self.target.modalities, strict=True):
            kinds = kinds.masked_fill(self.ids == one, list(PIXELS).index(modality) + 1)
        return kinds

    def _repeated(self, plan: Plan) -> dict[str, Any]:
        """The encoded images with a row more for every copied patch."""
        rows, counts = {}, {}
        for one, modality in _encoded_by(self.target, self.tensors[ENCODED]):
            mine = self.ids == one
            number = (mine.flatten().cumsum(0) - 1).view_as(mine)
            slots = plan.take(mine.long(), plan.source).bool() & ~plan.fill & (plan.source >= 0)
            rows[modality], counts[modality] = plan.take(number, plan.source)[slots], slots.sum(1).tolist()
        return repeated(self.tensors[ENCODED], rows, counts)


_BY_TOKEN = ("attention_mask", "labels", "token_type_ids", "mm_token_type_ids", "position_ids")


def read_prompts(
    method: str,
    vlm: Any,
    inputs: Mapping[str, Any],
    tokens: str = "user",
    anchorable: Tensor | None = None,
    labels: Tensor | None = None,
    strict: bool = True,
    target: AttentionTarget | None = None,
    again: bool = False,
) -> Prompts | None:
    """Reads a batch; every image is encoded here, once.

    Args:
        method: Catalogue name of the method that inserts.
        vlm: A `Vlm`, a (model, processor) pair or a model.
        inputs: What the processor returned.
        tokens: "user" for the user's words, "all" for the template's as well.
        anchorable: Which tokens may be anchors; None: by `tokens`.
        labels: Given answers, which are never copied; None: none.
        strict: Raise where nothing can be inserted. False (training on mixed data): return None.
        target: What `insertion_target` found, for a caller that comes again and again.
        again: Whether another method may have prepared the inputs before.
    """
    network, processor = model_and_processor(vlm)
    base = plain_model(network)
    tokenizer = None if processor is None else processor.tokenizer
    target = target or insertion_target(method, vlm)
    tensors = checked(method, dict(inputs), labels, again)
    earlier = insertion_of(tensors.get(ENCODED))
    has_images = brings_pixels(tensors) or tensors.get(ENCODED)
    if not has_images or not any((tensors["input_ids"] == one).any() for one in target.visual_ids):
        if not strict:
            return None
        raise BadImage(
            f"{method} needs an image; found none in these inputs. Pass all that the processor returned for one."
        )
    inner = target.outer[-1]
    shown: dict[str, Any] = {}
    for modality in PIXELS:
        if pixel_values(tensors, modality) is not None:
            shown |= encoder_arguments(inner, modality, tensors)
    # Inputs prepared for a model that only answers need no graph of its vision tower; a hook in training does.
    with torch.set_grad_enabled(torch.is_grad_enabled() and (base.training or not strict)):
        tensors = encode_images(target.outer[-1], tensors)
    ids, mask = tensors["input_ids"], tensors.get("attention_mask")
    pixels: Mapping[str, Any] = earlier.pixels if earlier else shown
    marks = earlier.marks if earlier else mark_ids(target, ids, CallContext(mm_encoder_outputs=tensors[ENCODED]))
    real = torch.ones_like(marks.visual) if mask is None else mask.bool()
    features, row = _features(target, ids, tensors[ENCODED])
    patch = marks.visual & ~newlines(target.outer[-1], features)[row.clamp(min=0)]
    words = allowed_words(
        method, processor, base.config, tensors, real & ~marks.visual & ~marks.delimiters, tokens, anchorable
    )
    if strict:
        require_words(method, words, marks.visual)
    elif not words.any():
        return None
    return Prompts(
        method, target, base, tokenizer, tensors, marks, real, Listed.of(words), patch, Listed.of(patch), features, row,
        pixels, strict, earlier,
    )  # fmt: skip


def marked(place: Int[Tensor, "b c"], chosen: Bool[Tensor, "b c"], length: int) -> Bool[Tensor, "b t"]:
    """The chosen places as a mask of sequences of `length` tokens; a place may stand there several times."""
    counts = torch.zeros(len(place), length, dtype=torch.int8, device=place.device)
    return counts.scatter_reduce(1, place, chosen.to(torch.int8), "amax").bool()


def unprepared(method: str, inputs: Mapping[str, Any], labels: Tensor | None) -> Anchored:
    """The inputs exactly as they are, for a method that is off or has nothing to work on."""
    tensors = dict(inputs) if labels is None else {**inputs, "labels": labels}
    return Anchored(tensors, lambda: [{method: effects} for effects in nothing(len(tensors["input_ids"]))])


def _encoded_by(target: AttentionTarget, encoded: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Placeholder id -> modality whose features its tokens show. GLM-4V's videos come under the images' placeholder."""
    if len(target.visual_ids) == len(encoded) == 1:
        return [(target.visual_ids[0], next(iter(encoded)))]
    return list(zip(target.visual_ids, target.modalities, strict=True))


def _features(
    target: AttentionTarget, ids: Int[Tensor, "b t"], encoded: Mapping[str, Any]
) -> tuple[Float[Tensor, "rows d"], Int[Tensor, "b t"]]:
    """Projected visual tokens of all modalities, and which of them each token shows (-1: none)."""
    tables, row, count = [], torch.full_like(ids, -1), 0
    for one, modality in _encoded_by(target, encoded):
        mine = ids == one
        table = None if encoded.get(modality) is None else flat_features(encoded[modality])
        found = 0 if table is None else len(table)
        if found != int(mine.sum()):
            raise CannotAct(
                f"The prompts hold {int(mine.sum())} placeholders for {modality} tokens, but the {modality}s give {found}. "
                "Make both with one call of the processor, and do not truncate."
            )
        if table is not None:
            tables.append(table)
            row = torch.where(mine, (mine.flatten().cumsum(0) - 1).view_as(ids) + count, row)
            count += found
    return torch.cat(tables), row


def _inserted_marks(marks: Marks, plan: Plan) -> Marks:
    """Copies are neither visual tokens nor text rows."""
    visual, delimiters = (plan.take(mask.long(), plan.host).bool() for mask in (marks.visual, marks.delimiters))
    own = ~plan.copy & ~plan.fill
    return Marks(visual & own, plan.take(marks.image, plan.host).where(visual & own, 0), (delimiters & own) | plan.copy)


def _pads_left(mask: Tensor | None) -> bool:
    """The batch's own side; the left, which generation needs, where the batch has no padding."""
    return mask is None or not bool((mask[:, -1] == 0).any()) or bool((mask[:, 0] == 0).any())


def _pad_id(config: Any, visual_ids: tuple[int, ...]) -> int:
    text = config.get_text_config()
    for id in (text.pad_token_id, text.eos_token_id, 0):
        one = id[0] if isinstance(id, list) else id
        if isinstance(one, int) and 0 <= one < text.vocab_size and one not in visual_ids:
            return one
    return next(id for id in range(text.vocab_size) if id not in visual_ids)


def _unit(vectors: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    return nn.functional.normalize(vectors, dim=-1)
