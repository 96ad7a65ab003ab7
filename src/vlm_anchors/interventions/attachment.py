"""`attach`: puts a method on one model and takes it off again.

Installed are hooks on that one model and a delegating attention name in its decoder's config; nothing is patched, and
with no method active the delegate calls the original kernel. Which method is active is context-local (a `ContextVar`),
so threads and async tasks may use different parameters on one model; a thread that attached nothing runs the plain model.
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
from ..models.decoder import AttentionTarget, find_target, plain_model
from ..models.vision import PIXELS, encode_images
from ..models.vlm import Vlm
from . import prompt_pass as decoder_pass
from .attention import PREFIX, edited_name
from .call_context import CallContext, current
from .composition import choose, parts_of
from .contrastive import KEYWORD, NUMBER, stop_following
from .forward_pass import STATE_ATTRIBUTE, ForwardState, GenerationState, Lifetime, Recorder
from .hooks import BEYOND, MethodHooks
from .insertion.inputs_hook import InputsHook
from .method import Method, name_of
from .qformer import latent_pass
from .token_map import must_encode

_active: ContextVar[tuple["Handle", ...]] = ContextVar("vlm_anchors_active", default=())
_SHUT: Any = type("Shut", (tuple,), {})()
"""No handle, on purpose: a method's contrastive branch runs."""
_attachments: "weakref.WeakKeyDictionary[nn.Module, Attachment]" = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def attach(model: Any, method: Any, *, recorder: Recorder | None = None, literal: bool = False) -> "Handle":
    """Put a method on a model, for generation, forward passes and training.

    model: what `va.load` returns, a transformers model (PEFT-wrapped or not), or a (model, processor) pair. method: a
    method, a SPEC (`"clva:alpha=5"`) or a list of those that compose. watch: sees every layer's attention after the
    method, changes nothing. literal: edited layers compute full attention matrices, multiply and normalise again, as the
    papers write it; for checks and benchmarks, never faster. Returns a `Handle`: use it in a `with` block, or call `.detach()`.

    The method acts in the thread (context) that attached it. An inner `with` block replaces the outer one until it
    ends. Raises `CannotAct` where the parameters do not fit the model, `BadModel` where the model cannot be steered.
    """
    network, tokenizer = _parts(model)
    chosen, prepares = choose(method)
    if isinstance(chosen, Plain) and recorder is None:
        return Handle(None, chosen, None).with_inputs(prepares, model, network)
    target = find_target(network, tokenizer, getattr(chosen, "target", "auto"))
    chosen.check(target)
    with _lock:
        attachment = _attachments.get(target.stack)
        if attachment is None:
            attachment = _attachments[target.stack] = Attachment(target)
        attachment.acquire(target)
    handle = Handle(attachment, chosen, recorder, chosen.attention_layers(target), literal)
    try:
        handle.install_hooks(target, _processor(model))
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
def _methods_off() -> Iterator[None]:
    """A contrastive branch: no method acts on what runs inside."""
    active, call_context = _active.set(_SHUT), current.set(current.get())
    try:
        yield
    finally:
        current.reset(call_context)
        _active.reset(active)


