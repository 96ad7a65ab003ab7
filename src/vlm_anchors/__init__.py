"""Vision-language models that keep looking at the image: published attention methods on Hugging Face models.

    import vlm_anchors as va

    vlm = va.load("scenes")
    print(va.ask(vlm, "kitchen.png", "Is there a fork?", method="clva").text)

Importing this package imports neither torch nor transformers and changes nothing in them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    from .generation.method_file import save
    from .interventions.attachment import attach
    from .interventions.method import Method
    from .methods.attanchor import AttAnchor
    from .methods.attanchor_i2t import AttAnchorI2T
    from .methods.clva import CLVA
    from .training.lora import lora_config

_LAZY = {
    "attach": "vlm_anchors.interventions.attachment",
    "calibrate": "vlm_anchors.analysis.calibration",
    "lora_config": "vlm_anchors.training.lora",
    "save": "vlm_anchors.generation.method_file",
    "Method": "vlm_anchors.interventions.method",
}


def list_methods() -> tuple[Entry, ...]:
    """The methods there are: name, class, one line, source."""
    return tuple(_methods.METHODS)


def list_families() -> tuple[Family, ...]:
    """The model families methods are tested on; others are tried through generic rules, with a warning."""
    return _families.FAMILIES


def list_benchmarks() -> tuple[Entry, ...]:
    """The benchmarks there are: name, one line, source."""
    return tuple(_benchmarks.BENCHMARKS)


def __getattr__(name: str) -> Any:
    """What needs torch, loaded when first asked for: `attach`, and every method's class by its name."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    for entry in _methods.METHODS:
        if entry.class_name == name:
            return entry.load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(entry.class_name for entry in _methods.METHODS), *globals()})


__all__ = [
    "CLVA",
    "AnchorsWarning",
    "Answer",
    "AttAnchor",
    "AttAnchorI2T",
    "Beam",
    "Entry",
    "Family",
    "Greedy",
    "Method",
    "Nucleus",
    "Opera",
    "UserError",
    "Vlm",
    "__version__",
    "ask",
    "ask_many",
    "attach",
    "calibrate",
    "list_benchmarks",
    "list_families",
    "list_methods",
    "load",
    "lora_config",
    "save",
    "stream",
]
