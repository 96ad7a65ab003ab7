"""The hooks beyond attention: what layers and MLPs put out, next-token logits, and a contrastive branch.

A method that opens none of them pays nothing: its handle installs no hook here. The hooks of one handle see only the
passes of its own generations, which carry its number; with the hooks shut (a contrastive branch) there is no such pass.
"""

import functools
import itertools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import CannotAct
from ..models.decoder import AttentionTarget
from .contrastive import CONTRASTIVE_BRANCH, KEYWORD, NUMBER, BranchInputs, ContrastiveBranch, follow_cache
from .forward_pass import ForwardState
from .method import Method, name_of
from .prefix_cache import note_prefix, whole_prompt
from .prompt_pass import real_rows
from .text_rows import Visual
from .vision_tower import Tower, find_tower

if TYPE_CHECKING:
    from .call_context import CallContext

BEYOND = frozenset({"mlp", "hidden", "logits"})
ONE_GRAPH = "A method with hooks beyond attention is no part of a compiled graph. Compile with fullgraph=False."

WITHOUT_IMAGE = "without image"
"""The name under which a generation's memory holds which samples have no image (None: all have one); no hook changes them."""

_numbers = itertools.count(1)
_now: ContextVar["ForwardPass | None"] = ContextVar("vlm_anchors_pass", default=None)


@dataclass(frozen=True, eq=False)
class Head:
    """What makes logits of a hidden state: the decoder's final norm and the output embedding of `model`."""

    model: nn.Module
    norm: nn.Module
    out: nn.Module


