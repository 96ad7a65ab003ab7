"""Seeing it: what attention does while a model answers, as tables, figures and a page of its own.

`Capture` watches a model (`va.attach(vlm, "clva", watch=Capture())`) and hands out a `Trace` for the prompt and one for each
generated token; measures.py makes tables of traces, plots.py draws them, page.py puts them on a page (docs/looking.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .capture import Capture, Trace

__all__ = ["Capture", "Trace"]


def __getattr__(name: str) -> Any:
    """Capturing needs torch: loaded when first asked for."""
    if name in __all__:
        return getattr(import_module("vlm_anchors.analysis.capture"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
