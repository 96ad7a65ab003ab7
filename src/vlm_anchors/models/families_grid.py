"""Rows of the family table: vision towers that read flat patches with a grid beside them (Qwen-VL and its kin)."""

from typing import Any

from .family import Family

_BOTH = ("image_token_id", "video_token_id")
_QWEN: dict[str, Any] = {"visual": _BOTH, "mrope": True, "projector": "merger"}
_GLM: dict[str, Any] = {
    "video_tags": ("video_start_token_id", "video_end_token_id"),
    "mrope": True,
    "projector": "merger",
    "note": "everything inside a video's tags that is not visual, timestamps too, is its frame",
}
_GRID: dict[str, Any] = {"visual": _BOTH, "images": "encoder"}
"""The vision tower reads flat patches and a grid, and returns one entry an image, one a video."""
_VISION: dict[str, Any] = {"delimiter_tokens": ("<|vision_start|>", "<|vision_end|>")}
_FULL = "layers are counted among those with full attention; "
_TIMES = "timestamps between a video's frames are part of its frame, not text"

GRID: tuple[Family, ...] = (
    Family("qwen2-vl", ("qwen2_vl",), "Qwen2-VL", again="pixels", **_QWEN),
    Family("qwen2.5-vl", ("qwen2_5_vl",), "Qwen2.5-VL", again="pixels", **_QWEN),
    Family(
        "qwen3-vl",
        ("qwen3_vl",),
        "Qwen3-VL",
        again="alone",
        images="encoder",
        note="timestamps between a video's frames are part of its frame, not text",
        **_QWEN,
    ),
    Family(
        "glm-4v",
        ("glm4v",),
        "GLM-4.1V",
        again="pixels",
        video_tags=("video_start_token_id", "video_end_token_id"),
        mrope=True,
        projector="merger",
        note="everything inside a video's tags that is not visual, timestamps too, is its frame",
    ),
    Family("glm-4.5v", ("glm4v_moe", "glm46v", "glmga"), "GLM-4.5V, GLM-4.6V", **_GLM),
    Family("glm-ocr", ("glm_ocr",), "GLM-OCR", **_GLM),
    Family("glm-5-next", ("glm5_next",), "GLM-5-next", **{**_GLM, "note": _FULL + _GLM["note"]}),
    Family("qwen3-vl-moe", ("qwen3_vl_moe",), "Qwen3-VL 30B-A3B, 235B-A22B", images="encoder", note=_TIMES, **_QWEN),
    Family("qwen3.5", ("qwen3_5", "qwen3_5_moe"), "Qwen3.5", images="encoder", note=_FULL + _TIMES, **_QWEN),
    Family("qwen4", ("qwen4_exp",), "Qwen4 (experimental)", images="encoder", note=_FULL + _TIMES, **_QWEN),
    Family(
        "qwen2.5-omni",
        ("qwen2_5_omni", "qwen2_5_omni_thinker"),
        "Qwen2.5-Omni (its thinker)",
        delimiter_tokens=("<|vision_bos|>", "<|vision_eos|>", "<|vision_start|>", "<|vision_end|>"),
        **_QWEN,
    ),
    Family(
        "qwen3-omni",
        ("qwen3_omni_moe", "qwen3_omni_moe_thinker"),
        "Qwen3-Omni (its thinker)",
        images="encoder",
        delimiter_tokens=("<|vision_start|>", "<|vision_end|>", "<|vision_bos|>", "<|vision_eos|>"),
        **_QWEN,
    ),
    Family(
        "cosmos3",
        ("cosmos3_edge", "cosmos3_omni"),
        "Cosmos 3",
        images="encoder",
        note=_TIMES,
        **{**_QWEN, "projector": "visual"},
    ),
    Family("ernie-4.5-vl", ("ernie4_5_vl_moe",), "ERNIE 4.5 VL", **{**_QWEN, "projector": "resampler_model"}),
    Family("paddleocr-vl", ("paddleocr_vl",), "PaddleOCR-VL", mrope=True, projector="projector"),
    Family("video-llama-3", ("video_llama_3",), "VideoLLaMA 3", projector="projector", note=_TIMES, **_VISION, **_GRID),
    Family(
        "cohere-compass", ("cohere_compass",), "Cohere Compass", mrope=True, projector="merger", note=_TIMES, **_GRID
    ),
    Family(
        "kimi-k2.5",
        ("kimi_k25",),
        "Kimi K2.5",
        delimiter_tokens=("<|media_content|>",),
        projector="mm_projector",
        **{**_GRID, "image_tags": ("vision_start_token_id", "vision_end_token_id")},
        note="the word between an image's tags that names its kind is part of its frame",
    ),
    Family(
        "exaone-4.5",
        ("exaone4_5",),
        "EXAONE 4.5",
        delimiter_tokens=("<vision>", "</vision>"),
        mrope=True,
        projector="merger",
        **_GRID,
    ),
    Family(
        "hyperclova-x",
        ("hyperclovax_vision_v2",),
        "HyperCLOVA X SEED Think (vision)",
        projector="projector",
        delimiter_tokens=("<|image_start|>", "<|image_end|>", "<|video_start|>", "<|video_end|>"),
        **_GRID,
    ),
    Family(
        "dots3",
        ("dots3_note",),
        "dots3 note",
        delimiter_tokens=("<|img|>", "<|endofimg|>"),
        projector="merger",
        **_GRID,
    ),
    Family(
        "minimax-m3",
        ("minimax_m3_vl",),
        "MiniMax M3 VL",
        note=_TIMES,
        delimiter_tokens=("]<]vision_start[>[", "]<]vision_end[>["),
        **_GRID,
    ),
    Family(
        "muse",
        ("muse_glimmer", "muse_spark"),
        "Muse Glimmer, Muse Spark",
        projector="vision_projection",
        note=_TIMES,
        delimiter_tokens=(
            "<|image_start|>",
            "<|image_end|>",
            "<|vid_start|>",
            "<|vid_end|>",
            "<|vid_frame_separator|>",
        ),
        **_GRID,
    ),
    Family("lfm3-vl", ("lfm3_vl",), "LFM3-VL", note=_FULL + _TIMES, **_GRID),
    Family("gemma4", ("gemma4", "gemma4_unified"), "Gemma 4", projector="embed_vision", note=_TIMES, **_GRID),
    Family(
        "hunyuan-vl",
        ("hunyuan_vl",),
        "Hunyuan VL",
        images="encoder",
        projector="merger",
        note="row newlines share the placeholder, so they count as visual tokens",
    ),
)
