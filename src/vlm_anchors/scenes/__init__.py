"""Scenes: images with known content, and the small model trained on them. Light to import."""

from .coco import CATEGORIES
from .files import render_files
from .scene import Scene, SceneObject, from_objects, sample

__all__ = ["CATEGORIES", "Scene", "SceneObject", "from_objects", "render", "render_files", "sample", "save"]


def __getattr__(name: str):
    """Drawing needs NumPy and Pillow: loaded when first asked for."""
    if name in ("render", "save"):
        from . import draw

        return getattr(draw, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
