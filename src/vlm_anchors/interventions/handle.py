"""What `attach` returns: a method on a model, what it did, and how it is taken off."""

import signal
import threading
import weakref
from collections.abc import Sequence
from types import FrameType
from typing import Any

from torch import nn

from ..errors import CannotAct
from ..parameters import name_of
from .branch.contrastive import stop_following
from .call_context import NO_METHOD, active, current
from .forward_pass import STATE_ATTRIBUTE, Generation, GenerationState, Lifetime, Setup
from .insertion.inputs_hook import InputsHook
from .method import Method

ENABLED = "_vlm_anchors_enabled"
"""The attribute of a model that holds the handle enabled on it for every thread."""


def _release(attachment: weakref.ref[Any], lifetime: Lifetime) -> None:
    """Held by no strong reference: the finalizer outlives neither the handle nor the model."""
    found = attachment()
    lifetime.on = False
    if found is not None:
        found.release(lifetime)


class DeferredInterrupt:
    """Ctrl+C waits until the block has ended, so that hooks are installed and removed whole. `pending`: it was pressed."""

    def __init__(self) -> None:
        self.pending: list[tuple[int, FrameType | None]] = []
        self._previous: Any = None

    def __enter__(self) -> "DeferredInterrupt":
        # Python runs signal handlers in the main thread only, so no other thread can be interrupted.
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._previous = signal.signal(signal.SIGINT, lambda *what: self.pending.append(what))
        return self

    def __exit__(self, *exc: object) -> None:
        if self._previous is not None:
            previous, self._previous = self._previous, None
            signal.signal(signal.SIGINT, previous)
            if self.pending:
                previous(*self.pending[-1])


class Handle:
    """A method on a model. `effects` tells what it did; `detach()`, or the end of the `with` block, takes it off."""

    def __init__(self, setup: Setup, base: nn.Module, attachment: Any):
        self.setup = setup
        self._base: nn.Module | None = base
        self._attachment = attachment
        self._covers: dict[int, bool] = {}
        self._caches: list[weakref.ref[Any]] = []
        self._latest: GenerationState | None = None
        self._own = threading.local()
        self._inputs: InputsHook | None = None
        self._release: Any = None
        if attachment is not None:
            # A handle that nobody holds any more (its thread has ended) takes itself off.
            self._release = weakref.finalize(self, _release, weakref.ref(attachment), setup.lifetime)
            self._release.atexit = False
        self.prompts = 0
        """How many prompts this handle's method has seen."""

    def __repr__(self) -> str:
        name = name_of(self.setup.methods) or "none"
        if self._inputs is not None:
            name = f"{self._inputs.name}+{name}" if self.setup.methods.parts else self._inputs.name
        return f"<Handle: {name}, {'off' if self._base is None else 'on ' + type(self._base).__name__}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copied model has no method enabled."""

    @property
    def recorder(self) -> Any:
        return self.setup.recorder

    @property
    def acts(self) -> bool:
        """Whether it changes or records anything inside the model; else its block runs the plain model."""
        return self._attachment is not None

    def insert_inputs(self, methods: Sequence[Method], vlm: Any, network: nn.Module) -> None:
        """Let prepare methods run on the model's inputs as well."""
        acts_here = weakref.WeakMethod(self._acts_here)
        self._inputs = InputsHook(methods, vlm, network, lambda: None if (f := acts_here()) is None else f())

    def _acts_here(self) -> bool | None:
        """Whether it is the innermost handle of its model in this context; None where there is none."""
        if active.get() is NO_METHOD:
            return False
        for handle in reversed(active.get()):
            if handle._base is not None and handle._base is self._base:
                return handle is self
        enabled = None if self._base is None else self._base.__dict__.get(ENABLED)
        return None if enabled is None else enabled is self

    def covers(self, stack: nn.Module) -> bool:
        """Whether it was attached to the model that this stack of layers belongs to."""
        if self._attachment is not None:
            return self._attachment.target.stack is stack
        if self._base is None:
            return False
        if id(stack) not in self._covers:
            self._covers[id(stack)] = any(module is stack for module in self._base.modules())
        return self._covers[id(stack)]

    @property
    def effects(self) -> list[dict[str, Any]]:
        """What the method did, one dictionary a row of the latest prompt: `{"clva": {...}}`.

        Of a method that is enabled for every thread: of this thread's latest prompt, if it had one.
        """
        before = [] if self._inputs is None else self._inputs.effects
        inside = self._inner_effects()
        return (
            [{**one, **two} for one, two in zip(before, inside, strict=True)] if before and inside else before or inside
        )

    def _inner_effects(self) -> list[dict[str, Any]]:
        generation: GenerationState | None = getattr(self._own, "latest", self._latest)
        if generation is None or generation.prompt is None:
            return []
        generation.count_steps()
        seeing, setup = generation.visual.valid.any(1).tolist(), generation.setup
        edited = [0] * len(seeing) if generation.edited_rows is None else generation.edited_rows.tolist()
        effects: list[dict[str, Any]] = [{} for _ in seeing]
        for number, part in enumerate(setup.methods.parts):
            edits = setup.attention_layers and "attention" in part.active_hooks()
            reported = part.effects(Generation(generation, number))
            for one, rows, sees, what in zip(effects, edited, seeing, reported, strict=True):
                done = {"rows_edited": rows + generation.edited_steps if edits else 0, **what}
                one[name_of(part)] = done if sees else {"rows_edited": 0}
        return effects

    def began(self, generation: GenerationState, cache: Any) -> None:
        """A prompt was met."""
        self._latest = self._own.latest = generation
        self.prompts += 1
        if cache is not None:
            self.put_on_cache(generation, cache)

    def follow(self, generation: GenerationState, cache: Any) -> None:
        """A prompt that goes on from a cache this method rides on (a reused prefix, a later turn)."""
        if generation.setup is self.setup:
            self._latest = self._own.latest = generation
            self.put_on_cache(generation, cache)

    def put_on_cache(self, generation: GenerationState, cache: Any) -> None:
        """Put a generation on its cache, and remember the cache, so that detaching can take it off."""
        setattr(cache, STATE_ATTRIBUTE, generation)
        self._caches = [ref for ref in self._caches if ref() is not None]
        self._caches.append(weakref.ref(cache))

    def detach(self) -> None:
        """Take the method off; harmless when it is off already."""
        with DeferredInterrupt():
            self._detach()

    def _detach(self) -> None:
        if self._inputs is not None:
            self._inputs.remove()
        base, self._base = self._base, None
        if base is not None and base.__dict__.get(ENABLED) is self:
            delattr(base, ENABLED)
        # Another thread may detach: the attaching one then keeps the entry, which covers nothing any more.
        active.set(tuple(handle for handle in active.get() if handle is not self))
        self._covers.clear()
        attachment, self._attachment = self._attachment, None
        if attachment is None:
            return
        if self._latest is not None:
            self._latest.settle_steps()
        for ref in self._caches:
            cache = ref()
            if cache is not None and hasattr(cache, STATE_ATTRIBUTE):
                delattr(cache, STATE_ATTRIBUTE)
                stop_following(cache)
        current.set(None)
        self._release()

    def __enter__(self) -> "Handle":
        if self._base is None:
            raise CannotAct("This handle was taken off, so its method would act nowhere. Attach the method again.")
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.detach()
        finally:  # a Ctrl+C before the first line of the one above
            self.detach()
