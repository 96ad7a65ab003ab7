"""The hooks beyond attention: what layers and MLPs put out, next-token logits, and a contrastive branch.

They are installed on a model once, the first time a method needs them, and dispatch by what the pass carries: a pass whose
generation has no method at a hook goes through untouched. A contrastive branch's own pass has none of them.
"""

import functools
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import CannotAct
from ..models.decoder import AttentionTarget
from ..parameters import name_of
from .branch.contrastive import KEYWORD, BranchInputs, follow_cache
from .branch.model_branch import ModelInputs
from .branch.prefix_cache import note_prefix, whole_prompt
from .branch.vision_tower import NotedFeatures, note_features, tower_hooks
from .call_context import current, methods_off
from .composition import Part
from .forward_pass import ForwardState, Setup
from .forward_view import ForwardPass, Head
from .pass_marks import real_rows
from .streams import Join, join_of

BEYOND = frozenset({"mlp", "hidden", "logits"})
ONE_GRAPH = "A method with hooks beyond attention is no part of a compiled graph. Compile with fullgraph=False."


@dataclass(eq=False)
class _Running:
    """The forward pass under way in this context: whose hooks see it, and each hook's view of it."""

    hooks: "ModelHooks"
    views: dict[str, ForwardPass]


_running: ContextVar[_Running | None] = ContextVar("vlm_anchors_pass", default=None)


