"""lmms-eval with our methods and our scorers (the `lmms` extra). docs/lmms-eval.md is the recipe."""

from typing import Any


def manifests() -> list[Any]:
    """What lmms-eval's entry point `lmms_eval.models` finds: the model `vlm_anchors`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [
        ModelManifest(model_id="vlm_anchors", simple_class_path="vlm_anchors.integrations.lmms_eval.model.VlmAnchors")
    ]
