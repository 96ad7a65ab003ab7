"""Parameters of methods, decodings and benchmarks: declared once, on the field. Imports nothing heavy.

A parameter's range, choices and slider stand beside its default; validation, the command line's SPEC and the app's sliders
are derived from them.
"""

import dataclasses
import functools
import inspect
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, Self, TypeVar

from .errors import AnchorsWarning, BadParameter, UnknownParameter
from .registry import CATALOGUES, did_you_mean, parse_value, require_known

_P, _R = ParamSpec("_P"), TypeVar("_R")

INF = float("inf")
_KEY = "parameter"


@dataclass(frozen=True)
class Parameter:
    """What a field of a method may hold.

    Attributes:
        kind: "number", "whole" (a whole number), "choice", "switch" (True or False), "layers" ((first, last), from 1), or
            "free", which is checked by the class itself.
        low: Lowest value allowed.
        high: Highest value allowed.
        choices: Values allowed, where `kind` is "choice".
        optional: Whether None is allowed as well.
        slider: (lowest, highest, step) worth trying, for the app; None = no slider.
        senseless: (comparison, bound, what happens) of numbers that are allowed, for experiments, but do not do what the
            method is meant to do: a warning says what happens. The comparison is "<", ">" or "=".
    """

    kind: str = "free"
    low: float = -INF
    high: float = INF
    choices: tuple[Any, ...] = ()
    optional: bool = False
    slider: tuple[float, float, float] | None = None
    senseless: tuple[tuple[str, float, str], ...] = ()

    def check(self, thing: Any, name: str) -> None:
        """Raise `BadParameter` where the value of `thing.name` is not allowed."""
        if self.kind == "layers":
            return check_layers(thing, name, optional=self.optional)
        if self.optional and getattr(thing, name) is None:
            return None
        if self.kind in ("number", "whole"):
            return number(thing, name, self.low, self.high, whole=self.kind == "whole")
        if self.kind == "choice":
            return choice(thing, name, *self.choices)
        return switch(thing, name) if self.kind == "switch" else None


def parameter(
    default: Any,
    low: float | None = None,
    high: float = INF,
    *,
    whole: bool = False,
    choices: tuple[Any, ...] = (),
    layers: bool = False,
    optional: bool = False,
    slider: tuple[float, float, float] | None = None,
    senseless: tuple[tuple[str, float, str], ...] = (),
) -> Any:
    """A field of a method with what it may hold: `alpha: float = parameter(1.0, 0, slider=(0, 3, 0.1))`.

    Args:
        default: The default value.
        low: Lowest number allowed; -inf for any. Given, the parameter is a number.
        high: Highest number allowed.
        whole: Whether the number must be a whole one.
        choices: The values allowed; given, the parameter is one of them.
        layers: Whether it is a range of layers, (first, last), counted from 1.
        optional: Whether None is allowed as well.
        slider: (lowest, highest, step) worth trying, for the app.
        senseless: (comparison, bound, what happens) of numbers that are allowed but warned of: `(("<", 0, "..."),)`.
    """
    kind = "free"
    if layers:
        kind = "layers"
    elif choices:
        kind = "choice"
    elif isinstance(default, bool):
        kind = "switch"
    elif low is not None:
        kind = "whole" if whole else "number"
    found = Parameter(kind, -INF if low is None else low, high, choices, optional, slider, senseless)
    return dataclasses.field(default=default, metadata={_KEY: found})


class KnownParameters:
    """A dataclass that refuses a misspelt keyword as a SPEC does: with the name that was probably meant."""

    def __new__(cls, *values: Any, **parameters: Any) -> Self:
        if parameters:
            known = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
            require_known(name_of(cls), parameters, known)
        return super().__new__(cls)


