"""A tiny random model with a real processor: what a user loads, in miniature."""

import torch
from tiny import sharpen

from vlm_anchors.scenes import tinyllava


def save_tiny(folder):
    """The bundled model's own architecture and processor, with four narrow random layers, in float32."""
    torch.manual_seed(0)
    model = sharpen(tinyllava.build(width=48, layers=4, vision_layers=1))
    with torch.no_grad():  # random models repeat one word; livelier logits let every test see different tokens
        model.lm_head.weight.mul_(20)
    model.save_pretrained(folder)
    tinyllava.processor().save_pretrained(folder)
    return folder
