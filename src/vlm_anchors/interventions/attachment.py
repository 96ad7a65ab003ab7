"""`attach`: puts a method on one model and takes it off again.

Installed are hooks on that one model and a delegating attention name in its decoder's config; nothing is patched, and
with no method active the delegate calls the original kernel. Which method is active is context-local (a `ContextVar`),
so threads and async tasks may use different dials on one model; a thread that attached nothing runs the plain model.
"""

import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AnchorsWarning, BadModel
from ..methods.none import Plain
from ..models.decoder import Site, find_site, plain_model
from ..models.vision import PIXELS, encode_images
from ..types import Vlm
from . import prompt_pass as decoder_pass
from .attention import PREFIX, steered_name
from .call_context import Facts, current
from .composition import choose, parts_of
from .contrastive import KEYWORD, NUMBER, stop_leading
from .forward_pass import RIDER, Generation, Life, Pass, Watcher
from .hooks import BEYOND, Doors
from .insertion.inputs_hook import InputsHook
from .method import Method, name_of
from .qformer import latent_pass
from .token_map import must_encode

_active: ContextVar[tuple["Handle", ...]] = ContextVar("vlm_anchors_active", default=())
_SHUT: Any = type("Shut", (tuple,), {})()
"""No handle, on purpose: a method's second branch runs."""
_seams: "weakref.WeakKeyDictionary[nn.Module, Seam]" = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def attach(model: Any, method: Any, *, watch: Watcher | None = None, literal: bool = False) -> "Handle":
    """Put a method on a model, for generation, forward passes and training.

    model: what `va.load` returns, a transformers model (PEFT-wrapped or not), or a (model, processor) pair. method: a
    method, a SPEC (`"clva:alpha=5"`) or a list of those that compose. watch: sees every layer's attention after the
    method, changes nothing. literal: edited layers compute full attention matrices, multiply and normalise again, as the
    papers write it; for checks and benchmarks, never faster. Returns a `Handle`: use it in a `with` block, or call `.detach()`.

    The method acts in the thread (context) that attached it. An inner `with` block replaces the outer one until it
    ends. Raises `CannotAct` where the dials do not fit the model, `BadModel` where the model cannot be steered.
    """
    network, tokenizer = _parts(model)
    chosen, prepares = choose(method)
    if isinstance(chosen, Plain) and watch is None:
        return Handle(None, chosen, None).with_inputs(prepares, model, network)
    site = find_site(network, tokenizer, getattr(chosen, "site", "auto"))
    chosen.check(site)
    with _lock:
        seam = _seams.get(site.stack)
        if seam is None:
            seam = _seams[site.stack] = Seam(site)
        seam.acquire(site)
    handle = Handle(seam, chosen, watch, chosen.watched(site), literal)
    try:
        handle.open_doors(site, _processor(model))
    except BaseException:
        handle.detach()
        raise
    _active.set((*_active.get(), handle))
    return handle.with_inputs(prepares, model, network)


def _parts(model: Any) -> tuple[nn.Module, Any]:
    if isinstance(model, Vlm):
        return model.model, model.processor.tokenizer
    if isinstance(model, tuple) and len(model) == 2:
        return model[0], getattr(model[1], "tokenizer", None)
    if isinstance(model, nn.Module):
        return model, None
    raise BadModel(
        f"Expected a model, a (model, processor) pair or what va.load returns; found {type(model).__name__}."
    )


def _processor(model: Any) -> Any:
    return model.processor if isinstance(model, Vlm) else model[1] if isinstance(model, tuple) else None


@contextmanager
def _doors_shut() -> Iterator[None]:
    """A second branch: no method acts on what runs inside."""
    active, facts = _active.set(_SHUT), current.set(current.get())
    try:
        yield
    finally:
        current.reset(facts)
        _active.reset(active)