def known_arguments(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, refusing a keyword that it does not have with the one that was probably meant."""
    known = [name for name, one in inspect.signature(function).parameters.items() if one.kind != one.VAR_KEYWORD]

    @functools.wraps(function)
    def checked(*args: _P.args, **keywords: _P.kwargs) -> _R:
        for name in keywords:
            if name not in known:
                raise UnknownParameter(f"{function.__name__} has no argument {name!r}.{_meant(name, known)}")
        return function(*args, **keywords)

    return checked


def _meant(name: str, known: list[str]) -> str:
    """What was probably meant: a parameter of a method stands in its SPEC, anything else is misspelt."""
    methods = CATALOGUES.get("method", ())
    owners = [entry.name for entry in methods if name in parameters_of(entry.load())] if "method" in known else []
    if owners and name not in known:
        more = f" and of {len(owners) - 1} more methods" if len(owners) > 1 else ""
        return f" It is a parameter of {owners[0]}{more}: method='{owners[0]}:{name}=...'."
    return did_you_mean(name, known)


def parameters_of(kind: Any) -> dict[str, Parameter]:
    """Name -> `Parameter` of every field of a method (class or object); "free" where nothing was declared."""
    return {one.name: one.metadata.get(_KEY, Parameter()) for one in dataclasses.fields(kind) if one.init}


def validate(thing: Any) -> None:
    """Raise `BadParameter` for the first field whose value is not allowed."""
    for name, declared in parameters_of(thing).items():
        declared.check(thing, name)
        if declared.senseless:
            _warn_of_senseless(thing, name, declared.senseless)


def _warn_of_senseless(thing: Any, name: str, senseless: tuple[tuple[str, float, str], ...]) -> None:
    """Says what a number does that the method is not meant to do. Python shows a sentence once for each place it comes from."""
    value = getattr(thing, name)
    for comparison, bound, what in senseless:
        if {"<": value < bound, ">": value > bound, "=": value == bound}[comparison]:
            warnings.warn(
                f"{type(thing).__name__}.{name} = {value:g} is allowed, but {what}.", AnchorsWarning, stacklevel=1
            )


def number(thing: Any, name: str, low: float, high: float = INF, *, whole: bool = False) -> None:
    """Raise `BadParameter` unless the parameter is a finite number in [low, high] (a whole number, if `whole`)."""
    value = getattr(thing, name)
    kind = "a whole number" if whole else "a number"
    fits = isinstance(value, int) if whole else isinstance(value, (int, float))
    if not fits or isinstance(value, bool) or not (low <= value <= high) or value in (INF, -INF):
        bound = f"from {low:g} to {high:g}" if high != INF else f"of {low:g} or more"
        if low == -INF:
            bound = "that is finite"
        raise BadParameter(f"{type(thing).__name__}.{name} must be {kind} {bound}; found {value!r}.")


def choice(thing: Any, name: str, *options: Any) -> None:
    """Raise `BadParameter` unless the parameter is one of the options."""
    value = getattr(thing, name)
    if value not in options:
        listed = ", ".join(map(repr, options))
        raise BadParameter(f"{type(thing).__name__}.{name} must be one of {listed}; found {value!r}.")


def switch(thing: Any, name: str) -> None:
    """Raise `BadParameter` unless the parameter is True or False; 1 and 0, which are equal to them, are not."""
    value = getattr(thing, name)
    if not isinstance(value, bool):
        raise BadParameter(f"{type(thing).__name__}.{name} must be True or False; found {value!r}.")


def check_layers(thing: Any, name: str, *, optional: bool = True) -> None:
    """Raise `BadParameter` unless the parameter is (first, last), whole numbers counted from 1 (or None, if `optional`)."""
    value = getattr(thing, name)
    if value is None and optional:
        return
    whole = isinstance(value, tuple) and len(value) == 2 and all(type(n) is int for n in value)
    if not whole or not 1 <= value[0] <= value[1]:
        more = ", or None" if optional else ""
        raise BadParameter(
            f"{type(thing).__name__}.{name} must be (first, last) with 1 <= first <= last{more}; found {value!r}."
        )


def name_of(thing: Any) -> str:
    """The catalogue name of a method or decoding, object or class; its class name in lower case if it is not registered."""
    if hasattr(thing, "parts"):
        return "+".join(name_of(part) for part in thing.parts)
    kind = thing if isinstance(thing, type) else type(thing)
    target = f"{kind.__module__}:{kind.__name__}"
    for catalogue in CATALOGUES.values():
        for entry in catalogue:
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
    if isinstance(value, str):
        plain = value and value == value.strip() and not re.search(r'[,+"]', value) and parse_value(value) == value
        return value if plain else json.dumps(value, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
