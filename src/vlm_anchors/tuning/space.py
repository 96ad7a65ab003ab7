"""Which settings of a method are tried: start values, a grid, and random draws of the ranges its parameters declare.

Searched are the parameters with a slider (values worth trying) and ranges of layers; where a method has neither, every parameter
with a finite range or choices. Seeds are never searched, and what the SPEC names stays as it is.
"""

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ..errors import BadParameter, BadSetting, UnknownName
from ..generation.decodings import Greedy
from ..interventions.method import Method
from ..parameters import Parameter, name_of, parameters_of
from ..registry import did_you_mean, parse_spec, parse_value, split_composition, split_outside_quotes
from ..specs import MethodLike, choose, spec_of_all

Setting: TypeAlias = tuple[Method, ...]
"""The methods of a composition with all their parameters."""
Place: TypeAlias = tuple[int, str]
"""(which method of a composition, a parameter's name)."""
TRIES = 1000
"""Draws without a new setting, before a space counts as exhausted."""


@dataclass(frozen=True)
class Tunable:
    """A method, or several that compose, whose parameters are searched.

    Attributes:
        base: The setting as it was asked for; what is not searched stays so.
        fixed: Parameters that were asked for by name.
        starts: Settings that are tried first.
    """

    base: Setting
    fixed: frozenset[Place] = frozenset()
    starts: tuple[Setting, ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        return spec_of_all(self.base)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its methods, without parameters."""
        return tuple(name_of(part) for part in self.base)

    def every_place(self) -> list[Place]:
        return [(at, name) for at, part in enumerate(self.base) for name in parameters_of(part)]

    def places(self) -> list[Place]:
        """Every parameter that is not fixed."""
        return [place for place in self.every_place() if place not in self.fixed]

    def declared(self, place: Place) -> Parameter:
        return parameters_of(self.base[place[0]])[place[1]]


def tunable(method: MethodLike) -> Tunable:
    """What is to be tuned, from a SPEC, a method or a list of those that compose.

    Raises:
        UserError: The SPEC is wrong, names no method, or names a decoding.
    """
    base, parts = _parts_of(method)
    if spec_of_all(base) == "none":
        raise BadSetting(
            "Expected a method to tune, such as clva; found none, the plain model, which has no parameters. It is always "
            "answered beside the others."
        )
    return Tunable(base, _asked_for_in(parts))


def _parts_of(method: MethodLike) -> "tuple[Setting, list[str | Method]]":
    """The methods that compose, and each of them as it was typed."""
    base, decoding = choose(method)
    if decoding != Greedy():
        raise BadSetting(f"{decoding.spec()} is a decoding, which is not tuned. Give it with --decoding (decoding=).")
    items = [method] if isinstance(method, str) or not isinstance(method, Sequence) else list(method)
    parts: list[Any] = []
    for each in items:
        parts.extend(split_composition(each) if isinstance(each, str) else [each])
    return base, [part for part in parts if not (isinstance(part, str) and part.partition(":")[0].strip() == "greedy")]


def _asked_for_in(parts: "Sequence[str | Method]") -> frozenset[Place]:
    return frozenset((at, name) for at, part in enumerate(parts) for name in _asked_for(part))


def _asked_for(part: "str | Method") -> list[str]:
    """Parameters that a user named; a preset is where a search begins, not what it must keep."""
    if isinstance(part, str):
        return [name for name in parse_spec(part)[1] if name != "preset"]
    plain = {one.name: one.default for one in part.__dataclass_fields__.values()}
    return [name for name in parameters_of(part) if getattr(part, name) != plain[name]]


def with_starts(tunables: Sequence[Tunable], starts: Sequence[MethodLike]) -> list[Tunable]:
    """The tunables with the start values that are theirs: those of the same methods.

    What a start does not name is as in the tunable's own SPEC; a preset names what the SPEC leaves open.

    Raises:
        BadSetting: A start belongs to no tunable, or moves a parameter that is fixed.
    """
    found = list(tunables)
    for start in starts:
        setting, parts = _parts_of(start)
        names = tuple(name_of(part) for part in setting)
        at = next((at for at, one in enumerate(found) if one.names == names), None)
        if at is None:
            raise BadSetting(
                f"The start values {spec_of_all(setting)} belong to no method that is tuned: "
                f"{', '.join(one.name for one in found)}. Name that method too, or leave the start values out."
            )
        one, named = found[at], _asked_for_in(parts)
        for place in sorted(one.fixed & named):
            if _at(setting, place) != _at(one.base, place):
                raise BadSetting(
                    f"{place[1]} is fixed by {one.name} and moved by the start values {spec_of_all(setting)}. Keep one."
                )
        presets = {n for n, part in enumerate(parts) if isinstance(part, str) and "preset" in parse_spec(part)[1]}
        kept = [place for place in one.every_place() if place in one.fixed or place[0] not in presets]
        start_of = changed(setting, {place: _at(one.base, place) for place in kept if place not in named})
        found[at] = replace(one, starts=(*one.starts, start_of))
    return found


def parse_grid(items: Sequence[str]) -> dict[str, list[Any]]:
    """`["alpha=2,5", "clva.layers=13-24,15-32"]` -> values by name, as a SPEC has them.

    Raises:
        BadParameter: No `NAME=VALUE,...`, or a name twice.
    """
    grid: dict[str, list[Any]] = {}
    for item in items:
        name, equals, rest = item.partition("=")
        name = name.strip().replace("-", "_") if "." not in name else name.strip()
        words = [word.strip() for word in split_outside_quotes(rest, ",")]
        if not equals or not name or not all(words):
            raise BadParameter(
                f"Expected --grid NAME=VALUE,VALUE,...; found {item!r}. Example: alpha=2,5,14 or layers=13-24,15-32"
            )
        if name in grid:
            raise BadParameter(f"--grid names {name!r} twice; give all its values at once: {name}=VALUE,VALUE,...")
        grid[name] = [parse_value(word) for word in words]
    return grid


Axes: TypeAlias = dict[Place, list[Any]]


def axes_of(tunables: Sequence[Tunable], grid: Mapping[str, Sequence[Any]]) -> list[Axes]:
    """The grid's values for each tunable: a name is that of a parameter, or METHOD.PARAMETER for one method alone.

    Raises:
        UnknownName: No method that is tuned has the parameter.
        BadSetting: A parameter is fixed by the SPEC, or has no values.
        BadParameter: A value is out of the parameter's range.
    """
    found: list[Axes] = [{} for _ in tunables]
    for key, values in grid.items():
        method, _, name = key.rpartition(".")
        name = name.replace("-", "_")
        if isinstance(values, str) or not values:
            raise BadSetting(f"Expected one or more values of {key} in the grid, as a list; found {values!r}.")
        hits = [
            (axes, one, (at, name))
            for axes, one in zip(found, tunables, strict=True)
            for at, part in enumerate(one.base)
            if method in ("", name_of(part)) and name in parameters_of(part)
        ]
        if not hits:
            known = [f"{name_of(part)}.{each}" for one in tunables for part in one.base for each in parameters_of(part)]
            close = known if method else [each.partition(".")[2] for each in known]
            raise UnknownName(
                f"No method that is tuned has the parameter {key!r}.{did_you_mean(key, dict.fromkeys(close))}"
            )
        for axes, one, place in hits:
            if place in one.fixed:
                raise BadSetting(
                    f"{name} is fixed by {one.name} and searched by the grid. Take it out of the SPEC, or of the grid."
                )
            kept: list[Any] = []
            for value in values:
                changed(one.base, {place: value})  # the class checks it
                if not any(type(value) is type(other) and value == other for other in kept):
                    kept.append(value)
            axes[place] = kept
    return found


def changed(base: Setting, values: Mapping[Place, Any]) -> Setting:
    """The setting with other values of some parameters; each class checks its own."""
    by_part: dict[int, dict[str, Any]] = {}
    for (at, name), value in values.items():
        by_part.setdefault(at, {})[name] = value
    return tuple(replace(part, **by_part.get(at, {})) for at, part in enumerate(base))


def points(one: Tunable, axes: Axes) -> list[Setting]:
    """Every point of a grid, in the order of its values; nothing without a grid."""
    if not axes:
        return []
    return [changed(one.base, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]


@dataclass(frozen=True)
class SettingList:
    """The settings that are tried of one tunable, and how many of them come from where."""

    tunable: Tunable
    settings: tuple[Setting, ...]
    from_grid: int
    drawn: int

    def words(self) -> str:
        """`clva: 12 settings, 1 given, 6 of the grid and 5 drawn`."""
        given = len(self.settings) - self.from_grid - self.drawn
        known = {"given": given, "of the grid": self.from_grid, "drawn": self.drawn}
        parts = [f"{count} {what}" for what, count in known.items() if count]
        sources = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
        return f"{self.tunable.name}: {len(self.settings)} setting{'s'[: len(self.settings) != 1]}, {sources}"


def chosen(
    tunables: Sequence[Tunable],
    grid: Mapping[str, Sequence[Any]],
    budget: int | None,
    seed: int,
    depths: Sequence[Sequence[int]],
    fits: Callable[[Setting], bool],
) -> list[SettingList]:
    """The settings of every tunable, as many of each: `budget`, else as many as the largest grid has.

    First the start values; then the grid (a random part of it, where the budget has no room for all), else the setting as asked
    for; then random draws.

    Args:
        tunables: What is tuned.
        grid: Values by name.
        budget: Settings of each tunable.
        seed: Of the draws.
        depths: Number of layers that each method of each tunable counts.
        fits: Whether the model takes a setting; draws that it does not take are drawn again.

    Raises:
        UserError: The grid does not fit, there is nothing to search, or there are more start values than settings.
    """
    axes = axes_of(tunables, grid)
    grids = [points(one, each) for one, each in zip(tunables, axes, strict=True)]
    wanted = budget or max(len({*one.starts, *points}) for points, one in zip(grids, tunables, strict=True))
    found = []
    for one, each, every, depth in zip(tunables, axes, grids, depths, strict=True):
        draws = random.Random(f"{seed} {one.name}")
        starts = dict.fromkeys(one.starts)
        if len(starts) > wanted:
            raise BadSetting(
                f"{one.name} has {len(starts)} start values and a budget of {wanted}. Give a budget of {len(starts)} or more, or "
                f"fewer start values."
            )
        every, room = [point for point in every if point not in starts], wanted - len(starts)
        if len(every) > room:
            every = [every[at] for at in sorted(draws.sample(range(len(every)), room))]
        settings = list(dict.fromkeys([*starts, *(every if each else [one.base])]))[:wanted]
        known = len(settings)
        if known < wanted:
            ranges = _ranges(one, each, depth)
            settings = _filled(one, ranges, settings, wanted, draws, fits)
        found.append(SettingList(one, tuple(settings), len(every), len(settings) - known))
    return found


Draw: TypeAlias = Callable[[random.Random], Any]


def _ranges(one: Tunable, axes: Axes, depths: Sequence[int]) -> dict[Place, Draw]:
    """How each searched parameter is drawn: from the grid's values, its slider, or the model's layers."""
    open_places = [place for place in one.places() if place not in axes and place[1] != "seed"]
    declared = {place: one.declared(place) for place in open_places}
    worth = [place for place, kind in declared.items() if kind.slider is not None or kind.kind == "layers"]
    if not worth and not axes:
        worth = [place for place, kind in declared.items() if _is_finite(kind)]
    moved = [
        place
        for place in open_places
        if place not in worth and any(_at(start, place) != _at(one.base, place) for start in one.starts)
    ]
    if not worth and not axes and not moved:
        raise BadSetting(
            f"{one.name} has no parameter with a range to draw from. Give values with --grid NAME=VALUE,... (grid=), or "
            f"declare a slider: parameter(..., slider=(low, high, step))."
        )
    ranges: dict[Place, Draw] = {place: _one_of(values) for place, values in axes.items()}
    ranges |= {place: _drawn(declared[place], depths[place[0]]) for place in worth}
    starts = {place: [_at(setting, place) for setting in (one.base, *one.starts)] for place in moved}
    return ranges | {place: _one_of(values) for place, values in starts.items()}


def _at(setting: Setting, place: Place) -> Any:
    return getattr(setting[place[0]], place[1])


def _is_finite(kind: Parameter) -> bool:
    ranged = kind.kind in ("number", "whole") and math.isfinite(kind.low) and math.isfinite(kind.high)
    return ranged or kind.kind in ("choice", "switch")


def _one_of(values: Sequence[Any]) -> Draw:
    return lambda draws: draws.choice(list(values))


def _drawn(kind: Parameter, depth: int) -> Draw:
    """A value of a parameter, all equally likely."""
    if kind.slider is not None:
        low, high, step = kind.slider
        steps = round((high - low) / step)
        as_number: Any = int if kind.kind == "whole" else float
        return lambda draws: as_number(round(low + step * draws.randrange(steps + 1), 10))
    if kind.kind == "layers":
        return lambda draws: _layers(draws, depth, kind.optional)
    if kind.kind == "choice":
        return _one_of(kind.choices)
    if kind.kind == "switch":
        return _one_of((False, True))
    if kind.kind == "whole":
        return lambda draws: draws.randint(int(kind.low), int(kind.high))
    return lambda draws: float(f"{draws.uniform(kind.low, kind.high):.3g}")


def _layers(draws: random.Random, depth: int, optional: bool) -> tuple[int, int] | None:
    """The method's own rule in a quarter of the draws; else a first layer, and the last one in half of them."""
    if optional and draws.random() < 0.25:
        return None
    first = draws.randint(1, depth)
    return first, depth if draws.random() < 0.5 else draws.randint(first, depth)


def _filled(
    one: Tunable,
    ranges: Mapping[Place, Draw],
    settings: list[Setting],
    wanted: int,
    draws: random.Random,
    fits: Callable[[Setting], bool],
) -> list[Setting]:
    """Settings until there are as many as wanted, or the space seems exhausted."""
    found = dict.fromkeys(settings)
    refused: set[Setting] = set()
    tries = 0
    while len(found) < wanted and tries < TRIES:
        tries += 1
        try:
            setting = changed(one.base, {place: draw(draws) for place, draw in ranges.items()})
        except BadParameter:  # parameters that exclude each other
            continue
        if setting in found or setting in refused:
            continue
        if fits(setting):
            found[setting], tries = None, 0
        else:
            refused.add(setting)
    return list(found)


def distance_from_off(setting: Setting) -> float:
    """How far a setting's numbers are from those of the method turned off, in widths of their sliders; 0 where it is off."""
    total = 0.0
    for part in setting:
        off = part.disabled()
        for name, kind in parameters_of(part).items():
            here, there = getattr(part, name), getattr(off, name, None)
            if here != there and isinstance(here, (int, float)) and isinstance(there, (int, float)):
                width = kind.slider[1] - kind.slider[0] if kind.slider else 1.0
                total += abs(here - there) / width
    return total


def layers_touched(setting: Setting, depth: int) -> int:
    """How many layers the ranges of a setting hold; all where a range is left to the method."""
    held = 0
    for part in setting:
        for name, kind in parameters_of(part).items():
            if kind.kind == "layers":
                value = getattr(part, name)
                held += depth if value is None else value[1] - value[0] + 1
    return held