class ModelHooks:
    """The hooks beyond attention of one model. `require` adds those that are missing; they stay until `close`."""

    def __init__(self) -> None:
        self.target: AttentionTarget
        self.head: Head
        self.join: Join
        self._hooks: list[Any] = []
        self._places: set[tuple[str, int]] = set()
        self.noted: NotedFeatures | None = None

    def require(self, target: AttentionTarget, setup: Setup) -> None:
        """Install what the methods need beyond attention; nothing where they need nothing. Raises `CannotAct`."""
        parts = setup.methods.using(BEYOND)
        if not parts:
            return
        method = parts[0].method
        self.target, self.head = target, find_head(target, method)
        if (hidden := setup.methods.at("hidden")) is not None and setup.hidden_layers:
            self.join = join_of(target, hidden.method)
        layers, mlp = layers_of(target), setup.methods.at("mlp")
        mlps = {} if mlp is None else {layer: mlp_of(layers[layer - 1], mlp.method) for layer in setup.mlp_layers}
        self._once("enter", 0, lambda: target.stack.register_forward_pre_hook(self._enter, with_kwargs=True))
        for layer in setup.hidden_layers:
            hook = functools.partial(self._hidden, layer)
            self._once("hidden", layer, lambda: layers[layer - 1].register_forward_hook(hook))  # noqa: B023
        for layer, module in mlps.items():
            hook = functools.partial(self._mlp, layer)
            self._once("mlp", layer, lambda: module.register_forward_hook(hook))  # noqa: B023
        if setup.methods.at("logits") is not None:
            self._once("to head", 0, lambda: self.head.out.register_forward_pre_hook(self._to_head))
            self._once("from head", 0, lambda: self.head.out.register_forward_hook(self._from_head))
            if ("tower", 0) not in self._places:
                self._places.add(("tower", 0))
                self._hooks += tower_hooks(target.outer)
                self.noted = note_features(target)
        self._once("logits", 0, lambda: self.head.model.register_forward_hook(self._logits, always_call=True))

    def _once(self, name: str, layer: int, register: Any) -> None:
        if (name, layer) not in self._places:
            self._places.add((name, layer))
            self._hooks.append(register())

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._places.clear()
        if self.noted is not None:
            self.noted.forget()
        self.noted = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "ModelHooks":
        """A copied model carries copies of the hooks, which find no pass of theirs and do nothing."""
        return ModelHooks()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        forward_state: ForwardState | None = None if kwargs is None else kwargs.get(KEYWORD)
        if kwargs is None or forward_state is None or forward_state.generation.is_branch or not self._places:
            return
        setup = forward_state.generation.setup
        parts = setup.methods.using(BEYOND)
        if not parts:
            return
        if torch.compiler.is_compiling():
            torch._dynamo.graph_break(msg=ONE_GRAPH)
        _running.set(None)
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            embeds = module.get_input_embeddings()(kwargs["input_ids"] if "input_ids" in kwargs else args[0])
            embeds = with_features(embeds, kwargs, self.target.family.visual_mask)
        mask = kwargs.get("attention_mask")
        if forward_state.idle:
            note_prefix(forward_state, embeds, mask, current.get(), self.target.family.mrope)
            return
        prompt, past, real = forward_state.rows.index is not None, 0, None
        if prompt:
            self._refuse(forward_state, parts[0].method)
            cache = kwargs.get("past_key_values")
            past = 0 if cache is None else int(cache.get_seq_length())
            real = real_rows(mask, torch.ones_like(embeds[..., 0], dtype=torch.bool), past)
            if not bool(real[:, -1].all()):
                raise CannotAct(
                    f"{name_of(parts[0].method)} acts on the last token of each row, but these rows are padded on the right. "
                    "Pad on the left (tokenizer.padding_side = 'left')."
                )
            sees = forward_state.visual.valid.any(1)
            forward_state.generation.without_image = None if bool(sees.all()) else ~sees
        call_context = current.get()
        arguments = None if call_context is None else call_context.arguments_of(self.head.model)
        views = {
            part.number: ForwardPass(self, forward_state, part, embeds, real, prompt, arguments=arguments)
            for part in parts
        }
        if prompt:
            prompts = {number: whole_prompt(view, kwargs, past) for number, view in views.items()}
            for part in parts:
                part.method.begin(prompts[part.number])
            last: Part | None = setup.methods.at("logits")
            if last is not None:
                views[last.number].branch_inputs = last.method.branch(prompts[last.number])
        used = {hook: own for hook in BEYOND if (own := setup.methods.at(hook)) is not None}
        _running.set(_Running(self, {hook: views[part.number] for hook, part in used.items()}))

    def _refuse(self, forward_state: ForwardState, method: Any) -> None:
        name = name_of(method)
        if self.target.stack.training and torch.is_grad_enabled():
            raise CannotAct(f"{name} acts while a model answers and has no training form. Call model.eval() first.")
        if forward_state.states is not forward_state.generation.prompt_states or forward_state.rows.shared is not None:
            raise CannotAct(
                f"{name} changes one next token at a time, so it has no form for given answers (labels), for "
                "speculative decoding (assistant_model, prompt_lookup_num_tokens), or for a second turn on one cache."
            )

    def _view(self, hook: str) -> ForwardPass | None:
        running = _running.get()
        return None if running is None or running.hooks is not self else running.views.get(hook)

    def _hidden(self, layer: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        view = self._view("hidden")
        if view is not None and layer in view.generation.setup.hidden_layers:
            view.method.hidden(view, layer, self.join(output[0] if isinstance(output, tuple) else output))

    def _mlp(self, layer: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        view = self._view("mlp")
        if view is None or layer not in view.generation.setup.mlp_layers:
            return None
        first = (
            output[0] if isinstance(output, tuple) else output
        )  # some experts return their router's scores beside it
        rows = first.reshape(args[0].shape)  # some experts flatten the batch
        new = view.method.mlp(view, layer, args[0], rows)
        if new is None:
            return None
        new = view.seeing(new, rows).reshape(first.shape)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    def _to_head(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        view = self._view("logits")
        rows = None if view is None else view.method.lm_head(view, args[0][:, -1])
        if view is None or rows is None:
            return None
        if view.without_image is not None:
            rows = torch.cat([view.seeing(rows[:, :1], args[0][:, -1:]), rows[:, 1:]], 1)
        view.more = rows.shape[1] - 1
        return (torch.cat([args[0][:, :-1], rows], 1) if args[0].shape[1] > 1 else rows,)

    def _from_head(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        view = self._view("logits")
        if view is None or not view.more:
            return None
        view.early = output[:, -view.more :]
        return output[:, : -view.more]

    def _logits(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        view, running = self._view("logits"), _running.get()
        if running is not None and running.hooks is self:
            _running.set(None)
        if view is None or output is None:
            return None
        if isinstance(output, tuple):
            raise CannotAct(f"{name_of(view.method)} needs the model's output by name. Call it with return_dict=True.")
        logits = output.logits
        first = logits[:, -1].float()
        new = view.seeing(view.method.logits(view, first, self._branch_logits(view, output)), first)[:, None]
        output.logits = new if logits.shape[1] == 1 else torch.cat([logits[:, :-1], new.to(logits.dtype)], 1)
        return output

    def _branch_logits(self, view: ForwardPass, output: Any) -> Float[Tensor, "b n"] | None:
        """The contrastive branch's next-token logits; None where the method has no contrastive branch."""
        generation, cache = view.generation, getattr(output, "past_key_values", None)
        if view.prompt and cache is not None and (view.branch_inputs is not None or generation.has_followers):
            follow_cache(cache)
        if view.branch_inputs is None and (generation.branch is None or view.prompt):
            return None
        with methods_off(), torch.no_grad():
            if view.branch_inputs is None:
                assert generation.branch is not None
                return generation.branch.next_logits(self.head, self.target.stack, view.embeds, view.arguments)
            branch = view.branch_inputs.begin(self.target.config)
            generation.branch = None if cache is None else branch
            return branch.first_logits(self.head, self.target.stack, view.branch_inputs, cache)

    def last_outputs(self, branch_inputs: BranchInputs | ModelInputs, method: Any) -> Float[Tensor, "b l d"]:
        """Every layer's output for a branch's last token, in a pass of its own."""
        seen: list[Tensor] = []
        join = join_of(self.target, method)
        here = threading.get_ident()

        def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if threading.get_ident() == here:
                seen.append(join(output[0] if isinstance(output, tuple) else output)[:, -1])

        hooks = [layer.register_forward_hook(note) for layer in layers_of(self.target)]
        try:
            with methods_off(), torch.no_grad():
                branch = branch_inputs.begin(self.target.config)
                branch.first_logits(self.head, self.target.stack, branch_inputs, None)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(seen, 1)


def with_features(embeds: Tensor, kwargs: dict[str, Any], visual_mask: str) -> Tensor:
    """Embeddings with the image's features at their places, where the decoder itself puts them there."""
    mask, features = kwargs.get(visual_mask), kwargs.get("image_embeds")
    if mask is None or features is None:
        return embeds
    return embeds.masked_scatter(mask.bool()[..., None], features.to(embeds))


def find_head(target: AttentionTarget, method: Any) -> Head:
    """The module that returns logits, its output embedding, and the decoder's final norm."""
    norms = [module for name, module in target.stack.named_children() if "norm" in name.lower()]
    norm = getattr(target.stack, "norm", None) or (norms[-1] if norms else None)
    for module in reversed(target.outer):
        out = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
        inner: Any = getattr(module, "language_model", None)
        if out is None and hasattr(module, "generate") and hasattr(inner, "get_output_embeddings"):
            out = inner.get_output_embeddings()  # Llama 4's is its language model's
        if out is not None:
            return Head(module, nn.Identity() if norm is None else norm, out)
    raise CannotAct(
        f"{name_of(method)} works on next-token logits, and this model returns none. Attach it to the model with the "
        "language modelling head (…ForConditionalGeneration)."
    )


def layers_of(target: AttentionTarget) -> Any:
    layers = getattr(target.stack, "layers", None)
    if layers is None or len(layers) != target.blocks:
        raise CannotAct(
            f"The layers of {type(target.stack).__name__} cannot be reached one by one. Choose another model."
        )
    return layers


WIDENING = ("up_proj", "gate_up_proj", "fc1")


def widening_of(layer: nn.Module, method: Any) -> Tensor:
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


MLPS = ("mlp", "feed_forward", "ffn")


def mlp_of(layer: nn.Module, method: Any) -> nn.Module:
    mlp = next((getattr(layer, name) for name in MLPS if hasattr(layer, name)), None)
    if not isinstance(mlp, nn.Module):
        raise CannotAct(f"{name_of(method)} acts on MLPs, and {type(layer).__name__} has none by that name.")
    return mlp