@dataclass(eq=False)
class ForwardPass:
    """One forward pass of the decoder as the hooks "hidden", "mlp" and "logits" see it."""

    hooks: "MethodHooks" = field(repr=False)
    forward_state: ForwardState = field(repr=False)
    embeds: Float[Tensor, "b q d"]
    """What the decoder was given; visual tokens are the projected image."""
    real: Bool[Tensor, "b q"] | None
    """Rows that are not padding; None: all (a decoding step)."""
    prompt: bool
    """This pass holds the prompt; else it is a decoding step of one row."""
    branch_inputs: BranchInputs | None = None
    early: Float[Tensor, "b n v"] | None = None
    """Logits of the rows that the method's `head` put after the last one."""
    more: int = 0
    """How many they are."""

    @property
    def kept(self) -> dict[Any, Any]:
        """Lives as long as the forward pass."""
        return self.forward_state.kept

    @property
    def memory(self) -> dict[Any, Any]:
        """Lives as long as the generation."""
        return self.forward_state.memory

    @property
    def carried(self) -> dict[str, Tensor]:
        """Tensors of the generation, samples first, that follow the beams as the contrastive branch does; lost without one."""
        contrastive_branch: ContrastiveBranch | None = self.memory.get(CONTRASTIVE_BRANCH)
        return {} if contrastive_branch is None else contrastive_branch.carried

    @property
    def without_image(self) -> Bool[Tensor, " b"] | None:
        """Samples without an image, which are left alone; None where each has one."""
        return self.carried.get(WITHOUT_IMAGE, self.memory.get(WITHOUT_IMAGE))

    def seeing(self, new: Float[Tensor, "b ..."], plain: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """`new` for samples with an image, `plain` for the others."""
        if self.without_image is None:
            return new
        return torch.where(self.without_image.reshape(-1, *[1] * (new.dim() - 1)), plain.to(new.dtype), new)

    @property
    def depth(self) -> int:
        return self.forward_state.depth

    @property
    def visual(self) -> Visual:
        return self.forward_state.visual

    def normed(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """A layer's output through the final norm, as the output embedding takes it."""
        return self.hooks.head.norm(hidden)

    def early_logits(self, hidden: Float[Tensor, "*b d"], norm: bool = True) -> Float[Tensor, "*b n"]:
        """Logits of a layer's output at once; where they can wait for the last layer's, `head` makes both in one product."""
        # Not by a call, which is the model's own to its output embedding and would be taken for it.
        return self.hooks.head.out.forward(self.normed(hidden) if norm else hidden)

    def widening(self, layer: int) -> Float[Tensor, ""]:
        """Mean size of the weights that widen a layer's MLP; measured once a generation."""
        if ("widening", layer) not in self.memory:
            weight = widening_of(layers_of(self.hooks.target)[layer - 1], self.hooks.method)
            self.memory["widening", layer] = weight.detach().abs().mean(dtype=torch.float32)
        return self.memory["widening", layer]


class MethodHooks:
    """The hooks that one handle needs beyond attention."""

    def __init__(
        self,
        method: Method,
        target: AttentionTarget,
        processor: Any,
        methods_off: Callable[[], AbstractContextManager[None]],
        call_context: "Callable[[], CallContext | None]",
    ):
        self.number = next(_numbers)
        self.method, self.target, self.processor, self.methods_off, self.call_context = (
            method,
            target,
            processor,
            methods_off,
            call_context,
        )
        self.head = find_head(target, method)
        self.tower: Tower | None = None
        self._hooks: list[Any] = []
        self._inert = False
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        target, method = self.target, self.method
        if method.needs_pixels(target):
            self.tower = find_tower(target, name_of(method))
            self._hooks += self.tower.hooks
        self._hooks.append(target.stack.register_forward_pre_hook(self._enter, with_kwargs=True))
        layers = layers_of(target)
        for layer in range(1, target.depth + 1):
            if layer in method.hidden_layers(target):
                self._hooks.append(layers[layer - 1].register_forward_hook(functools.partial(self._hidden, layer)))
            if layer in method.mlp_layers(target):
                self._hooks.append(
                    mlp_of(layers[layer - 1], method).register_forward_hook(functools.partial(self._mlp, layer))
                )
        if "logits" in method.active_hooks():
            self._hooks.append(self.head.out.register_forward_pre_hook(self._to_head))
            self._hooks.append(self.head.out.register_forward_hook(self._from_head))
        self._hooks.append(self.head.model.register_forward_hook(self._logits, always_call=True))

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        view = _now.get()
        if view is not None and view.hooks is self:
            _now.set(None)

    def __deepcopy__(self, memo: dict[int, Any]) -> "MethodHooks":
        """A copied model carries copies of the hooks, which do nothing."""
        copy = MethodHooks.__new__(MethodHooks)
        copy._inert = True
        return copy

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        forward_state = None if self._inert else kwargs.get(KEYWORD)
        if forward_state is None or forward_state.memory.get(NUMBER) != self.number:
            return
        if torch.compiler.is_compiling():
            torch._dynamo.graph_break(msg=ONE_GRAPH)
        _now.set(None)
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            embeds = module.get_input_embeddings()(kwargs["input_ids"] if "input_ids" in kwargs else args[0])
        if forward_state.idle:
            note_prefix(
                forward_state, embeds, kwargs.get("attention_mask"), self.call_context(), self.target.family.mrope
            )
            return
        if forward_state.rows.index is None:
            _now.set(ForwardPass(self, forward_state, embeds, None, False))
            return
        self._refuse(forward_state)
        past = kwargs.get("past_key_values")
        past = 0 if past is None else int(past.get_seq_length())
        real = real_rows(kwargs.get("attention_mask"), torch.ones_like(embeds[..., 0], dtype=torch.bool), past)
        view = ForwardPass(self, forward_state, embeds, real, True)
        if not bool(real[:, -1].all()):
            raise CannotAct(
                f"{name_of(self.method)} acts on the last token of each row, but these rows are padded on the right. "
                "Pad on the left (tokenizer.padding_side = 'left')."
            )
        sees = forward_state.visual.valid.any(1)
        view.memory[WITHOUT_IMAGE] = None if bool(sees.all()) else ~sees
        prompt = whole_prompt(view, self, kwargs, past)
        self.method.begin(prompt)
        view.branch_inputs = self.method.second(prompt)
        _now.set(view)

    def _refuse(self, forward_state: ForwardState) -> None:
        name = name_of(self.method)
        if self.target.stack.training and torch.is_grad_enabled():
            raise CannotAct(f"{name} acts while a model answers and has no training form. Call model.eval() first.")
        if forward_state.kept is not forward_state.generation.kept or forward_state.rows.shared is not None:
            raise CannotAct(
                f"{name} changes one next token at a time, so it has no form for given answers (labels), for "
                "speculative decoding (assistant_model, prompt_lookup_num_tokens), or for a second turn on one cache."
            )

    def _view(self) -> ForwardPass | None:
        if self._inert:
            return None
        view = _now.get()
        return view if view is not None and view.hooks is self else None

    def _hidden(self, layer: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        view = self._view()
        if view is None:
            return
        hidden = output[0] if isinstance(output, tuple) else output
        self.method.hidden(view, layer, hidden)

    def _mlp(self, layer: int, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        view = self._view()
        new = None if view is None else self.method.mlp(view, layer, args[0], output)
        return new if view is None or new is None else view.seeing(new, output)

    def _to_head(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        view = self._view()
        rows = None if view is None else self.method.head(view, args[0][:, -1])
        if view is None or rows is None:
            return None
        if view.without_image is not None:
            rows = torch.cat([view.seeing(rows[:, :1], args[0][:, -1:]), rows[:, 1:]], 1)
        view.more = rows.shape[1] - 1
        return (torch.cat([args[0][:, :-1], rows], 1) if args[0].shape[1] > 1 else rows,)

    def _from_head(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        view = self._view()
        if view is None or not view.more:
            return None
        view.early = output[:, -view.more :]
        return output[:, : -view.more]

    def _logits(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        view = self._view()
        if view is None:
            return None
        _now.set(None)
        if "logits" not in self.method.active_hooks() or output is None:
            return None
        if isinstance(output, tuple):
            raise CannotAct(f"{name_of(self.method)} needs the model's output by name. Call it with return_dict=True.")
        logits = output.logits
        first = logits[:, -1].float()
        new = view.seeing(self.method.logits(view, first, self._second(view, output)), first)[:, None]
        output.logits = new if logits.shape[1] == 1 else torch.cat([logits[:, :-1], new.to(logits.dtype)], 1)
        return output

    def _second(self, view: ForwardPass, output: Any) -> Float[Tensor, "b n"] | None:
        """The contrastive branch's next-token logits; None where the method has no contrastive branch."""
        contrastive_branch: ContrastiveBranch | None = view.memory.get(CONTRASTIVE_BRANCH)
        if view.branch_inputs is None and (contrastive_branch is None or view.prompt):
            return None
        with self.methods_off(), torch.no_grad():
            if view.branch_inputs is not None:
                contrastive_branch = ContrastiveBranch(self.target.config, view.branch_inputs)
                cache = getattr(output, "past_key_values", None)
                hidden = contrastive_branch.prefill(self.target.stack, view.branch_inputs, cache)
                if cache is not None:
                    view.memory[CONTRASTIVE_BRANCH] = contrastive_branch
                    if view.without_image is not None:
                        contrastive_branch.carried[WITHOUT_IMAGE] = view.without_image
                    follow_cache(cache)
            else:
                assert contrastive_branch is not None
                hidden = contrastive_branch.step(self.target.stack, view.embeds)
            return self.head.out(hidden).float()

    def last_outputs(self, branch_inputs: BranchInputs) -> Float[Tensor, "b l d"]:
        """Every layer's output for a branch's last token, in a pass of its own."""
        seen: list[Tensor] = []
        here = threading.get_ident()

        def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if threading.get_ident() == here:
                seen.append((output[0] if isinstance(output, tuple) else output)[:, -1])

        hooks = [layer.register_forward_hook(note) for layer in layers_of(self.target)]
        try:
            with self.methods_off(), torch.no_grad():
                ContrastiveBranch(self.target.config, branch_inputs).prefill(self.target.stack, branch_inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(seen, 1)


def find_head(target: AttentionTarget, method: Method) -> Head:
    """The module that returns logits, its output embedding, and the decoder's final norm."""
    norm = getattr(target.stack, "norm", None) or getattr(target.stack, "final_layer_norm", None)
    for module in reversed(target.outer):
        out = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
        if out is not None and norm is not None:
            return Head(module, norm, out)
    raise CannotAct(
        f"{name_of(method)} works on next-token logits, and this model returns none. Attach it to the model with the "
        "language modelling head (…ForConditionalGeneration)."
    )


def layers_of(target: AttentionTarget) -> Any:
    layers = getattr(target.stack, "layers", None)
    if layers is None or len(layers) != target.depth:
        raise CannotAct(
            f"The layers of {type(target.stack).__name__} cannot be reached one by one. Choose another model."
        )
    return layers


WIDENING = ("up_proj", "gate_up_proj", "fc1")


def widening_of(layer: nn.Module, method: Method) -> Tensor:
    """The weights that widen a layer's MLP."""
    mlp = mlp_of(layer, method)
    found = next((getattr(mlp, name) for name in WIDENING if hasattr(mlp, name)), None)
    weight = getattr(found, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise CannotAct(
            f"{name_of(method)} with these parameters measures the weights that widen an MLP, and {type(mlp).__name__} has "
            "none by a name it knows, or quantized ones. Use activation=none."
        )
    return weight


def mlp_of(layer: nn.Module, method: Method) -> nn.Module:
    mlp = getattr(layer, "mlp", None)
    if not isinstance(mlp, nn.Module):
        raise CannotAct(f"{name_of(method)} acts on MLPs, and {type(layer).__name__} has none by that name.")
    return mlp
