"""Tiny random models of other families than LLaVA, and their real processors, in folders that vLLM loads.

vLLM's kernels want heads of 32 numbers at least, so these are wider than the models in `tiny_models.py`.
"""

import tiny_models
import tiny_processors
import transformers as hf
from tiny_models import IMAGE
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

GRID = {"depth": 2, "num_heads": 2, "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MROPE = {**ROPE, "mrope_section": [4, 6, 6]}
PIXELS = {"size": {"shortest_edge": 1024, "longest_edge": 2048}, "patch_size": 4}
TAG = "<|vision_start|><|image_pad|><|vision_end|>"


def text(rope, **more):
    return {**tiny_models._text(2), "hidden_size": 128, "rope_parameters": rope, **more}


def qwen2_vl():
    tower = {**GRID, "embed_dim": 64, "hidden_size": 128}
    config = hf.Qwen2VLConfig(text_config=text(MROPE), vision_config=tower, **tiny_models._QWEN_IDS)
    return tiny_models._made(hf.Qwen2VLForConditionalGeneration, config)


def qwen2_5_vl():
    tower = {**GRID, "hidden_size": 64, "intermediate_size": 64, "out_hidden_size": 128, "window_size": 16,
             "fullatt_block_indexes": [1]}  # fmt: skip
    config = hf.Qwen2_5_VLConfig(text_config=text(MROPE), vision_config=tower, **tiny_models._QWEN_IDS)
    return tiny_models._made(hf.Qwen2_5_VLForConditionalGeneration, config)


def qwen3_vl():
    tower = {**GRID, "hidden_size": 64, "intermediate_size": 64, "out_hidden_size": 128, "num_position_embeddings": 64,
             "deepstack_visual_indexes": [0, 1]}  # fmt: skip
    # transformers mixes the three parts of a position whatever the config says; vLLM where it says so, as released ones do.
    rope = {**MROPE, "mrope_interleaved": True}
    config = hf.Qwen3VLConfig(text_config=text(rope, head_dim=32), vision_config=tower, **tiny_models._QWEN_IDS)
    return tiny_models._made(hf.Qwen3VLForConditionalGeneration, config)


def internvl():
    tower = hf.InternVLVisionConfig(**{**tiny_models._tower([32, 32], [4, 4]), "hidden_size": 64})
    config = hf.InternVLConfig(
        vision_config=tower, text_config=hf.Qwen2Config(**text(ROPE)), image_token_id=IMAGE, image_seq_length=16
    )
    return tiny_models._made(hf.InternVLForConditionalGeneration, config)


def _qwen(name, processor, videos):
    more = {"temporal_patch_size": 2, "merge_size": 2, **PIXELS}
    return processor(hf.Qwen2VLImageProcessor(**more), tiny_processors.tokenizer(name), videos(**more))


def internvl_processor():
    size = {"height": 32, "width": 32}
    images = tiny_processors._pil("got_ocr2", "GotOcr2ImageProcessorPil", size=size, max_patches=2)
    return hf.InternVLProcessor(
        images, tiny_processors.tokenizer("internvl"), InternVLVideoProcessor(size=size), image_seq_length=16
    )


FAMILIES = {
    "qwen2-vl": (qwen2_vl, lambda: _qwen("qwen2-vl", hf.Qwen2VLProcessor, hf.Qwen2VLVideoProcessor), TAG),
    "qwen2.5-vl": (qwen2_5_vl, lambda: _qwen("qwen2.5-vl", hf.Qwen2_5_VLProcessor, hf.Qwen2VLVideoProcessor), TAG),
    "qwen3-vl": (qwen3_vl, lambda: _qwen("qwen3-vl", hf.Qwen3VLProcessor, hf.Qwen3VLVideoProcessor), TAG),
    "internvl": (internvl, internvl_processor, "<IMG_CONTEXT>"),
}
"""Family -> its model, its processor, and an image in a prompt."""


def save(name, folder):
    """Write the family's model and processor into a folder; returns both, as transformers loads them."""
    model, processor, _ = FAMILIES[name]
    made = model()
    made.save_pretrained(folder)
    processor().save_pretrained(folder)
    return made.eval(), hf.AutoProcessor.from_pretrained(folder)