class Handle:
    """A method on a model. `effects` tells what it did; `detach()`, or the end of the `with` block, takes it off."""

    def __init__(
        self,
        attachment: "Attachment | None",
        method: Method,
        recorder: Recorder | None,
        attention_layers: frozenset[int] = frozenset(),
        literal: bool = False,
    ):
        self.method = method
        self.recorder = recorder
        self.attention_layers = attention_layers
        self.literal = literal
        self.lifetime = Lifetime()
        self._attachment = attachment
        self._caches: list[weakref.ref[Any]] = []
        self._latest: GenerationState | None = None
        self._base: nn.Module | None = None
        self._inputs: InputsHook | None = None
        self._hooks: MethodHooks | None = None
        self.prompts = 0
        """How many prompts this handle's method has seen."""

    def _number(self, generation: GenerationState) -> None:
        if self._hooks is not None:
            generation.memory[NUMBER] = self._hooks.number

    def install_hooks(self, target: AttentionTarget, processor: Any) -> None:
        """Hook what the method needs beyond attention; nothing where it needs nothing."""
        if self.method.active_hooks() & BEYOND:
            self._hooks = MethodHooks(self.method, target, processor, _methods_off, current.get)

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
    def effects(self) -> list[dict[str, Any]]:
        """What the method did, one dictionary a row of the latest prompt: `{"clva": {...}}`."""
        before = [] if self._inputs is None else self._inputs.effects
        inside = self._inner_effects()
        return (
            [{**one, **two} for one, two in zip(before, inside, strict=True)] if before and inside else before or inside
        )

    def _inner_effects(self) -> list[dict[str, Any]]:
        generation = self._latest
        if generation is None or generation.prompt is None:
            return []
        assert generation.prompt.valid is not None
        generation.count_steps()
        edited, seeing = generation.prompt.valid.sum(1).tolist(), generation.visual.valid.any(1).tolist()
        effects: list[dict[str, Any]] = [{} for _ in edited]
        for part in parts_of(self.method):
            edits = self.attention_layers and "attention" in part.active_hooks()
            for one, rows, sees, what in zip(effects, edited, seeing, part.effects(generation), strict=True):
                done = {"rows_edited": (rows + generation.steps) if edits else 0, **what}
                one[name_of(part)] = done if sees else {"rows_edited": 0}
        return effects

    def began(self, generation: GenerationState, cache: Any) -> None:
        self._latest = generation
        self.prompts += 1
        self._number(generation)
        if cache is not None:
            self.put_on_cache(generation, cache)

    def follow(self, generation: GenerationState, cache: Any) -> None:
        """A prompt that goes on from a cache this method rides on (a reused prefix, a later turn)."""
        if generation.method is self.method:
            self._latest = generation
            self.put_on_cache(generation, cache)

    def put_on_cache(self, generation: GenerationState, cache: Any) -> None:
        """Put a generation on its cache, and remember the cache, so that detaching can take it off."""
        self._number(generation)
        setattr(cache, STATE_ATTRIBUTE, generation)
        self._caches = [ref for ref in self._caches if ref() is not None]
        self._caches.append(weakref.ref(cache))

    def detach(self) -> None:
        """Take the method off; harmless when it is off already."""
        if self._inputs is not None:
            self._inputs.remove()
        # Another thread may detach: the attaching one then keeps the entry, which must shadow nothing.
        self._base = None
        _active.set(tuple(handle for handle in _active.get() if handle is not self))
        if self._attachment is None:
            return
        attachment, self._attachment = self._attachment, None
        self.lifetime.on = False
        if self._latest is not None:
            self._latest.settle_steps()
        for ref in self._caches:
            cache = ref()
            if cache is not None and hasattr(cache, STATE_ATTRIBUTE):
                delattr(cache, STATE_ATTRIBUTE)
                stop_following(cache)
        if self._hooks is not None:
            self._hooks.close()
        current.set(None)
        attachment.release()
        if self.prompts == 0 and attachment.ran_elsewhere:
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

    def serves(self, attachment: "Attachment") -> bool:
        return self._attachment is attachment


