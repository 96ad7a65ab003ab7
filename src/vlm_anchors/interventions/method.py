"""The contract of a method, whole. docs/decisions/0001-method-contract.md shows, method by method, why it is so.

A method is a frozen dataclass of its paper's dials. It overrides only the doors its paper uses; a door it leaves alone
costs nothing. What changes while a model runs lives in two dictionaries the engine hands in: one born with a forward
pass (`view.kept`), one born with a generation (`view.memory`). Nothing is ever kept on the method or on the model.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from ..errors import BadDial, UnknownName
from ..registry import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.decoder import Site
    from ..types import Vlm
    from .attention_view import AttentionView, Edit
    from .branch_prompt import Prompt
    from .contrastive import Branch
    from .forward_pass import Generation
    from .hooks import PassView
    from .text_rows import Visual


class Preset(NamedTuple):
    """Dials for a model and a task ("any": whatever it is). source: "official-code", "paper", or "ours" where neither says."""

    model: str
    task: str
    source: str
    dials: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.model}/{self.task}"


DEFAULTS = Preset("any", "any", "ours", {})
"""The last preset of every baseline: its defaults, with the published layers scaled to the model's depth."""


@dataclass(frozen=True)
class Method(ABC):
    """One published method with its dials; leaves only, methods never inherit from each other."""

    doors: ClassVar[frozenset[str]] = frozenset()
    """Which doors this method can open ("prepare", "attention", "mlp", "hidden", "logits"); two methods with one door in
    common do not compose."""

    families: ClassVar[tuple[str, ...]] = ()
    """Families it is tested on, where that is not all of them; `elsewhere` it "warns" or is "refused"."""
    elsewhere: ClassVar[str] = "runs"

    presets: ClassVar[tuple[Preset, ...]] = ()
    """Dials that others used, or that we suggest, and who says so: `NAME:preset=MODEL/TASK` in a SPEC."""

    @classmethod
    def preset(cls, name: str, **dials: Any) -> Self:
        """The method at the preset "MODEL/TASK", else, for a benchmark, the model's for "any" task; `dials` win."""
        from ..evaluation.benchmarks import BENCHMARKS

        known = {one.name: one for one in cls.presets}
        model, _, task = str(name).partition("/")
        wanted = [str(name), *([f"{model}/any"] if not task or task in BENCHMARKS else [])]
        found = next((known[one] for one in wanted if one in known), None)
        if found is None:
            raise UnknownName(f"{name_of(cls)} has no preset {name!r}.{did_you_mean(wanted[0], known)}")
        return cls(**{**found.dials, **dials})

    def opened(self) -> frozenset[str]:
        """Which of them these dials open: none where the method is off."""
        return self.doors

    @property
    def all_rows(self) -> bool:
        """Whether rows before the image count as text rows too."""
        return False

    @property
    def leaves_prefix_alone(self) -> bool:
        """Whether a prompt up to its last visual token runs as in the plain model, so that questions can share it."""
        return False

    @abstractmethod
    def neutral(self) -> "Method":
        """The same method with its dials at zero: the plain model."""

    def check(self, site: "Site") -> None:
        """Refuse, at attach, a model on which these dials make no sense (a layer it does not have)."""

    def check_prompt(self, visual: "Visual") -> None:
        """Warn, once a prompt, where its visual tokens leave the method nothing to act on."""

    def prepare(self, vlm: "Vlm", inputs: Mapping[str, Any], **given: Any) -> dict[str, Any]:
        """Door "prepare": new inputs for `generate` or a forward pass."""
        return dict(inputs)

    def watched(self, site: "Site") -> frozenset[int]:
        """Layers (from 1) whose attention the method wants to see or edit; the others run untouched."""
        return frozenset()

    def attention(self, view: "AttentionView") -> "Edit | None":
        """Door "attention": see one watched layer, return the edit of its text rows, or None to leave it alone."""
        return None

    def needs_pixels(self, site: "Site") -> bool:
        """Whether the second branch changes the image before the vision tower sees it."""
        return False

    def read_layers(self, site: "Site") -> frozenset[int]:
        """Door "hidden": layers (from 1) whose output the method wants to see."""
        return frozenset()

    def fed_layers(self, site: "Site") -> frozenset[int]:
        """Door "mlp": layers (from 1) whose MLP's output the method changes."""
        return frozenset()

    def begin(self, prompt: "Prompt") -> None:
        """Called once a prompt, before the decoder reads it, with any of the doors "hidden", "mlp", "logits" open."""

    def second(self, prompt: "Prompt") -> "Branch | None":
        """What the second branch reads in place of the prompt; None where there is no second branch."""
        return None

    def hidden(self, view: "PassView", layer: int, output: "Tensor") -> None:
        """Door "hidden": see a layer's output, (b, q, d), and change nothing."""

    def mlp(self, view: "PassView", layer: int, given: "Tensor", output: "Tensor") -> "Tensor | None":
        """Door "mlp": the MLP's input and output, (b, q, d) each; return a new output, or None to leave it."""
        return None

    def head(self, view: "PassView", last: "Tensor") -> "Tensor | None":
        """Door "logits", before the output embedding: rows (b, n, d) that it multiplies in place of the last one, (b, d).

        The first row's logits become the model's, the others' are `view.early`: one product for all. None: `last` alone.
        """
        return None

    def logits(self, view: "PassView", first: "Tensor", second: "Tensor | None") -> "Tensor":
        """Door "logits": new next-token logits (b, vocabulary) from those of both branches, float32."""
        return first

    def acted(self, generation: "Generation") -> list[dict[str, Any]]:
        """What was done to the prompt, one JSON-able dictionary a sample, from what its pass kept."""
        return [{} for _ in generation.visual.valid]

    def spec(self) -> str:
        """The method as a SPEC, with the dials that differ from the defaults."""
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
    """`name:dial=value,...` with only the dials that were moved from their defaults."""
    values = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    moved = {
        field.name: values[field.name] for field in dataclasses.fields(thing) if values[field.name] != field.default
    }
    return f"{name}:{spelled(moved)}" if moved else name


def spelled(dials: Mapping[str, Any]) -> str:
    """`dial=value,...` as a SPEC has it."""
    return ",".join(f"{dial}={_spelled(value)}" for dial, value in dials.items())


def _spelled(value: Any) -> str:
    if isinstance(value, tuple):
        return "-".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def number(method: Any, dial: str, low: float, high: float = float("inf"), *, whole: bool = False) -> None:
    """Raise `BadDial` unless the dial is a finite number in [low, high] (a whole number, if `whole`)."""
    value = getattr(method, dial)
    kind = "a whole number" if whole else "a number"
    fits = isinstance(value, int) if whole else isinstance(value, (int, float))
    if not fits or isinstance(value, bool) or not (low <= value <= high) or value in (float("inf"), -float("inf")):
        bound = f"from {low:g} to {high:g}" if high != float("inf") else f"of {low:g} or more"
        if low == -float("inf"):
            bound = "that is finite"
        raise BadDial(f"{type(method).__name__}.{dial} must be {kind} {bound}; found {value!r}.")


def choice(method: Any, dial: str, *options: Any) -> None:
    """Raise `BadDial` unless the dial is one of the options."""
    value = getattr(method, dial)
    if value not in options:
        listed = ", ".join(map(repr, options))
        raise BadDial(f"{type(method).__name__}.{dial} must be one of {listed}; found {value!r}.")
