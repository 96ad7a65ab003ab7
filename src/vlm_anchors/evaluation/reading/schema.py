"""The fields of a row, declared once a file layout. Errors name place, field, expected and found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import BadData


@dataclass(frozen=True)
class Kind:
    """What a field may hold.

    Args:
        words: Says it to a reader, after "expected".
        fits: Whether a value is one.
        many: Says several of them, after "a list of".
        missing: Whether the field may be left out, or hold null.
        null: Whether the field may hold null, though it must be there.
    """

    words: str
    fits: Callable[[Any], bool]
    many: str = "values"
    missing: bool = False
    null: bool = False


class Schema:
    """The fields of one kind of row. Fields that it does not name are nobody's business."""

    def __init__(self, fields: Mapping[str, Kind] | None = None, /, **named: Kind):
        self.fields = {**(fields or {}), **named}

    def check(self, row: Any, place: str, beside: str = "") -> dict[str, Any]:
        """The row itself.

        Args:
            row: What stands there.
            place: File and line or id, as the error names it.
            beside: The field that holds the row, with a full stop, where rows are nested.

        Raises:
            BadData: The row is no object, lacks a field, or holds something else in one.
        """
        if not isinstance(row, dict):
            raise BadData(f"{place}: expected an object with named fields; found {short(row)}.")
        for name, kind in self.fields.items():
            if name not in row:
                if kind.missing:
                    continue
                found = ", ".join(map(repr, list(row)[:12])) or "none"
                raise BadData(
                    f"{place}: expected the field {beside + name!r}; found {found}. Is it another benchmark's file?"
                )
            value = row[name]
            if not (value is None and (kind.missing or kind.null)) and not kind.fits(value):
                raise BadData(f"{place}: expected {kind.words} in the field {beside + name!r}; found {short(value)}.")
        return row


def short(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_number(value: Any) -> bool:
    """A whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_words(value: Any) -> bool:
    """A text with something in it."""
    return isinstance(value, str) and bool(value.strip())


TEXT = Kind("a text", lambda value: isinstance(value, str), "texts")
WORDS = Kind("a text that is not empty", is_words, "texts that are not empty")
NUMBER = Kind("a whole number", is_number, "whole numbers")
KEY = Kind("a whole number or a text", lambda value: is_number(value) or is_words(value), "whole numbers or texts")
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object with named fields", lambda value: isinstance(value, dict), "objects with named fields")


def words_of(*allowed: Any) -> Kind:
    """One of a few values, exactly."""
    known = [*allowed]
    return Kind(
        " or ".join(map(repr, known)), lambda value: any(type(value) is type(one) and value == one for one in known)
    )


def list_of(kind: Kind, least: int = 0) -> Kind:
    """A list of so many at least."""
    return Kind(
        f"a list of {f'{least} or more ' if least else ''}{kind.many}",
        lambda value: isinstance(value, list) and len(value) >= least and all(map(kind.fits, value)),
    )


def either(*kinds: Kind) -> Kind:
    """One of several kinds."""
    words, many = (" or ".join(getattr(kind, name) for kind in kinds) for name in ("words", "many"))
    return Kind(words, lambda value: any(kind.fits(value) for kind in kinds), many)


def optional(kind: Kind) -> Kind:
    """The field may be missing or null."""
    return replace(kind, words=f"{kind.words}, or nothing", missing=True)


def nullable(kind: Kind) -> Kind:
    """The field must be there and may be null."""
    return replace(kind, words=f"{kind.words}, or null", null=True)


NO_FIELDS = Schema()
LABEL = words_of("yes", "no")
LABELLED = Schema(label=LABEL)
