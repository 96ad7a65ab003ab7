"""Which parameters the page offers as sliders; every other one is typed, as on the command line."""

import inspect
import re
from typing import Any

from ...methods import METHODS
from ...parameters import parameters_of
from ...specs import MethodLike


def sliders(method: str) -> dict[str, tuple[float, float, float]]:
    """Parameter -> (lowest, highest, step): what is worth trying, not all that is allowed."""
    declared = parameters_of(METHODS.get(method).load())
    return {name: one.slider for name, one in declared.items() if one.slider is not None}


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
