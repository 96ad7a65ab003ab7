"""Which parameters the page offers as sliders; every other one is typed, as on the command line."""

import inspect
import re
from typing import Any

from ...methods import METHODS
from ...specs import MethodLike

SLIDERS: dict[str, dict[str, tuple[float, float, float]]] = {
    "clva": {"alpha": (0, 50, 0.5), "beta": (0, 1, 0.05), "tau": (0, 4, 0.1), "lam": (0, 3, 0.1)},
    "attanchor": {"tau": (0, 1, 0.01)},
    "attanchor-i2t": {"tau": (0, 1, 0.01), "pause_tokens": (0, 16, 1)},
    "avisc": {"alpha": (0, 3, 0.1), "beta": (0, 1, 0.05), "lam": (0, 3, 0.1)},
    "clearsight": {"enhance": (1, 2, 0.05), "suppress": (0, 1, 0.05)},
    "deco": {"alpha": (0, 2, 0.05)},
    "icd": {"alpha": (0, 3, 0.1), "beta": (0, 1, 0.05)},
    "imccd": {"alpha": (0, 3, 0.1), "beta": (0, 1, 0.05)},
    "m3id": {"rate": (0, 0.5, 0.01), "cut": (0, 1, 0.05)},
    "memvr": {"alpha": (0, 1, 0.01), "gamma": (0, 1, 0.05)},
    "middle-layers": {"alpha": (0, 2, 0.05)},
    "only": {"add": (0, 5, 0.1), "subtract": (0, 3, 0.1), "gamma": (0, 2, 0.05)},
    "pai": {"alpha": (0, 1, 0.05), "gamma": (1, 3, 0.1)},
    "sid": {"alpha": (0, 3, 0.1), "beta": (0, 1, 0.05)},
    "vcd": {"alpha": (0, 3, 0.1), "beta": (0, 1, 0.05), "step": (0, 999, 1)},
    "vista": {"lam": (0, 1, 0.01), "mix": (0, 1, 0.05)},
}
"""Method -> parameter -> (lowest, highest, step): what is worth trying, not all that is allowed."""


def about(method: str, parameter: str) -> str:
    """What the method's own docstring says of a parameter, up to its first full stop or bracket."""
    text = " ".join((inspect.getdoc(METHODS.get(method).load()) or "").split())
    found = re.search(rf"\b{parameter}: ((?:[^.(]|\.(?=\d))*)", text)
    return found[1].strip() if found else ""


def chosen(methods: list[str], values: dict[tuple[str, str], float], specs: str) -> list[MethodLike]:
    """What to ask with: the ticked methods with their sliders' values, in the catalogue's order, then each typed SPEC."""
    ticked: list[Any] = []
    for name in (entry.name for entry in METHODS if entry.name in methods):
        parameters = {parameter: value for (method, parameter), value in values.items() if method == name}
        ticked.append(METHODS.get(name).load()(**parameters))
    return [*ticked, *specs.split()]
