"""`attach`, `enable`: put a method on one model and take it off again.

A model gets its hooks once, with the first method, and loses them with the last; they dispatch by context. Its decoder's
config gets a delegating attention name. Nothing is patched, and with no method active the delegate calls the original
kernel. `attach` is context-local (a `ContextVar`), so threads and async tasks may use different methods on one model;
`enable` is for every thread of the process.
"""

import os
import threading
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AnchorsWarning, CannotAct
from ..models.decoder import AttentionTarget, find_target, plain_model, refuse_split_heads
from ..models.vision import brings_pixels, encode_images
from ..models.vlm import model_and_processor
from ..parameters import known_arguments, name_of
from . import prompt_pass as decoder_pass
from .attention import PAGED, PREFIX, edited_name
from .branch.contrastive import KEYWORD
from .call_context import NO_METHOD, CallContext, active, current
from .forward_pass import STATE_ATTRIBUTE, ForwardState, GenerationState, Lifetime, Recorder, Setup
from .handle import ENABLED, DeferredInterrupt, Handle
from .hooks import ModelHooks
from .insertion.anchored import ENCODED
from .method import compose
from .qformer import latent_pass
from .token_map import must_encode

ATTACHMENT = "_vlm_anchors_attachment"
"""The attribute of a stack of layers that holds its `Attachment`, so that both are freed together."""
_lock = threading.RLock()
# A child that is forked while another thread holds the lock would wait for ever. Windows does not fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@known_arguments
def attach(model: Any, method: Any, *, recorder: Recorder | None = None, literal: bool = False) -> Handle:
    """Put a method on a model, for generation, forward passes and training, in this thread (context).

    An inner `with` block replaces the outer one until it ends; inside `attach(model, "none")` the model is the plain one.

    Args:
        model: What `va.load` returns, a transformers model (PEFT-wrapped or not), a (model, processor) pair, or a pipeline.
        method: A method, a SPEC (`"clva:alpha=5"`) or a list of those that compose.
        recorder: Sees every layer's attention after the method, changes nothing.
        literal: Edited layers compute full attention matrices, multiply and normalise again, as the papers write it; for
            checks and benchmarks, never faster.

    Returns:
        A `Handle`: use it in a `with` block, or call `.detach()`.

    Raises:
        CannotAct: The parameters do not fit the model.
        BadModel: The model cannot be steered.
    """
    with DeferredInterrupt() as interrupt:
        handle = _handle_of(model, method, recorder, literal)
        active.set((*active.get(), handle))
        if interrupt.pending:
            handle.detach()
    return handle


@known_arguments
def enable(model: Any, method: Any, *, recorder: Recorder | None = None) -> Handle:
    """Put a method on a model for every thread of this process, until `disable(model)`.

    It acts wherever no `attach` does: a thread's own `attach`, also of "none", goes before it. What was enabled before
    is replaced.

    Args:
        model: As in `attach`.
        method: As in `attach`.
        recorder: As in `attach`.

    Returns:
        The handle; `disable(model)` or its `detach()` takes it off.

    Raises:
        UserError: As `attach` does.
    """
    with DeferredInterrupt() as interrupt, _lock:
        handle = _handle_of(model, method, recorder, False)
        disable(model)
        base: Any = handle._base
        base.__dict__[ENABLED] = handle
        if handle._attachment is not None:
            handle._attachment.enabled = handle
        if interrupt.pending:
            handle.detach()
    return handle


def disable(model: Any) -> None:
    """Take off what `enable` put on; harmless where nothing is enabled. `attach`ed methods stay."""
    handle: Handle | None = plain_model(_parts(model)[0]).__dict__.get(ENABLED)
    if handle is not None:
        handle.detach()


def _handle_of(model: Any, method: Any, recorder: Recorder | None, literal: bool) -> Handle:
    """A handle whose hooks are installed, which acts nowhere yet."""
    network, tokenizer = _parts(model)
    methods, prepares = compose(method)
    shows = next((one for one in prepares if one.reads_samples and one.disabled() != one), None)
    if shows is not None:
        raise CannotAct(
            f"{name_of(shows)} needs the images themselves, which a model is not given. Use ask, ask_many or eval, or "
            f"its prepare: inputs = {type(shows).__name__}().prepare(vlm, inputs, samples=samples)."
        )
    prepares = [one for one in prepares if not one.reads_samples]
    base, attachment = plain_model(network), None
    setup = Setup(methods, 0)
    if methods.parts or recorder is not None:
        target = find_target(network, tokenizer, getattr(recorder, "target", methods.target))
        methods.check(target)
        if methods.parts:
            refuse_split_heads(base, name_of(methods))
        attention, hidden, mlp = (methods.layers(hook, target) for hook in ("attention", "hidden", "mlp"))
        setup = Setup(methods, target.depth, attention, hidden, mlp, recorder, literal, model_and_processor(model)[1])
        attachment = Attachment.on(target, setup)
    handle = Handle(setup, base, attachment)
    if attachment is not None:
        attachment.handles.add(handle)
    if prepares:
        try:
            handle.insert_inputs(prepares, model, network)
        except BaseException:
            handle.detach()
            raise
    return handle


