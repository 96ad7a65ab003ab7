"""Names of methods and decodings, found without importing them. Imports nothing heavy.

A catalogue holds one `Entry` a name; the class behind it is imported when it is asked for. A SPEC is a name with
its parameters, joined by + where methods compose: `clva:alpha=5,beta=0`, `attanchor:tau=0.3+clva`.
"""

import dataclasses
import difflib
import importlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from .errors import AnchorsWarning, BadParameter, UnknownName, UnknownParameter

_LARGEST = 10**300


@dataclass(frozen=True)
class Entry:
    """One line of a catalogue.

    Attributes:
        name: As typed.
        target: "module:Class".
        summary: What it does, in one line.
        source: The paper, or the package that it comes from.
        kind: The class itself, where it was registered by hand and need not be imported.
    """

    name: str
    target: str
    summary: str
    source: str
    kind: type | None = field(default=None, repr=False, compare=False)

    @property
    def class_name(self) -> str:
        return self.target.split(":")[1]

    def load(self) -> type:
        if self.kind is not None:
            return self.kind
        module, _, cls = self.target.partition(":")
        return getattr(importlib.import_module(module), cls)


CATALOGUES: "dict[str, Catalogue]" = {}
"""Every catalogue, by its kind: how a lower layer finds a name without importing what is above it."""


class Catalogue:
    """Names of one kind, ours and those of installed packages.

    Args:
        kind: The word shown to the user: "method", "decoding", "benchmark".
        entries: Ours.
        group: Entry points under which other packages offer theirs (`name = "module:Class"`). They are looked up when a name
            is first asked for; the classes behind them are imported when they are used.
    """

    def __init__(self, kind: str, entries: Iterable[Entry], group: str | None = None):
        self.kind = kind
        self._group = group
        self._entries: dict[str, Entry] = {}
        CATALOGUES.setdefault(kind, self)
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", entry.name):
            raise UnknownName(f"A {self.kind} name is lower-case letters, digits and dashes; found {entry.name!r}.")
        if entry.name in self._entries:
            taken = self._entries[entry.name].target
            raise UnknownName(f"The {self.kind} name {entry.name!r} is taken by {taken}; choose another name.")
        self._entries[entry.name] = entry

    def _all(self) -> dict[str, Entry]:
        """Every entry, those of installed packages included."""
        if self._group is not None:
            group, self._group = self._group, None
            for point in entry_points(group=group):
                package = "an installed package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
                try:
                    self.add(Entry(point.name, point.value, f"Of the installed package {package}", package))
                except UnknownName as error:
                    warnings.warn(f"{package} offers {point.value!r}: {error}", AnchorsWarning, stacklevel=3)
        return self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._all().values()))

    def __contains__(self, name: str) -> bool:
        return name in self._all()

    def names(self) -> list[str]:
        return sorted(self._all())

    def get(self, name: str) -> Entry:
        if name not in self._all():
            raise UnknownName(f"No {self.kind} {name!r}.{did_you_mean(name, self.names())}")
        return self._all()[name]

    def parameters(self, name: str) -> dict[str, Any]:
        """The parameters of a name and their defaults."""
        return {field.name: field.default for field in dataclasses.fields(self.get(name).load()) if field.init}

    def build(self, spec: str) -> Any:
        """One object from `name:parameter=value,...`; the class checks its parameters. `preset=...` is where it starts."""
        name, parameters = parse_spec(spec)
        cls: Any = self.get(name).load()
        presets = getattr(cls, "presets", ())
        known = [field.name for field in dataclasses.fields(cls) if field.init]
        preset = parameters.pop("preset", None) if presets else None
        require_known(name, parameters, known)
        return cls(**parameters) if preset is None else cls.preset(str(preset), **parameters)


def require_known(owner: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Raise `UnknownParameter` for the first name that is not known, with the nearest that is."""
    for name in names:
        if name not in known:
            raise UnknownParameter(f"{owner} has no parameter {name!r}.{did_you_mean(name, known)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean ...? Known: ...' as the end of a sentence; at most 40 names are listed."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    more = f" and {len(names) - 40} more" if len(names) > 40 else ""
    return f"{hint} Known: {', '.join(names[:40]) or 'none'}{more}."


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """`"clva:alpha=5,layers=15-32"` -> `("clva", {"alpha": 5, "layers": (15, 32)})`."""
    name, colon, rest = spec.strip().partition(":")
    if not name or (colon and not rest):
        raise BadParameter(f"Expected NAME or NAME:PARAMETER=VALUE,...; found {spec!r}. Example: clva:alpha=5,beta=0")
    parameters: dict[str, Any] = {}
    for part in split_outside_quotes(rest, ",") if colon else ():
        key, equals, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key or not value.strip():
            raise BadParameter(f"Expected PARAMETER=VALUE in {spec!r}; found {part!r}. Example: clva:alpha=5,beta=0")
        if key in parameters:
            raise BadParameter(f"The parameter {key!r} is given twice in {spec!r}; give it once.")
        parameters[key] = parse_value(value.strip())
    return name, parameters


def parse_value(text: str) -> Any:
    """Numbers, true/false/none, `15-32` as a range of two integers, text in double quotes as JSON has it, else the text."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return json.loads(text)
        except ValueError:
            return text
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if match := re.fullmatch(r"(\d{1,18})-(\d{1,18})", text):
        return int(match[1]), int(match[2])
    for number in (int, float):
        try:
            value = number(text)
        except ValueError:
            continue
        if isinstance(value, int) and abs(value) > _LARGEST:  # a float could not hold it
            raise BadParameter(f"Expected numbers up to 10^300; found one of {len(text)} digits. Write a smaller one.")
        return value
    return text


def split_composition(spec: str) -> list[str]:
    """`"attanchor:tau=0.3+clva"` -> its parts; a + inside a number (1e+3) does not split.

    Raises:
        BadParameter: A part is empty.
    """
    parts = [part.strip() for part in split_outside_quotes(spec, r"\+(?![0-9])")]
    if len(parts) > 1 and not all(parts):
        raise BadParameter(f"Expected methods joined by +; found nothing on one side of a + in {spec!r}. Remove it.")
    return parts


def split_outside_quotes(text: str, separator: str) -> list[str]:
    """`text` split at a pattern, but not inside double quotes."""
    parts, begin = [], 0
    for found in re.finditer(rf'"(?:[^"\\]|\\.)*"|({separator})', text):
        if found[1] is not None:
            parts.append(text[begin : found.start()])
            begin = found.end()
    return [*parts, text[begin:]]
