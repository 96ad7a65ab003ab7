"""Which method a request runs with, and which methods can run inside vLLM."""

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ...errors import BadSetting, CannotAct
from ...interventions.hooks import BEYOND
from ...interventions.method import Method, compose, name_of
from .settings import ENVIRONMENT, METHOD_KEY


def is_on() -> bool:
    """Whether the plug-in is switched on in this process."""
    return ENVIRONMENT in os.environ


def method_of(extra_args: Mapping[str, Any] | None, default: str = "none") -> Method | None:
    """The method of a request, `default` where it names none; None where it runs as in plain vLLM.

    Raises:
        UserError: The method does not exist or cannot run inside vLLM, or the plug-in is not switched on.
    """
    spec = (extra_args or {}).get(METHOD_KEY)
    if spec is None:
        return parse_method(default)
    if not is_on():
        raise BadSetting(
            f"This engine was started without vlm-anchors, so it cannot run {spec!r}. Start it with "
            f"{ENVIRONMENT}=none and --scheduler-cls, as docs/vllm.md shows."
        )
    if not isinstance(spec, str):
        raise BadSetting(f"Expected {METHOD_KEY} as a method's SPEC, such as 'clva:alpha=5'; found {spec!r}.")
    return parse_method(spec)


@lru_cache(maxsize=256)
def parse_method(spec: str) -> Method | None:
    """The method of a SPEC, one object for equal SPECs; None where it changes nothing.

    Raises:
        UserError: The method does not exist, or needs more than the attention of one pass.
    """
    inside, prepares = compose(spec)
    if prepares:
        raise CannotAct(
            f"{name_of(prepares[0])} changes the tokens of the prompt, which vLLM has made already when a method sees it. "
            "Pass a prompt of embeddings, which embedded_prompt makes (docs/vllm.md)."
        )
    if inside.image_rows:
        raise CannotAct(
            f"{name_of(inside)} changes the attention of the image's own rows, and inside vLLM a method can edit text rows "
            "only. Run it through transformers."
        )
    others = sorted(hook for hook in BEYOND if inside.at(hook) is not None)
    if others:
        raise CannotAct(
            f"{name_of(inside)} needs the hooks {', '.join(others)}, and inside vLLM a method can edit attention only. "
            f"{_instead(name_of(inside))}"
        )
    part = inside.at("attention")
    if part is not None and getattr(part.method, "refresh", "step") != "step":
        raise CannotAct(
            "refresh='prompt' keeps anchors from one step to the next, which vLLM cannot. Use refresh='step'."
        )
    return None if part is None else part.method


def _instead(name: str) -> str:
    if name == "pai":
        return "Set gamma=1: PAI without its image-free branch."
    return "Run it through transformers."
