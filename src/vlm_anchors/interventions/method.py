"""The contract of a method, whole. docs/decisions/0001-method-contract.md shows, method by method, why it is so.

A method is a frozen dataclass of its paper's parameters. It overrides only the hooks its paper uses; a hook it leaves alone
costs nothing. What changes while a model runs lives in two dictionaries the engine hands in: one born with a forward
pass (`view.kept`), one born with a generation (`view.memory`). Nothing is ever kept on the method or on the model.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from ..errors import BadParameter, UnknownName
from ..registry import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.decoder import AttentionTarget
    from ..models.vlm import Vlm
    from .attention_view import AttentionView, Edit
    from .branch_prompt import Prompt
    from .contrastive import BranchInputs
    from .forward_pass import GenerationState
    from .hooks import ForwardPass
    from .text_rows import Visual


class Preset(NamedTuple):
    """Parameters for a model and a task ("any": all). source: "official-code", "official-readme" (where the code
    itself runs with another value), "paper", or "ours" where none of them says."""

    model: str
    task: str
    source: str
    parameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.model}/{self.task}"


DEFAULTS = Preset("any", "any", "ours", {})
"""The last preset of every baseline: its defaults, with the published layers scaled to the model's depth."""


@dataclass(frozen=True)
class Method(ABC):
    """One published method with its parameters; leaves only, methods never inherit from each other."""

    hooks: ClassVar[frozenset[str]] = frozenset()
    """Which hooks this method can open ("prepare", "attention", "mlp", "hidden", "logits"); two methods with one hook in
    common do not compose."""

    families: ClassVar[tuple[str, ...]] = ()
    """Families it is tested on, where that is not all of them; `elsewhere` it "warns" or is "refused"."""
    elsewhere: ClassVar[str] = "runs"

    presets: ClassVar[tuple[Preset, ...]] = ()
    """Parameters that others used, or that we suggest, and who says so: `NAME:preset=MODEL/TASK` in a SPEC."""

    @classmethod
    def preset(cls, name: str, **parameters: Any) -> Self:
        """The method at the preset "MODEL/TASK", else, for a benchmark, the model's for "any" task; `parameters` win."""
        from ..evaluation.benchmarks import BENCHMARKS

        known = {one.name: one for one in cls.presets}
        model, _, task = str(name).partition("/")
        wanted = [str(name), *([f"{model}/any"] if not task or task in BENCHMARKS else [])]
        found = next((known[one] for one in wanted if one in known), None)
        if found is None:
            raise UnknownName(f"{name_of(cls)} has no preset {name!r}.{did_you_mean(wanted[0], known)}")
        return cls(**{**found.parameters, **parameters})

    def active_hooks(self) -> frozenset[str]:
        """Which of them these parameters open: none where the method is off."""
        return self.hooks

    @property
    def all_rows(self) -> bool:
        """Whether rows before the image count as text rows too."""
        return False

    @property
    def leaves_prefix_alone(self) -> bool:
        """Whether a prompt up to its last visual token runs as in the plain model, so that questions can share it."""
        return False

    @abstractmethod
    def disabled(self) -> "Method":
        """The same method with its parameters at zero: the plain model."""

    def check(self, target: "AttentionTarget") -> None:
        """Refuse, at attach, a model on which these parameters make no sense (a layer it does not have)."""

    def check_prompt(self, visual: "Visual") -> None:
        """Warn, once a prompt, where its visual tokens leave the method nothing to act on."""

    def prepare(self, vlm: "Vlm", inputs: Mapping[str, Any], **mlp_input: Any) -> dict[str, Any]:
        """Hook "prepare": new inputs for `generate` or a forward pass."""
        return dict(inputs)

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        """Layers (from 1) whose attention the method wants to see or edit; the others run untouched."""
        return frozenset()

    def attention(self, view: "AttentionView") -> "Edit | None":
        """Hook "attention": see one watched layer, return the edit of its text rows, or None to leave it alone."""
        return None

    def needs_pixels(self, target: "AttentionTarget") -> bool:
        """Whether the contrastive branch changes the image before the vision tower sees it."""
        return False

    def hidden_layers(self, target: "AttentionTarget") -> frozenset[int]:
        """Hook "hidden": layers (from 1) whose output the method wants to see."""
        return frozenset()

    def mlp_layers(self, target: "AttentionTarget") -> frozenset[int]:
        """Hook "mlp": layers (from 1) whose MLP's output the method changes."""
        return frozenset()

    def begin(self, prompt: "Prompt") -> None:
        """Called once a prompt, before the decoder reads it, with any of the hooks "hidden", "mlp", "logits" open."""

    def second(self, prompt: "Prompt") -> "BranchInputs | None":
        """What the contrastive branch reads in place of the prompt; None where there is no contrastive branch."""
        return None

    def hidden(self, view: "ForwardPass", layer: int, output: "Tensor") -> None:
        """Hook "hidden": see a layer's output, (b, q, d), and change nothing."""

    def mlp(self, view: "ForwardPass", layer: int, mlp_input: "Tensor", output: "Tensor") -> "Tensor | None":
        """Hook "mlp": the MLP's input and output, (b, q, d) each; return a new output, or None to leave it."""
        return None

    def head(self, view: "ForwardPass", last: "Tensor") -> "Tensor | None":
        """Hook "logits", before the output embedding: rows (b, n, d) that it multiplies in place of the last one, (b, d).

        The first row's logits become the model's, the others' are `view.early`: one product for all. None: `last` alone.
        """
        return None

    def logits(self, view: "ForwardPass", first: "Tensor", second: "Tensor | None") -> "Tensor":
        """Hook "logits": new next-token logits (b, vocabulary) from those of both branches, float32."""
        return first

    def effects(self, generation: "GenerationState") -> list[dict[str, Any]]:
        """What was done to the prompt, one JSON-able dictionary a sample, from what its pass kept."""
        return [{} for _ in generation.visual.valid]

    def spec(self) -> str:
        """The method as a SPEC, with the parameters that differ from the defaults."""
        return spec_of(self, name_of(self))


