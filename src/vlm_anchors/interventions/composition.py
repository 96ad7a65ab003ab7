"""Several methods inside one model: each door is opened by one of them."""

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

    from ..models.decoder import Site
    from .attention_view import AttentionView, Edit
    from .branch_prompt import Prompt
    from .contrastive import Branch
    from .forward_pass import Generation
    from .hooks import PassView
    from .text_rows import Visual


@dataclass(frozen=True)
class Composed(Method):
    """What the engine sees of methods that were given in a list and work inside the model; their doors do not overlap.

    A second branch runs without any of them: what it reads is the plain model's.
    """

    parts: tuple[Method, ...] = ()

    def opened(self) -> frozenset[str]:
        return frozenset().union(*(part.opened() for part in self.parts))

    @property
    def site(self) -> str:
        """Where all of them act; "auto" unless one must be at the language model."""
        return "decoder" if any(getattr(part, "site", "auto") == "decoder" for part in self.parts) else "auto"

    def at(self, door: str) -> Method | None:
        return next((part for part in self.parts if door in part.opened()), None)

    def neutral(self) -> "Composed":
        return Composed(tuple(part.neutral() for part in self.parts))

    def check(self, site: "Site") -> None:
        kinds = {getattr(part, "site", "auto") for part in self.parts}
        if len(kinds) > 1 and site.family.site == "qformer":
            names = " and ".join(name_of(part) for part in self.parts)
            raise CannotAct(
                f"{names} act in different places of {site.family.title}: its Q-Former and its language model. Use one "
                "of them, or give clva site='decoder'."
            )
        for part in self.parts:
            part.check(site)

    def check_prompt(self, visual: "Visual") -> None:
        for part in self.parts:
            if part.opened():
                part.check_prompt(visual)

    def watched(self, site: "Site") -> frozenset[int]:
        part = self.at("attention")
        return frozenset() if part is None else part.watched(site)

    def attention(self, view: "AttentionView") -> "Edit | None":
        part = self.at("attention")
        return None if part is None else part.attention(view)

    def needs_pixels(self, site: "Site") -> bool:
        return any(part.needs_pixels(site) for part in self.parts)

    def read_layers(self, site: "Site") -> frozenset[int]:
        part = self.at("hidden")
        return frozenset() if part is None else part.read_layers(site)

    def fed_layers(self, site: "Site") -> frozenset[int]:
        part = self.at("mlp")
        return frozenset() if part is None else part.fed_layers(site)

    def begin(self, prompt: "Prompt") -> None:
        for part in self.parts:
            if part.opened():
                part.begin(prompt)

    def second(self, prompt: "Prompt") -> "Branch | None":
        part = self.at("logits")
        return None if part is None else part.second(prompt)

    def hidden(self, view: "PassView", layer: int, output: "Tensor") -> None:
        part = self.at("hidden")
        if part is not None:
            part.hidden(view, layer, output)

    def mlp(self, view: "PassView", layer: int, given: "Tensor", output: "Tensor") -> "Tensor | None":
        part = self.at("mlp")
        return None if part is None else part.mlp(view, layer, given, output)

    def head(self, view: "PassView", last: "Tensor") -> "Tensor | None":
        part = self.at("logits")
        return None if part is None else part.head(view, last)

    def logits(self, view: "PassView", first: "Tensor", second: "Tensor | None") -> "Tensor":
        part = self.at("logits")
        return first if part is None else part.logits(view, first, second)

    def acted(self, generation: "Generation") -> list[dict[str, Any]]:
        return [{} for _ in generation.visual.valid]


def parts_of(method: Method) -> tuple[Method, ...]:
    return method.parts if isinstance(method, Composed) else (method,)


def choose(method: Any) -> tuple[Method, Method | None]:
    """From a method, a SPEC or a list: the one inside the model, and the one that prepares its inputs.

    Two that need the same door are refused.
    """
    listed = method if isinstance(method, Sequence) and not isinstance(method, str) else [method]
    methods: list[Any] = []
    for one in listed:
        methods += [METHODS.build(part) for part in split_composition(one)] if isinstance(one, str) else [one]
    methods = [m for m in methods if not isinstance(m, Plain)]
    for m in methods:
        if not isinstance(m, Method):
            raise CannotAct(f"Expected a method such as va.CLVA() or a SPEC such as 'clva'; found {m!r}.")
    doors: dict[str, Method] = {}
    for m in methods:
        for door in m.opened():
            if door in doors:
                raise CannotAct(
                    f"{name_of(doors[door])} and {name_of(m)} cannot run together: both change the model's {door}. "
                    f"Use one of them."
                )
            doors[door] = m
    in_model = [m for m in methods if m.doors != {"prepare"}]
    prepares = [m for m in methods if m.doors == {"prepare"}]
    inside = Composed(tuple(in_model)) if len(in_model) > 1 else in_model[0] if in_model else Plain()
    return inside, prepares[0] if prepares else None
