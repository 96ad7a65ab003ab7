"""A prompt as a method may read it again: as it is, without its images, with other images, with other words.

Shapes: b samples, q tokens of the prompt, d width of the decoder, n visual tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...errors import CannotAct
from ...models.decoder import AttentionTarget
from ...models.vision import encoder_arguments, is_pixels, pixel_values
from ...models.vision_features import flat_features, repeated
from ...parameters import name_of
from ..call_context import CallContext, current, methods_off
from ..composition import Composition
from ..forward_pass import ForwardState, Setup
from ..forward_view import ForwardPass
from ..insertion.anchored import ENCODED, insertion_of
from ..insertion.mrope import has_mrope
from ..pass_marks import pass_marks
from ..text_rows import TextRows, prompt_rows
from ..token_map import Marks, is_one_of
from .contrastive import BranchInputs, left_padded
from .model_branch import ModelInputs, first_position, kept_tokens, shared, text_positions
from .vision_tower import encode, pixels_given_to, require_tower


class Prompt:
    """The whole prompt, just before the decoder reads it."""

    def __init__(self, view: ForwardPass, kwargs: Mapping[str, Any], past: int):
        self.view, self._kwargs, self._past = view, kwargs, past

    @property
    def target(self) -> AttentionTarget:
        return self.view.hooks.target

    @property
    def processor(self) -> Any:
        """The model's processor; None where the method was attached to a bare model."""
        return self.view.forward_state.generation.setup.processor

    @property
    def name(self) -> str:
        """Name of the method that reads it."""
        return name_of(self.view.method)

    @property
    def state(self) -> Any:
        """The method's own state of this generation."""
        return self.view.state

    @property
    def call_context(self) -> CallContext:
        return current.get() or CallContext.seen(None, self.target.stack, (), self._kwargs)

    @property
    def marks(self) -> Marks:
        """Which tokens are visual, and which are tags around or inside an image."""
        return pass_marks(self.target, self.call_context, dict(self._kwargs), self.view.embeds.shape[1])

    def need_one_piece(self) -> None:
        """Refuse a prompt of which a part was read before, for a method that changes every row of it."""
        if self._past:
            raise CannotAct(
                f"{self.name} needs the whole prompt, but this one came in pieces (prefill_chunk_size, a "
                "prefix that was kept) or ends with its image. Feed it in one piece with an empty cache, words behind the image."
            )

    def as_prompted(self) -> BranchInputs:
        """The prompt as the first branch reads it."""
        Prompt.need_one_piece(self)
        assert self.view.real is not None
        return BranchInputs(self.view.embeds, self.view.real, self._kwargs.get("position_ids"))

    def edited(self, method: Any, state: Any, rows: TextRows | None = None) -> BranchInputs:
        """The same prompt again, its attention edited in a branch of its own.

        Args:
            method: Whose edit it is, in the layers that it names.
            state: That method's state for this generation.
            rows: The rows whose attention is edited; None = the text rows.
        """
        main = self.view.forward_state
        setup = Setup(Composition((method,)), main.depth, method.attention_layers(self.target))
        own = replace(main.generation, setup=setup, states=(state,), branch=None, is_branch=True, edited_rows=None)
        own.prompt_states = own.new_pass_states()
        # Up to the first text row nothing is edited, unless the first branch's MLPs are.
        alike = self.target.family.causal_prefix and main.generation.setup.methods.at("mlp") is None
        rows = main.rows if rows is None else rows
        shared = rows.first() if alike else 0
        return replace(self.as_prompted(), forward_state=ForwardState(own, rows, own.prompt_states), shared=shared)

    def rows_from_the_image(self) -> TextRows:
        """The first visual token and every row after it, visual or not."""
        return prompt_rows(self.marks.visual.cumsum(1).bool() & self.as_prompted().real, None)

    def filler(self, value: float) -> Callable[[Bool[Tensor, "b v"]], Float[Tensor, "b q d"]]:
        """Makes the prompt's embeddings with those of chosen visual tokens, and of copies of them, set to one value.

        It may be called when the pass is over; what this prompt knows of its call is then gone.
        """
        visual, valid, embeds = self.marks.visual, self.view.visual.valid, self.as_prompted().embeds
        inserted = insertion_of(self.call_context.mm_encoder_outputs)
        originals = None if inserted is None else inserted.originals_of(len(visual)).to(visual.device)

        def fill(chosen: Bool[Tensor, "b v"]) -> Float[Tensor, "b q d"]:
            mask = torch.zeros_like(visual).masked_scatter(visual, chosen[valid])
            mask = mask if originals is None else mask.gather(1, originals)
            return embeds.masked_fill(mask[..., None], value)

        return fill

    def without_image(self) -> BranchInputs | ModelInputs:
        """The same words, no visual token and no tag around one."""
        prompt_inputs, marks = self.as_prompted(), self.marks
        keep = prompt_inputs.real & ~marks.visual & ~marks.delimiters
        if self.target.family.again or self.target.visual_features is not None:
            return left_padded(prompt_inputs, keep, self.target.family.mrope)
        tokens, real = kept_tokens(self._whole_call(), keep, self.target.known_ids)
        positions = text_positions(real, has_mrope(self.target.outer[-1]))
        return ModelInputs(tokens, real, positions + first_position(self.target.stack))

    def with_pixels(self, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> BranchInputs | ModelInputs:
        """The same prompt with other images. change: new arguments of `get_image_features`, of those that it was given."""
        if self.target.family.visual_mask:
            raise CannotAct(
                f"{self.name} changes the image before the vision tower sees it, but {self.target.family.title}'s decoder is "
                "given finished features. Use another method."
            )
        if self.target.family.again == "pixels" or self.target.visual_features is not None:
            return self.with_images(self.encode(change(self.pixels())))
        call, real = self._whole_call(), self.as_prompted().real
        encoded = call.get(ENCODED) or {}
        if encoded.get("video") is not None or pixel_values(call, "video") is not None:
            self._refuse_videos()
        if not encoded:
            given = {name: value for name, value in call.items() if value is not None}
            if not any(is_pixels(name, value) for name, value in given.items()):
                self._refuse_encoded()
            return ModelInputs(shared(change(given)), real)
        assert real is not None
        output = self._encoded_anew(encoded, change)
        return ModelInputs({**shared(call), ENCODED: {"image": self._for_batch(call["input_ids"], output)}}, real)

    def _whole_call(self) -> Mapping[str, Any]:
        """Arguments of the model's call, for a branch that the whole model reads."""
        Prompt.need_one_piece(self)
        call = self.view.arguments or {}
        ids = call.get("input_ids")
        if ids is None or ids.shape[1] != self.view.embeds.shape[1]:
            raise CannotAct(
                f"{self.name} lets {self.target.family.title} read its prompt a second time and needs input_ids; found "
                "embeddings. Pass what the processor returned."
            )
        return call

    def _encoded_anew(
        self, encoded: Mapping[str, Any], change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> Any:
        inserted, inner, noted = insertion_of(encoded), self.target.outer[-1], self.view.hooks.noted
        image = encoded.get("image")
        given = inserted.pixels if inserted else None if noted is None else noted.given_for(image)
        given = pixels_given_to(image) if given is None else given
        if given is None:
            self._refuse_encoded()
        with methods_off(), torch.no_grad():
            return inner.get_image_features(**encoder_arguments(inner, "image", change(given)), return_dict=True)

    def _for_batch(self, ids: Int[Tensor, "b q"], output: Any) -> Any:
        """New features as the batch holds them: beams repeat samples, AttAnchor repeats patches."""
        modalities = zip(self.target.visual_ids, self.target.modalities, strict=True)
        shown = is_one_of(ids, tuple(one for one, modality in modalities if modality == "image"))
        total, visual = len(flat_features(output)), self.marks.visual
        inserted = insertion_of(self.call_context.mm_encoder_outputs)
        if inserted is None and int(shown.sum()) == total:
            return output
        rows = _repeated(total, visual.sum(1).tolist())
        if rows is None:
            self._refuse_counts(int(visual.sum()), total)
        place = torch.zeros_like(ids).masked_scatter(visual, rows.to(ids.device))
        if inserted is not None:
            place = place.gather(1, inserted.originals_of(len(ids)).to(ids.device))
        counts = {"image": shown.sum(1).tolist()}
        return repeated({"image": output}, {"image": place[shown]}, counts)["image"]

    def fronts(self) -> list[list[int]]:
        """Token ids in front of the first image and its tags, one list a sample, padding left out."""
        marks, ids = self.marks, self.call_context.input_ids
        if ids is None or ids.shape[1] != self.view.embeds.shape[1]:
            raise CannotAct(f"{self.name} rewrites the prompt's words and needs input_ids.")
        before = ((marks.visual | marks.delimiters).cumsum(1) == 0) & self.as_prompted().real
        return [row[keep].tolist() for row, keep in zip(ids, before, strict=True)]

    def with_fronts(self, fronts: list[list[int]]) -> BranchInputs:
        """Other words in front of the first image. What follows keeps its distances: positions move as a whole."""
        prompt_inputs, old = self.as_prompted(), self.fronts()
        embeds, positions = [], []
        for sample, (new, front) in enumerate(zip(fronts, old, strict=True)):
            rest = int((~prompt_inputs.real[sample]).sum()) + len(front)
            ids = torch.tensor(new, dtype=torch.long, device=prompt_inputs.embeds.device)
            embeds.append(torch.cat([self.embed(ids).to(prompt_inputs.embeds), prompt_inputs.embeds[sample, rest:]]))
            if prompt_inputs.positions is not None:
                own = prompt_inputs.positions[..., sample if prompt_inputs.positions.shape[-2] > 1 else 0, rest:]
                start = torch.arange(len(new), device=own.device).expand(*own.shape[:-1], -1)
                positions.append(torch.cat([start, own + (len(new) - len(front))], -1))
        longest = max(map(len, embeds))
        pads = [longest - len(one) for one in embeds]
        real = (
            torch.arange(longest, device=prompt_inputs.embeds.device)
            >= torch.tensor(pads, device=prompt_inputs.embeds.device)[:, None]
        )
        rows = torch.stack([nn.functional.pad(one, (0, 0, pad, 0)) for one, pad in zip(embeds, pads, strict=True)])
        if not positions:
            return BranchInputs(rows, real, (real.cumsum(1) - 1).clamp(min=0))
        places = [nn.functional.pad(one, (pad, 0)) for one, pad in zip(positions, pads, strict=True)]
        return BranchInputs(rows, real, torch.stack(places, -2))

    def with_images(self, features: list[Float[Tensor, "_n d"]]) -> BranchInputs:
        """Other features in place of the visual tokens, and of copies of them; one tensor an image in reading order, as the
        tower returns them."""
        prompt_inputs, visual = self.as_prompted(), self.marks.visual
        counts = visual.sum(1).tolist()
        new = torch.cat(list(features))
        index = _repeated(len(new), counts)
        if index is None:
            self._refuse_counts(sum(counts), len(new))
        rows = new[index.to(new.device)]
        embeds = prompt_inputs.embeds.masked_scatter(visual[..., None], rows.to(prompt_inputs.embeds))
        if (inserted := insertion_of(self.call_context.mm_encoder_outputs)) is not None:
            originals = inserted.originals_of(len(embeds)).to(embeds.device)
            embeds = embeds.gather(1, originals[..., None].expand_as(embeds))
        return replace(prompt_inputs, embeds=embeds)

    def pixels(self) -> Mapping[str, Any]:
        """What the vision tower was given for this prompt's images, under the names of `get_image_features`."""
        Prompt.need_one_piece(self)
        call_context = self.call_context
        encoded, inserted = call_context.mm_encoder_outputs or {}, insertion_of(call_context.mm_encoder_outputs)
        seen: Mapping[str, Any] | None = (
            inserted.pixels if inserted else pixels_given_to(encoded.get("image")) if encoded else call_context.pixels
        )
        videos = (encoded.get("video"), call_context.pixel_values_videos, (seen or {}).get("pixel_values_videos"))
        if any(video is not None for video in videos) or not hasattr(self.target.outer[0], "get_image_features"):
            self._refuse_videos()
        if seen is None or "pixel_values" not in seen:
            self._refuse_encoded()
        return seen

    def _refuse_videos(self) -> NoReturn:
        raise CannotAct(
            f"{self.name} changes images before the vision tower sees them and has no form for videos. "
            "Ask about images, or use another method."
        )

    def _refuse_encoded(self) -> NoReturn:
        raise CannotAct(
            f"{self.name} changes the image before the vision tower sees it, but these inputs bring "
            "its output only (mm_encoder_outputs). Pass pixel_values."
        )

    def _refuse_counts(self, tokens: int, features: int) -> NoReturn:
        raise CannotAct(
            f"{self.name} changes the image, but the prompt has {tokens} visual tokens and its "
            f"images give {features}. Pass the processor's own inputs, images only."
        )

    def encode(self, prompt_inputs: Mapping[str, Any]) -> list[Float[Tensor, "_n d"]]:
        """Projected visual tokens of other inputs of the vision tower, run with all hooks shut."""
        tower = require_tower(self.target, self.name)
        with methods_off(), torch.no_grad():
            return list(encode(tower, prompt_inputs))

    def last_outputs(self, branch_inputs: BranchInputs | ModelInputs) -> Float[Tensor, "b l d"]:
        """Every layer's output for the last token of a branch, read in a pass of its own."""
        return self.view.hooks.last_outputs(branch_inputs, self.view.method)

    def embed(self, ids: Int[Tensor, "*b q"]) -> Float[Tensor, "*b q d"]:
        return self.target.stack.get_input_embeddings()(ids)


def _repeated(total: int, counts: list[int]) -> Int[Tensor, " m"] | None:
    """Which of so many features each visual token of a batch shows; None where they do not fit.

    `generate` may have expanded the batch (beams): each prompt stands there several times in a row.
    """
    tokens = sum(counts)
    if total == 0 or tokens % total or len(counts) % (tokens // total):
        return None
    times = tokens // total
    own = counts[::times]
    if sum(own) != total:
        return None
    return torch.cat([piece.repeat(times) for piece in torch.arange(total).split(own)])
