"""Methods that act together: each hook is used by one of them, and each has a state of its own."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import CannotAct
from ..parameters import name_of

if TYPE_CHECKING:
    from ..models.decoder import AttentionTarget


class Part(NamedTuple):
    """One method of a composition and its number, under which its state is found."""

    number: int
    method: Any
    """A `method.Method`, whose hooks name the types that are made from this one."""


@dataclass(frozen=True)
class Composition:
    """The methods that act inside a model at the same time; none: the plain model.

    A contrastive branch runs without any of them: what it reads is the plain model's.
    """

    parts: tuple[Any, ...] = ()
    _hooks: dict[str, Part] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Not a `cached_property`: until Python 3.12 it holds a lock, which a child forked in that moment never gets.
        hooks = {hook: Part(number, part) for number, part in enumerate(self.parts) for hook in part.active_hooks()}
        object.__setattr__(self, "_hooks", hooks)

    def at(self, hook: str) -> Part | None:
        """The method that uses a hook."""
        return self._hooks.get(hook)

    def using(self, hooks: frozenset[str]) -> list[Part]:
        """The methods that use any of these hooks."""
        return [Part(number, one) for number, one in enumerate(self.parts) if one.active_hooks() & hooks]

    @property
    def target(self) -> str:
        """Where all of them act; "auto" unless one must be at the language model."""
        return "decoder" if any(part.target == "decoder" for part in self.parts) else "auto"

    @property
    def all_rows(self) -> bool:
        return any(part.rows == "all" for part in self.parts)

    @property
    def image_rows(self) -> bool:
        """Whether visual tokens count as rows too."""
        return any(part.rows == "image" and "attention" in part.active_hooks() for part in self.parts)

    def check(self, target: "AttentionTarget") -> None:
        """Refuse a model on which they cannot act, or cannot act together."""
        if len({part.target for part in self.parts}) > 1 and target.family.target == "qformer":
            names = " and ".join(name_of(part) for part in self.parts)
            raise CannotAct(
                f"{names} act in different places of {target.family.title}: its Q-Former and its language model. Use one "
                "of them, or give clva target='decoder'."
            )
        for part in self.parts:
            part.check(target)

    def layers(self, hook: str, target: "AttentionTarget") -> frozenset[int]:
        """Layers, from 1, at which "attention", "hidden" or "mlp" is used."""
        part = self.at(hook)
        return frozenset() if part is None else getattr(part.method, f"{hook}_layers")(target)
