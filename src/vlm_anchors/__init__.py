"""Vision-language models that keep looking at the image: published attention methods on Hugging Face models.

    import vlm_anchors as va

    vlm = va.load("scenes")
    print(va.ask(vlm, "kitchen.png", "Is there a fork?", method="clva").text)

Importing this package imports neither torch nor transformers and changes nothing in them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import benchmarks as _benchmarks
from . import families as _families
from . import methods as _methods
from .decoding import Beam, Greedy, Nucleus
from .errors import AnchorsWarning, UserError
from .families import Family
from .generate import ask, ask_many, stream
from .load import load
from .registry import Entry
from .types import Answer, Vlm

if TYPE_CHECKING:
    from .calibration import calibrate
    from .engine import attach
    from .methods.attanchor import AttAnchor
    from .methods.attanchor_i2t import AttAnchorI2T
    from .methods.base import Method
    from .methods.clva import CLVA
    from .train.lora import lora_config

__version__ = "0.1.0.dev0"

_LAZY = {
    "attach": "vlm_anchors.engine",
    "calibrate": "vlm_anchors.calibration",
    "lora_config": "vlm_anchors.train.lora",
    "Method": "vlm_anchors.methods.base",
}


# `methods`, `families` and `load` are submodules as well: defined after those were imported, these names stay functions.
def methods() -> tuple[Entry, ...]:
    """The methods there are: name, class, one line, source."""
    return tuple(_methods.METHODS)


def families() -> tuple[Family, ...]:
    """The model families methods are tested on; others are tried through generic rules, with a warning."""
    return _families.FAMILIES


def benchmarks() -> tuple[Entry, ...]:
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
    "UserError",
    "Vlm",
    "ask",
    "ask_many",
    "attach",
    "benchmarks",
    "calibrate",
    "families",
    "load",
    "lora_config",
    "methods",
    "stream",
]
