"""The run-time checker behind jaxtyping's import hook: shapes are checked, other annotations are mypy's business.

Forward references ("Vlm" under TYPE_CHECKING) would stop beartype, and plain types are checked statically anyway.
"""

import inspect
import types
import typing

from beartype import beartype
from jaxtyping import AbstractArray


def _is_shape(hint: object) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_is_shape(part) for part in typing.get_args(hint))
    return False


def shapes_only(function):
    """The function checked by beartype with all but its shape annotations taken away; as it is where none is left."""
    if not inspect.isfunction(function):
        return function
    kept = {name: hint for name, hint in function.__annotations__.items() if _is_shape(hint)}
    if not kept:
        return function
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = kept
    return beartype(copy)