class Handle:
    """A method on a model. `acted` tells what it did; `detach()`, or the end of the `with` block, takes it off."""

    def __init__(
        self,
        seam: "Seam | None",
        method: Method,
        watcher: Watcher | None,
        watched: frozenset[int] = frozenset(),
        literal: bool = False,
    ):
        self.method = method
        self.watcher = watcher
        self.watched = watched
        self.literal = literal
        self.life = Life()
        self._seam = seam
        self._caches: list[weakref.ref[Any]] = []
        self._latest: Generation | None = None
        self._base: nn.Module | None = None
        self._inputs: InputsHook | None = None
        self._doors: Doors | None = None
        self.prompts = 0
        """How many prompts this handle's method has seen."""

    def _number(self, generation: Generation) -> None:
        if self._doors is not None:
            generation.memory[NUMBER] = self._doors.number

    def open_doors(self, site: Site, processor: Any) -> None:
        """Hook what the method needs beyond attention; nothing where it needs nothing."""
        if self.method.opened() & BEYOND:
            self._doors = Doors(self.method, site, processor, _doors_shut, current.get)

    def with_inputs(self, method: Method | None, vlm: Any, network: nn.Module) -> "Handle":
        """The handle, with a prepare method on the model's inputs as well."""
        self._base = plain_model(network)
        if method is not None:
            if self not in _active.get():
                _active.set((*_active.get(), self))
            try:
                self._inputs = InputsHook(method, vlm, network, self._is_innermost)
            except BaseException:
                self.detach()
                raise
        return self

    def _is_innermost(self) -> bool:
        return next((handle for handle in reversed(_active.get()) if handle._base is self._base), None) is self

    @property
    def acted(self) -> list[dict[str, Any]]:
        """What the method did, one dictionary a row of the latest prompt: `{"clva": {...}}`."""
        before = [] if self._inputs is None else self._inputs.acted
        inside = self._acted_inside()
        return (
            [{**one, **two} for one, two in zip(before, inside, strict=True)] if before and inside else before or inside
        )

    def _acted_inside(self) -> list[dict[str, Any]]:
        generation = self._latest
        if generation is None or generation.prompt is None:
            return []
        assert generation.prompt.valid is not None
        generation.count_steps()
        edited, seeing = generation.prompt.valid.sum(1).tolist(), generation.visual.valid.any(1).tolist()
        told: list[dict[str, Any]] = [{} for _ in edited]
        for part in parts_of(self.method):
            edits = self.watched and "attention" in part.opened()
            for one, rows, sees, what in zip(told, edited, seeing, part.acted(generation), strict=True):
                done = {"rows_edited": (rows + generation.steps) if edits else 0, **what}
                one[name_of(part)] = done if sees else {"rows_edited": 0}
        return told

    def began(self, generation: Generation, cache: Any) -> None:
        self._latest = generation
        self.prompts += 1
        self._number(generation)
        if cache is not None:
            self.ride(generation, cache)

    def follow(self, generation: Generation, cache: Any) -> None:
        """A prompt that goes on from a cache this method rides on (a reused prefix, a later turn)."""
        if generation.method is self.method:
            self._latest = generation
            self.ride(generation, cache)

    def ride(self, generation: Generation, cache: Any) -> None:
        """Put a generation on its cache, and remember the cache, so that detaching can take it off."""
        self._number(generation)
        setattr(cache, RIDER, generation)
        self._caches = [ref for ref in self._caches if ref() is not None]
        self._caches.append(weakref.ref(cache))

    def detach(self) -> None:
        """Take the method off; harmless when it is off already."""
        if self._inputs is not None:
            self._inputs.remove()
        # Another thread may detach: the attaching one then keeps the entry, which must shadow nothing.
        self._base = None
        _active.set(tuple(handle for handle in _active.get() if handle is not self))
        if self._seam is None:
            return
        seam, self._seam = self._seam, None
        self.life.on = False
        if self._latest is not None:
            self._latest.settle_steps()
        for ref in self._caches:
            cache = ref()
            if cache is not None and hasattr(cache, RIDER):
                delattr(cache, RIDER)
                stop_leading(cache)
        if self._doors is not None:
            self._doors.close()
        current.set(None)
        seam.release()
        if self.prompts == 0 and seam.ran_elsewhere:
            warnings.warn(
                "The model ran only in threads that had not attached the method, so nothing was changed: "
                "attach inside the thread that runs the model.",
                AnchorsWarning,
                stacklevel=2,
            )

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *exc: object) -> None:
        self.detach()

    def serves(self, seam: "Seam") -> bool:
        return self._seam is seam