def _parts(model: Any) -> tuple[nn.Module, Any]:
    network, processor = model_and_processor(model)
    return network, getattr(processor, "tokenizer", None)


class Attachment:
    """The hooks on one model and the attention name in its decoder's config; counted, so that handles share them."""

    def __init__(self, target: AttentionTarget):
        self.target = target
        self.users = 0
        self.enabled: Handle | None = None
        self.handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._hooks: list[Any] = []
        self._beyond = ModelHooks()
        self._name = target.config._attn_implementation.removeprefix(PREFIX)
        self._replayable = 0
        self._warned: set[int] = set()
        self._copied = False

    @staticmethod
    def on(target: AttentionTarget, setup: Setup) -> "Attachment":
        """The stack's attachment, with one more user and all hooks that the methods need."""
        with _lock:
            own: Attachment | None = target.stack.__dict__.get(ATTACHMENT)
            if own is None or own._copied:
                own = target.stack.__dict__[ATTACHMENT] = Attachment(target)
            own.users += 1
            try:
                own._install(target)
                own._beyond.require(target, setup)
            except BaseException:
                own.release(Lifetime())
                raise
            return own

    def _install(self, target: AttentionTarget) -> None:
        self._warned.clear()
        if self._hooks:
            return
        self.target = target
        self._use_own_kernel()
        for module in target.outer:
            self._hooks.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._hooks.append(module.register_forward_hook(self._leave, always_call=True))
        steer = self._inject_qformer_state if target.kind == "qformer" else self._inject_state
        self._hooks.append(target.stack.register_forward_pre_hook(steer, with_kwargs=True))
        if target.kind == "decoder":
            self._hooks.append(target.stack.register_forward_hook(self._after, with_kwargs=True))
        if target.visual_features is not None:
            self._hooks.append(target.visual_features.register_forward_hook(self._note_features))

    def release(self, lifetime: Lifetime) -> None:
        """One user less: its generations end, and with the last one the hooks are removed."""
        lifetime.on = False
        with _lock:
            self.users -= 1
            if self.enabled is not None and self.enabled.setup.lifetime is lifetime:
                self.enabled = None
            if self.users == 0:
                for hook in self._hooks:
                    hook.remove()
                self._hooks.clear()
                self._beyond.close()
                self._restore()

    def _use_own_kernel(self) -> None:
        """The delegating attention name in the config, over the kernel that the user chose last."""
        config = self.target.config
        if not config._attn_implementation.startswith(PREFIX):
            with _lock:
                name = edited_name(config._attn_implementation, self.target.stack)
                self._name, config._attn_implementation_internal = config._attn_implementation, name

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
                config = self.target.config
                if config._attn_implementation.startswith(PREFIX):
                    config._attn_implementation_internal = self._name
                self.target.stack.__dict__.pop(ATTACHMENT, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Attachment":
        """A copied model carries copies of the hooks, which say once that nothing acts there."""
        copy = Attachment.__new__(Attachment)
        copy._copied, copy._warned = True, set()
        return copy

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        # Without keywords: a thread that was at this module while the hook was installed or removed.
        if kwargs is None or self._copied or torch.compiler.is_compiling():
            return None
        new = encode_images(self.target.outer[-1], kwargs) if self._images_touch(args, kwargs) else None
        seen = CallContext.seen(current.get(), module, args, kwargs if new is None else new)
        current.set(seen if new is None else replace(seen, arguments={**seen.arguments, **kwargs, ENCODED: None}))
        return None if new is None else (args, new)

    def _images_touch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Raw images of which only the vision tower's output tells where one ends, and a method that wants to know."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        return brings_pixels(kwargs) and self._handle() is not None and must_encode(self.target, ids, kwargs)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._copied and not torch.compiler.is_compiling():
            call_context = current.get()
            current.set(None if call_context is None else call_context.outer)

    def _inject_state(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        if kwargs is None or self._copied or kwargs.get(KEYWORD) is not None:
            return self._warn_of_copy(module)
        if "read_index" in kwargs and any(one.acts and one.setup.lifetime.on for one in self.handles):
            # Continuous batching, whose thread has no context of its own: it would pass a method by.
            raise CannotAct(PAGED)
        compiling = torch.compiler.is_compiling()
        cache: Any = kwargs.get("past_key_values")
        generation: GenerationState | None = getattr(cache, STATE_ATTRIBUTE, None)
        if generation is not None and not generation.setup.lifetime.on:
            # A copy made while a handle that is gone was attached: nobody's any more.
            delattr(cache, STATE_ATTRIBUTE)
            generation = None
        if not compiling and self._is_plain_here():
            return None
        tokens: Any = kwargs.get("inputs_embeds")
        tokens = kwargs.get("input_ids") if tokens is None else tokens
        one = tokens is not None and tokens.shape[1] == 1
        # A static cache that was reset keeps its state on the cache; its next token begins a prompt.
        later = generation is not None and one and (generation.begun or compiling)
        if generation is not None and later and (compiling or cache.get_seq_length()):
            forward_state: ForwardState | None = decoder_pass.step(generation, self.target, cache, len(tokens))
        elif compiling:
            # In a graph of the whole model a prompt's ids cannot be read; only decoding steps are compiled with a method.
            return self._warn_of_graph()
        else:
            forward_state = self._prompt(generation, cache, args, kwargs)
            if forward_state is not None and module.training and torch.is_grad_enabled():
                with _lock:
                    self._replayable += 1
                weakref.finalize(forward_state, self._forget).atexit = False
        if forward_state is None:
            return None
        if not compiling:
            self._use_own_kernel()
        # Gemma 4's last layers read an earlier one's keys and would drop all rows but the last.
        whole = {"logits_to_keep": 0} if "logits_to_keep" in kwargs and forward_state.acts else {}
        return args, {**kwargs, **whole, KEYWORD: forward_state}

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any = None) -> None:
        """A cache that the decoder made itself gets its generation after the fact."""
        forward_state = kwargs.get(KEYWORD) if isinstance(kwargs, dict) and output is not None else None
        if self._copied or torch.compiler.is_compiling() or forward_state is None or forward_state.generation.is_branch:
            return
        cache, handle = getattr(output, "past_key_values", None), self._handle()
        forward_state.generation.note_length(cache)
        if cache is not None and handle is not None and kwargs.get("past_key_values") is None:
            handle.put_on_cache(forward_state.generation, cache)

    def _inject_qformer_state(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> Any:
        if kwargs is None or self._copied:
            return self._warn_of_copy(module)
        handle = self._handle()
        if handle is None:
            return None
        self._use_own_kernel()
        return args, {**kwargs, KEYWORD: latent_pass(handle, self.target, kwargs)}

    def _note_features(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Outside a call of the model itself (`generate`), there is no frame to note in: make one."""
        if not self._copied:
            current.set(replace(current.get() or CallContext(), projected=output))

    def _prompt(
        self, generation: GenerationState | None, cache: Any, args: Any, kwargs: dict[str, Any]
    ) -> ForwardState | None:
        handle = self._handle()
        if handle is None:
            if generation is not None:
                delattr(cache, STATE_ATTRIBUTE)
            return None
        self._use_own_kernel()
        return decoder_pass.prompt(handle, self.target, generation, cache, current.get(), args, kwargs)

    def _is_plain_here(self) -> bool:
        """Whether this context asked for the plain model, or runs a contrastive branch."""
        handles = active.get()
        inner = next((handle for handle in reversed(handles) if handle.covers(self.target.stack)), None)
        return handles is NO_METHOD or (inner is not None and not inner.acts)

    def _handle(self) -> Handle | None:
        """The innermost handle of this context that acts on this model, else the one that is enabled everywhere."""
        handles = active.get()
        if handles is NO_METHOD:
            return None
        for handle in reversed(handles):
            if handle.covers(self.target.stack):
                return handle if handle.acts else None
        if self.enabled is None:
            self._warn_here()
        return self.enabled

    def _warn_here(self) -> None:
        """Once a thread: the model runs in a context that attached nothing, while another one did."""
        here = threading.get_ident()
        if here in self._warned:
            return
        self._warned.add(here)
        names = sorted({name_of(handle.setup.methods) or "a recorder" for handle in self.handles if handle.acts})
        if names:
            warnings.warn(
                f"This thread (or task) runs the plain model: {' and '.join(names)} was attached in another one and acts "
                "there only. Attach inside the thread that runs the model, or use va.enable(model, method).",
                AnchorsWarning,
                stacklevel=2,
            )

    @torch.compiler.disable
    def _warn_of_graph(self) -> None:
        """Once an attach: the model is compiled as a whole."""
        if self._handle() is not None and -1 not in self._warned:
            self._warned.add(-1)
            warnings.warn(
                "This model is compiled as a whole, and no method acts on a prompt inside a graph. Run the prompt uncompiled; "
                "generate compiles its decoding steps by itself (compile_config).",
                AnchorsWarning,
                stacklevel=2,
            )

    def _warn_of_copy(self, stack: nn.Module) -> None:
        """Once: the model was copied with a method on it, and has none of its own."""
        own: Attachment | None = stack.__dict__.get(ATTACHMENT)
        if self._copied and not self._warned and (own is None or own._copied):
            self._warned.add(0)
            warnings.warn(
                "This model was copied while a method was attached; on the copy no method acts. Attach to the copy.",
                AnchorsWarning,
                stacklevel=2,
            )


__all__ = ["Attachment", "Handle", "attach", "disable", "enable", "plain_model"]
