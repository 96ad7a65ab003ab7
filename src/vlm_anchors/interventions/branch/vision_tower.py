"""What a model's vision tower was given for the images of a prompt, and the tower run again on something else.

An encoded image knows its pixels: the tower's output is the key under which they are held, for as long as it lives. So
neither a run in between, nor another thread, nor a second prompt on the same handle can change whose image it is. Where
the model encodes inside its own forward pass, or hands embeddings on (Q-Former families), the pixels are noted with the
other facts of that call.
"""

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ...errors import CannotAct
from ...models.decoder import AttentionTarget
from ...models.vision_features import projected
from ..call_context import CallContext, current

TOWERS = ("vision_tower", "visual", "vision_model")
_inputs_of_output: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""The tower's `last_hidden_state` -> its arguments, under the names that `get_image_features` has for them."""


def tower_of(modules: Sequence[nn.Module]) -> tuple[nn.Module, nn.Module] | None:
    """(the module that makes image features, its vision tower), of modules from the outermost one in."""
    for module in reversed(modules):
        if hasattr(module, "get_image_features"):
            for name in TOWERS:
                if isinstance(getattr(module, name, None), nn.Module):
                    return module, getattr(module, name)
    return None


def pixels_given_to(encoded: Any) -> Mapping[str, Any] | None:
    """What the tower was given to make an entry of `mm_encoder_outputs`; None where nobody saw it."""
    output = getattr(encoded, "last_hidden_state", None)
    return _inputs_of_output.get(output) if isinstance(output, Tensor) else None


def note_pixels(encoded: Any, given: Mapping[str, Any]) -> None:
    """Note what made features that were put together outside of the tower."""
    _inputs_of_output[encoded.last_hidden_state] = dict(given)


class NotedFeatures:
    """A model's `get_image_features`, which notes what it was given for what it returned.

    `generate` calls it by itself, ahead of the model, and drops its arguments. It stands in the model's own dictionary in
    front of the class's, from `note_features` to `forget`.
    """

    NAME = "get_image_features"

    def __init__(self, model: nn.Module):
        self._model, self._known = model, WeakIdKeyDictionary()
        functools.update_wrapper(self, getattr(type(model), self.NAME).__get__(model))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(inspect.signature(self).parameters, args, strict=False)), **kwargs}
        output = self.__wrapped__(*args, **kwargs)  # type: ignore[attr-defined]
        for tensor in _tensors(output):
            self._known[tensor] = {name: value for name, value in given.items() if name != "return_dict"}
        return output

    def given_for(self, encoded: Any) -> Mapping[str, Any] | None:
        """The arguments that made these features, beams and reordered samples included."""
        return next((self._known[one] for one in _tensors(encoded) if one in self._known), None)

    def forget(self) -> None:
        if self._model.__dict__.get(self.NAME) is self:
            delattr(self._model, self.NAME)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copied model has its class's own."""
        copied = memo.get(id(self._model), self._model)
        return getattr(type(copied), self.NAME).__get__(copied)

    def __reduce__(self) -> Any:
        return getattr, (self._model, self.NAME)


def note_features(target: AttentionTarget) -> NotedFeatures | None:
    """Note what `get_image_features` is given from now on; None for a class without one."""
    model = getattr(target.outer[-1], "base_model", None) if target.outer else None
    if model is None or not hasattr(type(model), NotedFeatures.NAME):
        return None
    noted = model.__dict__[NotedFeatures.NAME] = NotedFeatures(model)
    return noted


def _tensors(output: Any) -> list[Tensor]:
    """The tensors that the fields of a tower's output hold, or begin with."""
    found = []
    for value in (getattr(output, "last_hidden_state", None), None if output is None else projected(output)):
        value = value[0] if isinstance(value, list | tuple) and value else value
        found += [value] if isinstance(value, Tensor) else []
    return found


def carry(output: Any, rows: Any, owner: Tensor) -> None:
    """`rows` is a tower's output with the row `owner` names for each sample: its pixels are known like the output's."""
    pixels_in, call_context = pixels_given_to(output), current.get()
    if pixels_in is None:
        return
    pixels = pixels_in["pixel_values"]
    _inputs_of_output[rows.last_hidden_state] = {**pixels_in, "pixel_values": pixels[owner.to(pixels.device)]}
    if call_context is not None and call_context.pixels is pixels_in:
        current.set(replace(call_context, pixels=_inputs_of_output[rows.last_hidden_state]))


class TowerHooks:
    """Notes what a vision tower (and a Q-Former) is given. Installed once a model; `hooks` are those to remove."""

    def __init__(self, model: nn.Module, tower: nn.Module):
        self._reads_questions = hasattr(model, "qformer")
        self._inert = False
        self.hooks = [tower.register_forward_hook(self._ran, with_kwargs=True)]
        if self._reads_questions:
            self.hooks.append(model.qformer.register_forward_pre_hook(self._note_question, with_kwargs=True))

    def __deepcopy__(self, memo: dict[int, Any]) -> "TowerHooks":
        """A copied model carries copies of the hooks, which do nothing."""
        copy = TowerHooks.__new__(TowerHooks)
        copy._inert = True
        return copy

    def _ran(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any = None) -> None:
        # Called without keywords by a thread that was at this module while the hook was installed or removed.
        if self._inert or not isinstance(kwargs, dict) or output is None:
            return
        pixels_in = {"pixel_values": args[0] if args else kwargs.get("pixel_values", kwargs.get("hidden_states"))}
        for name, argument in (("grid_thw", "image_grid_thw"), ("image_sizes", "image_sizes")):
            if kwargs.get(name) is not None:
                pixels_in[argument] = kwargs[name]
        if isinstance(getattr(output, "last_hidden_state", None), Tensor):
            _inputs_of_output[output.last_hidden_state] = pixels_in
        # Outside of a call, only `generate` of a Q-Former model hands nothing on but embeddings.
        if self._reads_questions or current.get() is not None:
            current.set(replace(current.get() or CallContext(), pixels=pixels_in))

    def _note_question(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
        call_context = current.get()
        if self._inert or kwargs is None or kwargs.get("input_ids") is None:
            return
        if call_context is None or call_context.pixels is None:
            return
        latents = kwargs["query_embeds"].shape[1]
        question = {
            "qformer_input_ids": kwargs["input_ids"],
            "qformer_attention_mask": kwargs["attention_mask"][:, latents:],
        }
        current.set(replace(call_context, pixels={**call_context.pixels, **question}))


def tower_hooks(modules: Sequence[nn.Module]) -> list[Any]:
    """The hooks that note what the vision tower is given; none where there is no tower that can be reached."""
    found = tower_of(modules)
    return [] if found is None else TowerHooks(*found).hooks


def require_tower(target: AttentionTarget, name: str) -> nn.Module:
    """The module that makes image features of a model; `CannotAct` where it cannot be reached."""
    found = tower_of(target.outer)
    if found is None:
        raise CannotAct(
            f"{name} changes the image, and the vision tower of this model cannot be reached. Choose another model."
        )
    return found[0]


def encode(model: nn.Module, pixels_in: Mapping[str, Any]) -> Any:
    """Projected visual tokens, one tensor an image; run it with methods off, which undoes what the hooks note."""
    wanted = inspect.signature(model.get_image_features).parameters
    known = {name: value for name, value in pixels_in.items() if name in wanted}
    return model.get_image_features(**known, return_dict=True).pooler_output
