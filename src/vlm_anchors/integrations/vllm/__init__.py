"""The attention-editing methods of one pass inside vLLM's V1 engine (docs/vllm.md).

    from vllm import LLM, SamplingParams
    from vlm_anchors.integrations.vllm import engine_args

    llm = LLM("exported", **engine_args(method="clva"))
    llm.chat(messages, SamplingParams(temperature=0, extra_args={"vlm_anchors": "clva:alpha=5"}))

vLLM's own processes import the other modules of this folder through its entry points; `import vlm_anchors` imports none.
"""

import os
from typing import Any

from .embedded_prompt import embedded_prompt
from .request_methods import parse_method
from .settings import DEFAULT_FILE, ENVIRONMENT, METHOD_KEY, SCHEDULER, VERSIONS, default_method


def engine_args(method: str | None = None) -> dict[str, Any]:
    """Switch the plug-in on, and return what `vllm.LLM` or `AsyncEngineArgs` needs for it.

    Args:
        method: Method of requests that name none, as a SPEC. None: that of the model's `anchors.json`, else none.

    Returns:
        Keyword arguments, to be passed on: `scheduler_cls`.

    Raises:
        UserError: The method does not exist, or cannot run inside vLLM.
    """
    if method is not None:
        parse_method(method)
    os.environ[ENVIRONMENT] = method or ""
    return {"scheduler_cls": SCHEDULER}


__all__ = [
    "DEFAULT_FILE", "ENVIRONMENT", "METHOD_KEY", "SCHEDULER", "VERSIONS", "default_method", "embedded_prompt", "engine_args",
]  # fmt: skip
