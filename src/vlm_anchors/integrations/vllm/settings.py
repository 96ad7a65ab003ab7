"""Names and versions that vLLM's processes and ours agree on, and the default method of a model's folder."""

import json
import os
from pathlib import Path

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