class Attachment:
    """The hooks on one model and the attention name in its decoder's config; counted, so several handles share it."""

    def __init__(self, target: AttentionTarget):
        self.target = target
        self.users = 0
        self.ran_elsewhere = False
        self._hooks: list[Any] = []
        self._name = target.config._attn_implementation
        self._replayable = 0

    def acquire(self, target: AttentionTarget) -> None:
        if self.users == 0:
            self.target, self.ran_elsewhere = target, False
            if not target.config._attn_implementation.startswith(PREFIX):
                self._name = target.config._attn_implementation
            target.config._attn_implementation_internal = edited_name(self._name)
            for module in target.outer:
                self._hooks.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
                self._hooks.append(module.register_forward_hook(self._leave, always_call=True))
            steer = self._inject_qformer_state if target.kind == "qformer" else self._inject_state
            self._hooks.append(target.stack.register_forward_pre_hook(steer, with_kwargs=True))
            if target.kind == "decoder":
                self._hooks.append(target.stack.register_forward_hook(self._after, with_kwargs=True))
            if target.visual_features is not None:
                self._hooks.append(target.visual_features.register_forward_hook(self._note_features))
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
                self.target.config._attn_implementation_internal = self._name

    def __deepcopy__(self, memo: dict[int, Any]) -> "Attachment":
        """A copied model carries copies of the hooks; they find no active handle and do nothing."""
        copy = Attachment.__new__(Attachment)
        copy.target, copy.users, copy.ran_elsewhere, copy._hooks, copy._name = self.target, 0, False, [], self._name
        copy._replayable = 0
        return copy

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch.compiler.is_compiling():
            return None
        new = encode_images(self.target.outer[-1], kwargs) if self._images_touch(args, kwargs) else None
        current.set(CallContext.seen(current.get(), module, args, kwargs if new is None else new))
        return None if new is None else (args, new)

    def _images_touch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Raw images of which only the vision tower's output tells where one ends, and a method that wants to know."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        raw = any(kwargs.get(pixels) is not None for pixels in PIXELS.values())
        return raw and self._handle() is not None and must_encode(self.target, ids, kwargs)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not torch.compiler.is_compiling():
            call_context = current.get()
            current.set(None if call_context is None else call_context.outer)

    def _inject_state(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache: Any = kwargs.get("past_key_values")
        generation: GenerationState | None = getattr(cache, STATE_ATTRIBUTE, None)
        if generation is not None and not generation.lifetime.on:
            # A copy made while a handle that is gone was attached: nobody's any more.
            delattr(cache, STATE_ATTRIBUTE)
            generation = None
        tokens: Any = kwargs.get("inputs_embeds")
        tokens = kwargs.get("input_ids") if tokens is None else tokens
        one = tokens is not None and tokens.shape[1] == 1
        # A static cache that was reset keeps its state on the cache; its next token begins a prompt.
        later = generation is not None and one and (generation.begun or torch.compiler.is_compiling())
        if generation is not None and later and (torch.compiler.is_compiling() or cache.get_seq_length()):
            forward_state: ForwardState | None = decoder_pass.step(generation, self.target, cache, len(tokens))
        elif torch.compiler.is_compiling():
            forward_state = None
        else:
            forward_state = self._prompt(generation, cache, args, kwargs)
            if forward_state is not None and module.training and torch.is_grad_enabled():
                with _lock:
                    self._replayable += 1
                weakref.finalize(forward_state, self._forget).atexit = False
        return (args, {**kwargs, KEYWORD: forward_state}) if forward_state is not None else None

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A cache that the decoder made itself gets its generation after the fact."""
        forward_state = kwargs.get(KEYWORD)
        if torch.compiler.is_compiling() or forward_state is None:
            return
        cache, handle = getattr(output, "past_key_values", None), self._handle()
        forward_state.generation.note_length(cache)
        if cache is not None and handle is not None and kwargs.get("past_key_values") is None:
            handle.put_on_cache(forward_state.generation, cache)

    def _inject_qformer_state(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handle = self._handle()
        if handle is None:
            return None
        return args, {**kwargs, KEYWORD: latent_pass(handle, self.target, kwargs)}

    def _note_features(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Outside a call of the model itself (`generate`), there is no frame to note in: make one."""
        current.set(replace(current.get() or CallContext(), projected=output))

    def _prompt(
        self, generation: GenerationState | None, cache: Any, args: Any, kwargs: dict[str, Any]
    ) -> ForwardState | None:
        handle = self._handle()
        if handle is None:
            if generation is not None:
                delattr(cache, STATE_ATTRIBUTE)
            return None
        return decoder_pass.prompt(handle, self.target, generation, cache, current.get(), args, kwargs)

    def _handle(self) -> Handle | None:
        """The innermost handle of this context that serves this model."""
        for handle in reversed(_active.get()):
            if handle.serves(self):
                return handle
        self.ran_elsewhere |= _active.get() is not _SHUT
        return None


__all__ = ["Handle", "attach", "plain_model"]
