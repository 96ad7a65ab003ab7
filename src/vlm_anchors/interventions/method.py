"""The contract of a method, whole. docs/decisions/0001-method-contract.md shows, method by method, why it is so.

A method is a frozen dataclass of its paper's parameters. It overrides only the hooks its paper uses; a hook it leaves alone
costs nothing. What changes while a model runs lives in two objects that the method itself defines: one per forward pass
(`new_pass_state`) and one per generation (`new_state`). Nothing is ever kept on the method or on the model, and methods
that are composed never see each other's state.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from ..errors import CannotAct, UnknownName
from ..parameters import KnownParameters, name_of, spec_of, validate
from ..registry import CATALOGUES, did_you_mean, split_composition
from .composition import Composition

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.decoder import AttentionTarget
    from ..models.vlm import Vlm
    from .attention_view import AttentionEdit, AttentionView
    from .branch.branch_prompt import Prompt
    from .branch.contrastive import BranchInputs
    from .branch.model_branch import ModelInputs
    from .forward_pass import Generation
    from .forward_view import ForwardPass
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
class Method(KnownParameters, ABC):
    """One published method with its parameters; leaves only, methods never inherit from each other.

    Fields are declared with `parameter(default, low, high, ...)`, from which they are checked and the app's sliders made.
    """

    hooks: ClassVar[frozenset[str]] = frozenset()
    """Which hooks this method can use ("prepare", "attention", "mlp", "hidden", "logits"); two methods with one hook in
    common do not compose."""
    target: ClassVar[str] = "auto"
    """In Q-Former models, act in the Q-Former ("auto") or in the language model ("decoder"); elsewhere the same."""
    rows: ClassVar[str] = "after"
    """Text rows are those "after" the first visual token, or "all" that are not visual; with "image" every row from the
    first visual token on, visual or not."""
    after_insertion: ClassVar[bool] = False
    """Whether its `prepare` takes inputs that another method prepared, and so runs after it."""

    families: ClassVar[tuple[str, ...]] = ()
    """Families it is tested on, where that is not all of them; `elsewhere` it "warns" or is "refused"."""
    elsewhere: ClassVar[str] = "runs"

    reads_samples: ClassVar[bool] = False
    """Whether `prepare` needs the questions and images themselves, `samples=`; a model alone cannot give it those."""

    presets: ClassVar[tuple[Preset, ...]] = ()
    """Parameters that others used, or that we suggest, and who says so: `NAME:preset=MODEL/TASK` in a SPEC."""

    def __post_init__(self) -> None:
        validate(self)

    @classmethod
    def preset(cls, name: str, **parameters: Any) -> Self:
        """The method at the preset "MODEL/TASK", else, for a benchmark, the model's for "any" task; `parameters` win."""
        return from_preset(cls, name, parameters)

    def active_hooks(self) -> frozenset[str]:
        """Which of its hooks these parameters use: none where the method is off."""
        return self.hooks

    @property
    def leaves_prefix_alone(self) -> bool:
        """Whether a prompt up to its last visual token runs as in the plain model, so that questions can share it."""
        return False

    @abstractmethod
    def disabled(self) -> "Method":
        """The same method with its parameters at zero: the plain model."""

    def new_state(self) -> Any:
        """What the method remembers from one forward pass to the next: an object of its own, one per generation.

        It is copied with the cache. A field with `metadata=PER_SAMPLE` is a tensor, samples first, that follows the beams.
        """
        return None

    def new_pass_state(self) -> Any:
        """What the method remembers from one layer to the next: an object of its own, one per forward pass.

        Write each field once: a replay under gradient checkpointing must find the same.
        """
        return None

    def check(self, target: "AttentionTarget") -> None:
        """Refuse, at attach, a model on which these parameters make no sense (a layer it does not have)."""

    def check_prompt(self, visual: "Visual") -> None:
        """Warn, once a prompt, where its visual tokens leave the method nothing to act on."""

    def prepare(self, vlm: "Vlm", inputs: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Hook "prepare": new inputs for `generate` or a forward pass.

        Args:
            vlm: What the method was attached to.
            inputs: What the processor returned.
            options: `samples` (the questions and images themselves, where `reads_samples`), and what the method defines.

        Returns:
            The inputs, changed.
        """
        return dict(inputs)

    def attention_layers(self, target: "AttentionTarget") -> frozenset[int]:
        """Layers (from 1) whose attention the method wants to see or edit; the others run untouched."""
        return frozenset()

    def attention(self, view: "AttentionView") -> "AttentionEdit | None":
        """Hook "attention": see one of these layers, return the edit of its text rows, or None to leave it alone."""
        return None

    def hidden_layers(self, target: "AttentionTarget") -> frozenset[int]:
        """Hook "hidden": layers (from 1) whose output the method wants to see."""
        return frozenset()

    def hidden(self, view: "ForwardPass", layer: int, output: "Tensor") -> None:
        """Hook "hidden": see a layer's output, (b, q, d), and change nothing."""

    def mlp_layers(self, target: "AttentionTarget") -> frozenset[int]:
        """Hook "mlp": layers (from 1) whose MLP's output the method changes."""
        return frozenset()

    def mlp(self, view: "ForwardPass", layer: int, mlp_input: "Tensor", output: "Tensor") -> "Tensor | None":
        """Hook "mlp": the MLP's input and output, (b, q, d) each; return a new output, or None to leave it."""
        return None

    def begin(self, prompt: "Prompt") -> None:
        """Called once a prompt, before the decoder reads it, where any of "hidden", "mlp", "logits" is used."""

    def branch(self, prompt: "Prompt") -> "BranchInputs | ModelInputs | None":
        """Hook "logits": what the contrastive branch reads in place of the prompt; None: no contrastive branch."""
        return None

    def lm_head(self, view: "ForwardPass", last: "Tensor") -> "Tensor | None":
        """Hook "logits": rows (b, n, d) that the LM head multiplies in place of the last hidden state, (b, d).

        The first row's logits become the model's, the others' are `view.early`: one product for all. None: `last` alone.
        """
        return None

    def logits(self, view: "ForwardPass", first: "Tensor", second: "Tensor | None") -> "Tensor":
        """Hook "logits": new next-token logits (b, vocabulary), float32.

        Args:
            view: The forward pass.
            first: The model's own logits, (b, vocabulary).
            second: The contrastive branch's; None where there is none.

        Returns:
            The logits to choose the next token from.
        """
        return first

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        """What was done to the prompt, one JSON-able dictionary a sample, from what was counted where it was done."""
        return [{} for _ in generation.visual.valid]

    def spec(self) -> str:
        """The method as a SPEC, with the parameters that differ from the defaults."""
        return spec_of(self, name_of(self))


def from_preset(cls: Any, name: str, parameters: Mapping[str, Any]) -> Any:
    """A method or decoding at one of its presets; `parameters` win. Raises `UnknownName`."""
    known = {one.name: one for one in cls.presets}
    model, _, task = str(name).partition("/")
    benchmarks = CATALOGUES.get("benchmark", ())
    wanted = [str(name), *([f"{model}/any"] if not task or task in benchmarks else [])]
    found = next((known[one] for one in wanted if one in known), None)
    if found is None:
        raise UnknownName(f"{name_of(cls)} has no preset {name!r}.{did_you_mean(wanted[0], known)}")
    return cls(**{**found.parameters, **parameters})


def preparing(methods: Sequence[Method]) -> list[Method]:
    """Those that prepare inputs, in the order in which they must."""
    return sorted((one for one in methods if "prepare" in one.active_hooks()), key=lambda one: one.after_insertion)


def compose(method: Any) -> tuple[Composition, list[Method]]:
    """From a method, a SPEC or a list: those inside the model, and those that prepare its inputs.

    Two that need the same hook are refused, except that inputs which one prepared may be prepared by one that comes after
    (`Method.after_insertion`).
    """
    listed = method if isinstance(method, Sequence) and not isinstance(method, str) else [method]
    methods: list[Any] = []
    for one in listed:
        catalogue = CATALOGUES["method"]
        methods += [catalogue.build(part) for part in split_composition(one)] if isinstance(one, str) else [one]
    hooks: dict[str, Method] = {}
    for m in methods:
        if not isinstance(m, Method):
            raise CannotAct(f"Expected a method such as va.CLVA() or a SPEC such as 'clva'; found {m!r}.")
        for hook in m.active_hooks():
            use = "prepare, again" if hook == "prepare" and m.after_insertion else hook
            if use in hooks:
                raise CannotAct(
                    f"{name_of(hooks[use])} and {name_of(m)} cannot run together: both change the model's {hook}. "
                    f"Use one of them."
                )
            hooks[use] = m
    inputs_only = frozenset({"prepare"})
    inside = tuple(m for m in methods if m.hooks and inputs_only not in (m.hooks, m.active_hooks()))
    return Composition(inside), preparing(methods)


__all__ = ["DEFAULTS", "Method", "Preset", "compose", "from_preset", "name_of", "preparing"]
