"""The run-time checker behind jaxtyping's import hook: shapes are checked, other annotations are mypy's business.

Forward references ("Vlm" under TYPE_CHECKING) would stop beartype, and plain types are checked statically anyway.
Functions that name no shape stay as they are: jaxtyping would bind the arguments of each of their calls for nothing,
which took half the time of the tests that make scenes.
"""

import inspect
import types
import typing

import jaxtyping
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


def _names_a_shape(thing: object) -> bool:
    """Whether a function, what is made of functions, or a dataclass's `__init__` has a shape to check."""
    if isinstance(thing, property):
        return any(_names_a_shape(part) for part in (thing.fget, thing.fset, thing.fdel))
    if isinstance(thing, type):
        thing = thing.__init__
    function = getattr(thing, "__func__", thing)
    hints = getattr(function, "__annotations__", {}).values()
    return any("Tensor" in hint if isinstance(hint, str) else _is_shape(hint) for hint in hints)


def install(package: str) -> None:
    """Checks the shapes of a package that is imported from here on."""
    ordinary = jaxtyping.jaxtyped

    def jaxtyped(*arguments, **options):
        if arguments:
            return ordinary(*arguments, **options)
        return lambda thing: ordinary(thing, **options) if _names_a_shape(thing) else thing

    jaxtyping.jaxtyped = jaxtyped
    jaxtyping.install_import_hook(package, "shape_checks.shapes_only")