class Seam:
    """The hooks on one model and the attention name in its decoder's config; counted, so several handles share it."""

    def __init__(self, site: Site):
        self.site = site
        self.users = 0
        self.ran_elsewhere = False
        self._hooks: list[Any] = []
        self._name = site.config._attn_implementation
        self._replayable = 0

    def acquire(self, site: Site) -> None:
        if self.users == 0:
            self.site, self.ran_elsewhere = site, False
            if not site.config._attn_implementation.startswith(PREFIX):
                self._name = site.config._attn_implementation
            site.config._attn_implementation_internal = steered_name(self._name)
            for module in site.outer:
                self._hooks.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
                self._hooks.append(module.register_forward_hook(self._leave, always_call=True))
            steer = self._steer_latents if site.kind == "qformer" else self._steer
            self._hooks.append(site.stack.register_forward_pre_hook(steer, with_kwargs=True))
            if site.kind == "decoder":
                self._hooks.append(site.stack.register_forward_hook(self._after, with_kwargs=True))
            if site.visual_features is not None:
                self._hooks.append(site.visual_features.register_forward_hook(self._note_features))
        self.users += 1

    def release(self) -> None:
        with _lock:
            self.users -= 1
            if self.users == 0:
                for hook in self._hooks:
                    hook.remove()
                self._hooks.clear()
                self._restore()

    def _forget(self) -> None:
        with _lock:
            self._replayable -= 1
            self._restore()

    def _restore(self) -> None:
        """Give the config its kernel's name back.

        Not while a pass may still be replayed by gradient checkpointing after the block: the replay must find the same
        function. The delegate changes nothing in the meantime.
        """
        with _lock:
            if self.users == 0 and not self._replayable:
                self.site.config._attn_implementation_internal = self._name

    def __deepcopy__(self, memo: dict[int, Any]) -> "Seam":
        """A copied model carries copies of the hooks; they find no active handle and do nothing."""
        copy = Seam.__new__(Seam)
        copy.site, copy.users, copy.ran_elsewhere, copy._hooks, copy._name = self.site, 0, False, [], self._name
        copy._replayable = 0
        return copy

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch.compiler.is_compiling():
            return None
        new = encode_images(self.site.outer[-1], kwargs) if self._images_touch(args, kwargs) else None
        current.set(Facts.seen(current.get(), module, args, kwargs if new is None else new))
        return None if new is None else (args, new)

    def _images_touch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Raw images of which only the vision tower's output tells where one ends, and a method that wants to know."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        raw = any(kwargs.get(pixels) is not None for pixels in PIXELS.values())
        return raw and self._handle() is not None and must_encode(self.site, ids, kwargs)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not torch.compiler.is_compiling():
            facts = current.get()
            current.set(None if facts is None else facts.outer)

    def _steer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache: Any = kwargs.get("past_key_values")
        generation: Generation | None = getattr(cache, RIDER, None)
        if generation is not None and not generation.life.on:
            # A copy made while a handle that is gone was attached: nobody's any more.
            delattr(cache, RIDER)
            generation = None
        tokens: Any = kwargs.get("inputs_embeds")
        tokens = kwargs.get("input_ids") if tokens is None else tokens
        one = tokens is not None and tokens.shape[1] == 1
        # A static cache that was reset keeps its rider; its next token begins a prompt.
        later = generation is not None and one and (generation.begun or torch.compiler.is_compiling())
        if generation is not None and later and (torch.compiler.is_compiling() or cache.get_seq_length()):
            steering: Pass | None = decoder_pass.step(generation, self.site, cache, len(tokens))
        elif torch.compiler.is_compiling():
            steering = None
        else:
            steering = self._prompt(generation, cache, args, kwargs)
            if steering is not None and module.training and torch.is_grad_enabled():
                with _lock:
                    self._replayable += 1
                weakref.finalize(steering, self._forget).atexit = False
        return (args, {**kwargs, KEYWORD: steering}) if steering is not None else None

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A cache that the decoder made itself gets its generation after the fact."""
        steering = kwargs.get(KEYWORD)
        if torch.compiler.is_compiling() or steering is None:
            return
        cache, handle = getattr(output, "past_key_values", None), self._handle()
        steering.generation.note_length(cache)
        if cache is not None and handle is not None and kwargs.get("past_key_values") is None:
            handle.ride(steering.generation, cache)

    def _steer_latents(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handle = self._handle()
        if handle is None:
            return None
        return args, {**kwargs, KEYWORD: latent_pass(handle, self.site, kwargs)}

    def _note_features(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Outside a call of the model itself (`generate`), there is no frame to note in: make one."""
        current.set(replace(current.get() or Facts(), projected=output))

    def _prompt(self, generation: Generation | None, cache: Any, args: Any, kwargs: dict[str, Any]) -> Pass | None:
        handle = self._handle()
        if handle is None:
            if generation is not None:
                delattr(cache, RIDER)
            return None
        return decoder_pass.prompt(handle, self.site, generation, cache, current.get(), args, kwargs)

    def _handle(self) -> Handle | None:
        """The innermost handle of this context that serves this model."""
        for handle in reversed(_active.get()):
            if handle.serves(self):
                return handle
        self.ran_elsewhere |= _active.get() is not _SHUT
        return None


__all__ = ["Handle", "attach", "plain_model"]
