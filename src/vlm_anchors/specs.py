"""From what a user typed to objects: SPEC strings, methods, lists of either, and the decoding beside them."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from .errors import BadParameter, UnknownName
from .generation.decodings import DECODINGS, Beam, Greedy, Nucleus
from .generation.opera import Opera
from .interventions.method import Method
from .methods import METHODS
from .methods.none import Plain
from .registry import did_you_mean, parse_spec, split_composition

Decoding: TypeAlias = Greedy | Beam | Nucleus | Opera
MethodLike: TypeAlias = "str | Method | Sequence[str | Method]"
DecodingLike: TypeAlias = "str | Greedy | Beam | Nucleus | Opera | None"


def choose(
    method: "MethodLike" = "none", decoding: DecodingLike = None, otherwise: DecodingLike = None
) -> tuple[tuple[Method, ...], Decoding]:
    """The methods, in the order given, and the decoding: where none is asked for, `otherwise`, else greedy.

    As a convenience `greedy`, `beam`, `nucleus` and `opera` are accepted among the methods and set the decoding. Raises
    `UnknownName` or `BadParameter` where a SPEC is wrong, and `BadParameter` where two decodings are asked for.
    """
    methods: list[Method] = []
    decodings: list[Decoding] = [] if decoding is None else [_decoding(decoding)]
    for part in _parts(method):
        if isinstance(part, Decoding) or (isinstance(part, str) and part.partition(":")[0].strip() in DECODINGS):
            decodings.append(_decoding(part))
        else:
            methods.append(_method(part))
    if any(other != decodings[0] for other in decodings[1:]):
        both = " and ".join(each.spec() for each in decodings)
        raise BadParameter(f"Two decodings were asked for: {both}. Tokens are chosen one way at a time; keep one.")
    if not decodings:
        decodings.append(Greedy() if otherwise is None else _decoding(otherwise))
    return tuple(methods), decodings[0]


def gives_seed(method: "MethodLike", decoding: DecodingLike) -> bool:
    """Whether the decoding that is asked for has a seed of its own: in its SPEC, or an object's other than the default."""
    for part in (*_parts(method), decoding):
        if isinstance(part, Nucleus) and part.seed != Nucleus().seed:
            return True
        if isinstance(part, str) and part.partition(":")[0].strip() in DECODINGS and "seed" in parse_spec(part)[1]:
            return True
    return False


def spec_of_all(methods: Sequence[Method]) -> str:
    """The methods as one SPEC, `attanchor:tau=0.3+clva`; "none" where there is none."""
    return "+".join(each.spec() for each in methods if not isinstance(each, Plain)) or "none"


def _parts(method: "MethodLike") -> list[Any]:
    items = [method] if isinstance(method, str) or not isinstance(method, Sequence) else list(method)
    parts: list[Any] = []
    for each in items:
        parts.extend(_split(each) if isinstance(each, str) else [each])
    return parts


def _split(spec: str) -> list[str]:
    """The parts of a SPEC; the plain model joins with decodings alone."""
    parts = split_composition(spec)
    named = [name for part in parts if (name := part.partition(":")[0].strip()) not in DECODINGS]
    if len(named) > 1 and "none" in named:
        raise BadParameter(f"none is the plain model and joins with no method; found {spec!r}. Leave it out.")
    return parts


def _method(part: Any) -> Method:
    if isinstance(part, str):
        name = part.partition(":")[0].strip()
        if name and name not in METHODS:
            raise UnknownName(f"No method {name!r}.{did_you_mean(name, [*METHODS.names(), *DECODINGS.names()])}")
        return METHODS.build(part)
    if isinstance(part, Method):
        return part
    raise UnknownName(f"Expected a method such as va.CLVA() or a SPEC such as 'clva:alpha=5'; found {part!r}.")


def _decoding(items: Any) -> Decoding:
    if isinstance(items, str):
        return DECODINGS.build(items)
    if isinstance(items, Decoding):
        return items
    raise UnknownName(f"Expected a decoding such as va.Nucleus(top_p=0.9) or 'nucleus:top_p=0.9'; found {items!r}.")
