"""Several methods inside one model: each hook is opened by one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CannotAct
from ..methods import METHODS
from ..methods.none import Plain
from ..registry import split_composition
from .method import Method, name_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.decoder import AttentionTarget
    from .attention_view import AttentionView, Edit
    from .branch_prompt import Prompt
    from .contrastive import BranchInputs
    from .forward_pass import GenerationState
    from .hooks import ForwardPass
    from .text_rows import Visual


@dataclass(frozen=True)
class Composed(Method):
    """What the engine sees of methods that were given in a list and work inside the model; their hooks do not overlap.

    A contrastive branch runs without any of them: what it reads is the plain model's.
    """

    parts: tuple[Method, ...] = ()

    def active_hooks(self) -> frozenset[str]:
        return frozenset().union(*(part.active_hooks() for part in self.parts))

    @property
    def target(self) -> str:
        """Where all of them act; "auto" unless one must be at the language model."""
        return "decoder" if any(getattr(part, "target", "auto") == "decoder" for part in self.parts) else "auto"

    def at(self, hook: str) -> Method | None:
        return next((part for part in self.parts if hook in part.active_hooks()), None)

    def disabled(self) -> "Composed":
        return Composed(tuple(part.disabled() for part in self.parts))

    def check(self, target: "AttentionTarget") -> None:
        kinds = {getattr(part, "target", "auto") for part in self.parts}
        if len(kinds) > 1 and target.family.target == "qformer":
            names = " and ".join(name_of(part) for part in self.parts)
            raise CannotAct(
                f"{names} act in different places of {target.family.title}: its Q-Former and its language model. Use one "
                "of them, or give clva target='decoder'."
            )
        for part in self.parts:
            part.check(target)

    def check_prompt(self, visual: "Visual") -> None:
        for part in self.parts:
            if part.active_hooks():
                part.check_prompt(visual)

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        part = self.at("attention")
        return frozenset() if part is None else part.attention_layers(target)

    def attention(self, view: "AttentionView") -> "Edit | None":
        part = self.at("attention")
        return None if part is None else part.attention(view)

    def needs_pixels(self, target: "AttentionTarget") -> bool:
        return any(part.needs_pixels(target) for part in self.parts)

    def hidden_layers(self, target: "AttentionTarget") -> frozenset[int]:
        part = self.at("hidden")
        return frozenset() if part is None else part.hidden_layers(target)

    def mlp_layers(self, target: "AttentionTarget") -> frozenset[int]:
        part = self.at("mlp")
        return frozenset() if part is None else part.mlp_layers(target)

    def begin(self, prompt: "Prompt") -> None:
        for part in self.parts:
            if part.active_hooks():
                part.begin(prompt)

    def second(self, prompt: "Prompt") -> "BranchInputs | None":
        part = self.at("logits")
        return None if part is None else part.second(prompt)

    def hidden(self, view: "ForwardPass", layer: int, output: "Tensor") -> None:
        part = self.at("hidden")
        if part is not None:
            part.hidden(view, layer, output)

    def mlp(self, view: "ForwardPass", layer: int, mlp_input: "Tensor", output: "Tensor") -> "Tensor | None":
        part = self.at("mlp")
        return None if part is None else part.mlp(view, layer, mlp_input, output)

    def head(self, view: "ForwardPass", last: "Tensor") -> "Tensor | None":
        part = self.at("logits")
        return None if part is None else part.head(view, last)

    def logits(self, view: "ForwardPass", first: "Tensor", second: "Tensor | None") -> "Tensor":
        part = self.at("logits")
        return first if part is None else part.logits(view, first, second)

    def effects(self, generation: "GenerationState") -> list[dict[str, Any]]:
        return [{} for _ in generation.visual.valid]


def parts_of(method: Method) -> tuple[Method, ...]:
    return method.parts if isinstance(method, Composed) else (method,)


def choose(method: Any) -> tuple[Method, Method | None]:
    """From a method, a SPEC or a list: the one inside the model, and the one that prepares its inputs.

    Two that need the same hook are refused.
    """
    listed = method if isinstance(method, Sequence) and not isinstance(method, str) else [method]
    methods: list[Any] = []
    for one in listed:
        methods += [METHODS.build(part) for part in split_composition(one)] if isinstance(one, str) else [one]
    methods = [m for m in methods if not isinstance(m, Plain)]
    for m in methods:
        if not isinstance(m, Method):
            raise CannotAct(f"Expected a method such as va.CLVA() or a SPEC such as 'clva'; found {m!r}.")
    hooks: dict[str, Method] = {}
    for m in methods:
        for hook in m.active_hooks():
            if hook in hooks:
                raise CannotAct(
                    f"{name_of(hooks[hook])} and {name_of(m)} cannot run together: both change the model's {hook}. "
                    f"Use one of them."
                )
            hooks[hook] = m
    in_model = [m for m in methods if m.hooks != {"prepare"}]
    prepares = [m for m in methods if m.hooks == {"prepare"}]
    inside = Composed(tuple(in_model)) if len(in_model) > 1 else in_model[0] if in_model else Plain()
    return inside, prepares[0] if prepares else None
