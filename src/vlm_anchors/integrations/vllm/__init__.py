"""The attention-editing methods of one pass inside vLLM's V1 engine (docs/vllm.md).

    from vllm import LLM, SamplingParams
    from vlm_anchors.integrations.vllm import engine_args

    llm = LLM("exported", **engine_args(method="clva"))
    llm.chat(messages, SamplingParams(temperature=0, extra_args={"vlm_anchors": "clva:alpha=5"}))

vLLM's own processes import the other modules of this folder through its entry points; `import vlm_anchors` imports none.
"""

import json
import os
from pathlib import Path
from typing import Any

from ...errors import BadSetting

VERSIONS = ("0.32.0",)
"""Versions of vLLM this folder was run with. Others are refused when the engine starts."""

METHOD_KEY = "vlm_anchors"
"""`SamplingParams.extra_args` (over HTTP: `vllm_xargs`) holds the request's method, a SPEC, under this name."""

ENVIRONMENT = "VLM_ANCHORS_METHOD"
"""Set, it switches the plug-in on in every process of vLLM. It names the default method; empty, `anchors.json` does."""

DEFAULT_FILE = "anchors.json"
"""`{"method": SPEC}` in a model's folder: its default method."""

SCHEDULER = "vlm_anchors.integrations.vllm.scheduler.AnchorScheduler"


def engine_args(method: str | None = None) -> dict[str, Any]:
    """Switch the plug-in on, and return what `vllm.LLM` or `AsyncEngineArgs` needs for it.

    Args:
        method: Method of requests that name none, as a SPEC. None: that of the model's `anchors.json`, else none.

    Returns:
        Keyword arguments, to be passed on: `scheduler_cls`.

    Raises:
        UserError: The method does not exist, or cannot run inside vLLM.
    """
    from .request_methods import parse_method

    if method is not None:
        parse_method(method)
    os.environ[ENVIRONMENT] = method or ""
    return {"scheduler_cls": SCHEDULER}


def default_method(model: str) -> str:
    """The SPEC of requests that name none: of `VLM_ANCHORS_METHOD`, else of the model folder's `anchors.json`, else none.

    Raises:
        BadSetting: The file holds no method.
    """
    file = Path(model) / DEFAULT_FILE
    named = os.environ.get(ENVIRONMENT)
    if named or not file.is_file():
        return named or "none"
    try:
        method = json.loads(file.read_text())["method"]
    except (ValueError, KeyError, TypeError):
        method = None
    if not isinstance(method, str):
        raise BadSetting(f'Expected {file} to hold {{"method": "SPEC"}}. Correct the file, or remove it.')
    return method
