"""A prepare method attached to a model: it runs on the inputs of every forward pass, and refuses `generate`.

`generate` fixes lengths, positions and caches before the first forward pass, so there it is too late to insert anything in:
inputs must be prepared before. In training and scoring nothing is fixed, and labels grow along.
"""

import inspect
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...errors import AnchorsWarning, CannotAct
from ...models.decoder import plain_model
from ...models.vision import brings_pixels
from ..method import Method, name_of
from ..token_map import is_one_of
from .anchored import ENCODED, Insertion, insertion_of
from .checks import insertion_target
from .placements import nothing


class InputsHook:
    """Prepare methods on one model, in the order they run.

    active: whether their handle acts in this context; None where none is attached.
    """

    def __init__(self, methods: Sequence[Method], vlm: Any, network: nn.Module, active: Callable[[], bool | None]):
        self.methods = tuple(methods)
        self.name = "+".join(map(name_of, methods))
        self.target = insertion_target(self.name, vlm)
        self._vlm = vlm
        self._active = active
        self._latest: Insertion | None = None
        self._rows = 0
        self._reported = False
        self._warned: set[int] = set()
        self._copied = False
        # Before the engine's own hook on this model, which notes token ids and labels.
        self._hook = plain_model(network).register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True)

    def remove(self) -> None:
        self._hook.remove()

    @property
    def effects(self) -> list[dict[str, Any]]:
        """What was done to the latest inputs, one dictionary a row (several rows a sample under beam search)."""
        if self._latest is None:
            return [{name_of(method): dict(effects) for method in self.methods} for effects in nothing(self._rows)]
        effects = self._latest.effects
        return [effects[row * len(effects) // self._rows] for row in range(self._rows)]

    def __deepcopy__(self, memo: dict[int, Any]) -> "InputsHook":
        """A copied model carries a copy of the hook, which does nothing."""
        copy = InputsHook.__new__(InputsHook)
        copy.__dict__.update(
            {**self.__dict__, "_vlm": None, "_active": lambda: None, "_latest": None, "_warned": set(), "_copied": True}
        )
        return copy

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        # Without keywords: a thread that was at this module while the hook was installed or removed.
        if kwargs is None or torch.compiler.is_compiling():
            return None
        acts = self._active()
        if not acts:
            if acts is None:
                self._warn_here()
            return None
        arguments = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
        ids = arguments.get("input_ids")
        if ids is None:
            raise CannotAct(f"{self.name} rewrites input_ids; found embeddings, which it cannot tell words from.")
        cache = arguments.get("past_key_values")
        warm = cache is not None and int(cache.get_seq_length()) > 0
        has_image = bool(is_one_of(ids, self.target.visual_ids).any())
        if warm and (not has_image or not _brings_images(arguments)):
            return None  # a decoding step
        self._rows, self._latest = len(ids), insertion_of(arguments.get(ENCODED))
        done = () if self._latest is None else self._latest.methods
        left = [method for method in self.methods if method.disabled() != method and name_of(method) not in done]
        if not left or not has_image:
            return None
        if not warm and _generating(arguments):
            raise CannotAct(
                f"generate cannot run {name_of(left[0])} by itself: lengths are fixed before the model is called. Use prepare: "
                f"inputs = {type(left[0]).__name__}(...).prepare(vlm, inputs), then model.generate(**inputs)."
            )
        anchored: Mapping[str, Any] = arguments
        for method in left:
            anchored = method.prepare(self._vlm, anchored, strict=False, target=self.target)
        self._latest = insertion_of(anchored.get(ENCODED))
        if self._latest is None:
            self._say_no_words(arguments)
        return (), dict(anchored)

    def _warn_here(self) -> None:
        """Once a thread: the model runs in a context that attached nothing, while another one did."""
        if threading.get_ident() not in self._warned:
            self._warned.add(threading.get_ident())
            if self._copied:
                message = f"This model was copied while {self.name} was attached; on the copy it does nothing."
                return warnings.warn(f"{message} Attach to the copy.", AnchorsWarning, stacklevel=3)
            warnings.warn(
                f"This thread (or task) runs the plain model: {self.name} was attached in another one and inserts there only. "
                "Attach inside the thread that runs the model (several cards: one process each, as torchrun starts them).",
                AnchorsWarning,
                stacklevel=3,
            )

    def _say_no_words(self, arguments: Mapping[str, Any]) -> None:
        """Training on whole conversations, prompts included, leaves no word that is not an answer: warned of once."""
        if arguments.get("labels") is not None and not self._reported:
            self._reported = True
            warnings.warn(
                f"{self.name} inserted nothing: in this batch every word of the user has a label, or stands behind one that "
                "has, and what is to be predicted is never copied. Take the loss of answers only (prompt-completion data, "
                "or assistant_only_loss=True).",
                AnchorsWarning,
                stacklevel=3,
            )


def _brings_images(arguments: Mapping[str, Any]) -> bool:
    return bool(arguments.get(ENCODED)) or brings_pixels(arguments)


def _generating(arguments: Mapping[str, Any]) -> bool:
    """Whether this is `generate`'s first forward pass: no labels, and an empty cache or images encoded ahead.

    Both are what `generate` makes itself (the second with use_cache=False as well). Someone who calls the model with an
    empty cache by hand goes on with masks of the old length, so the same sentence is right for them.
    """
    return arguments.get("labels") is None and (
        arguments.get("past_key_values") is not None or bool(arguments.get(ENCODED))
    )