def name_of(thing: Any) -> str:
    """The catalogue name of a method or decoding, object or class; its class name in lower case if it is not registered."""
    from ..generation.decodings import DECODINGS
    from ..methods import METHODS

    if hasattr(thing, "parts"):
        return "+".join(name_of(part) for part in thing.parts)
    kind = thing if isinstance(thing, type) else type(thing)
    target = f"{kind.__module__}:{kind.__name__}"
    for entry in [*METHODS, *DECODINGS]:
        if entry.target == target:
            return entry.name
    return kind.__name__.lower()


def spec_of(thing: Any, name: str) -> str:
    """`name:parameter=value,...` with only the parameters that were moved from their defaults."""
    values = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    moved = {
        field.name: values[field.name] for field in dataclasses.fields(thing) if values[field.name] != field.default
    }
    return f"{name}:{spelled(moved)}" if moved else name


def spelled(parameters: Mapping[str, Any]) -> str:
    """`parameter=value,...` as a SPEC has it."""
    return ",".join(f"{parameter}={_spelled(value)}" for parameter, value in parameters.items())


def _spelled(value: Any) -> str:
    if isinstance(value, tuple):
        return "-".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def number(method: Any, parameter: str, low: float, high: float = float("inf"), *, whole: bool = False) -> None:
    """Raise `BadParameter` unless the parameter is a finite number in [low, high] (a whole number, if `whole`)."""
    value = getattr(method, parameter)
    kind = "a whole number" if whole else "a number"
    fits = isinstance(value, int) if whole else isinstance(value, (int, float))
    if not fits or isinstance(value, bool) or not (low <= value <= high) or value in (float("inf"), -float("inf")):
        bound = f"from {low:g} to {high:g}" if high != float("inf") else f"of {low:g} or more"
        if low == -float("inf"):
            bound = "that is finite"
        raise BadParameter(f"{type(method).__name__}.{parameter} must be {kind} {bound}; found {value!r}.")


def choice(method: Any, parameter: str, *options: Any) -> None:
    """Raise `BadParameter` unless the parameter is one of the options."""
    value = getattr(method, parameter)
    if value not in options:
        listed = ", ".join(map(repr, options))
        raise BadParameter(f"{type(method).__name__}.{parameter} must be one of {listed}; found {value!r}.")
