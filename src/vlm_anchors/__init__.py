"""Vision-language models that keep looking at the image: published attention methods on Hugging Face models.

    import vlm_anchors as va

    vlm = va.load("scenes")
    print(va.ask(vlm, "kitchen.png", "Is there a fork?", method="clva").text)

Importing this package imports neither torch nor transformers and changes nothing in them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from . import methods as _methods
from .errors import AnchorsWarning, UserError
from .evaluation import benchmarks as _benchmarks
from .generation.decodings import Beam, Greedy, Nucleus
from .generation.generate import ask, ask_many, stream
from .generation.opera import Opera
from .models import families as _families
from .models.families import Family
from .models.load import load
from .models.vlm import Vlm
from .registry import Entry
from .types import Answer
from .version import __version__

if TYPE_CHECKING:
    from .analysis.calibration import calibrate
    from .analysis.capture import Capture
    from .evaluation.benchmarks.base import Benchmark, Metric, Question
    from .evaluation.reporting.text import report
    from .evaluation.runner import evaluate
    from .generation.method_file import save
    from .interventions.attachment import attach, disable, enable
    from .interventions.attention_view import AttentionEdit, AttentionView
    from .interventions.branch.branch_prompt import Prompt
    from .interventions.branch.contrastive import BranchInputs
    from .interventions.forward_pass import PER_SAMPLE, Generation
    from .interventions.forward_view import ForwardPass
    from .interventions.handle import Handle
    from .interventions.method import Method, Preset
    from .methods.attanchor import AttAnchor
    from .methods.attanchor_i2t import AttAnchorI2T
    from .methods.clva import CLVA
    from .models.decoder import AttentionTarget
    from .parameters import parameter
    from .training.lora import lora_config
    from .tuning.result import Tuning
    from .tuning.tune import tune

_Class = TypeVar("_Class", bound=type)
_LAZY = {
    "analysis.calibration": ("calibrate",),
    "analysis.capture": ("Capture",),
    "evaluation.benchmarks.base": ("Benchmark", "Metric", "Question"),
    "evaluation.reporting.text": ("report",),
    "evaluation.runner": ("evaluate",),
    "generation.method_file": ("save",),
    "interventions.attachment": ("attach", "disable", "enable"),
    "interventions.attention_view": ("AttentionEdit", "AttentionView"),
    "interventions.branch.branch_prompt": ("Prompt",),
    "interventions.branch.contrastive": ("BranchInputs",),
    "interventions.forward_pass": ("PER_SAMPLE", "Generation"),
    "interventions.handle": ("Handle",),
    "interventions.hooks": ("ForwardPass",),
    "interventions.method": ("Method", "Preset"),
    "models.decoder": ("AttentionTarget",),
    "parameters": ("parameter",),
    "training.lora": ("lora_config",),
    "tuning.result": ("Tuning",),
    "tuning.tune": ("tune",),
}
_MODULES = {name: module for module, names in _LAZY.items() for name in names}


def list_methods() -> tuple[Entry, ...]:
    """The methods there are, those of installed packages included: name, class, one line, source."""
    return tuple(_methods.METHODS)


def list_families() -> tuple[Family, ...]:
    """The model families methods are tested on; others are tried through generic rules, with a warning."""
    return _families.FAMILIES


def list_benchmarks() -> tuple[Entry, ...]:
    """The benchmarks there are, those of installed packages included: name, one line, source."""
    return tuple(_benchmarks.BENCHMARKS)


def register(kind: _Class) -> _Class:
    """Make a method or benchmark of your own known by its name in this process; also as a decorator of the class.

    A benchmark's name is its `name`, a method's is its class name in lower case. A package does the same for every process
    by an entry point (docs/extending.md).

    Raises:
        UnknownName: The name is taken, or no name.
    """
    catalogue = _benchmarks.BENCHMARKS if hasattr(kind, "metrics_of") else _methods.METHODS
    summary = (kind.__doc__ or "").strip().partition("\n")[0]
    name = getattr(kind, "name", kind.__name__.lower())
    catalogue.add(Entry(name, f"{kind.__module__}:{kind.__name__}", summary, "registered here", kind))
    return kind


def __getattr__(name: str) -> Any:
    """What needs torch, loaded when first asked for: `attach`, and every method's class by its name."""
    if name in _MODULES:
        return getattr(import_module(f"vlm_anchors.{_MODULES[name]}"), name)
    for entry in _methods.METHODS:
        if entry.class_name == name:
            return entry.load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(entry.class_name for entry in _methods.METHODS)})


__all__ = [
    "CLVA",
    "PER_SAMPLE",
    "AnchorsWarning",
    "Answer",
    "AttAnchor",
    "AttAnchorI2T",
    "AttentionEdit",
    "AttentionTarget",
    "AttentionView",
    "Beam",
    "Benchmark",
    "BranchInputs",
    "Capture",
    "Entry",
    "Family",
    "ForwardPass",
    "Generation",
    "Greedy",
    "Handle",
    "Method",
    "Metric",
    "Nucleus",
    "Opera",
    "Preset",
    "Prompt",
    "Question",
    "Tuning",
    "UserError",
    "Vlm",
    "__version__",
    "ask",
    "ask_many",
    "attach",
    "calibrate",
    "disable",
    "enable",
    "evaluate",
    "list_benchmarks",
    "list_families",
    "list_methods",
    "load",
    "lora_config",
    "parameter",
    "register",
    "report",
    "save",
    "stream",
    "tune",
]
