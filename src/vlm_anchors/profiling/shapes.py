"""Models of a given shape with random weights: nothing is downloaded, and a cost needs no trained weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf

from ..errors import UnknownName
from ..models.settings import device_of, dtype_of
from ..registry import did_you_mean


@dataclass(frozen=True)
class Shape:
    """A model to build and the prompt to time: visual tokens, words after them, new tokens."""

    name: str
    config: Callable[[], Any]
    visual: int
    words: int = 40
    new_tokens: int = 32
    dtype: str = "bfloat16"
    published: str = ""


def _llava(vision: dict[str, Any], text: dict[str, Any]) -> Any:
    return hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**vision),
        text_config=hf.LlamaConfig(vocab_size=32064, max_position_embeddings=4096, **text),
        image_token_index=32000,
        vision_feature_layer=-2,
    )


_CLIP_LARGE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip


def _llava_7b() -> Any:
    return _llava(_CLIP_LARGE, {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
                                "num_attention_heads": 32, "num_key_value_heads": 32})  # fmt: skip


def _tinyllava() -> Any:
    return _llava(_CLIP_LARGE, {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
                                "num_attention_heads": 32, "num_key_value_heads": 4})  # fmt: skip


def _mid() -> Any:
    vision = {
        **_CLIP_LARGE,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    return _llava(vision, {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
                           "num_attention_heads": 12, "num_key_value_heads": 12})  # fmt: skip


def _qwen_3b() -> Any:
    text = {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
    }  # fmt: skip
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048}
    return hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("llava-1.5-7b", _llava_7b, 576, published="CLVA 1.013, IMCCD 2.28 (paper, H20, POPE)"),
        Shape("tinyllava-1b", _tinyllava, 576),
        Shape("qwen2.5-vl-3b", _qwen_3b, 576, published="CLVA 1.084, IMCCD 2.40 (paper: Qwen-VL, H20, POPE)"),
        Shape("mid", _mid, 576, dtype="float32"),
    )
}


def build(name: str, device: str, dtype: str | None = None) -> tuple[Any, Shape]:
    """A model in eval mode with random weights of that shape; `UnknownName` if there is no such shape."""
    if name not in SHAPES:
        raise UnknownName(f"No shape {name!r}.{did_you_mean(name, SHAPES)}")
    shape = SHAPES[name]
    place = device_of(device)
    torch.manual_seed(0)
    precision = dtype_of(dtype if dtype not in (None, "auto") else shape.dtype, place, False)
    with place:
        model = hf.AutoModelForImageTextToText.from_config(shape.config(), dtype=precision, attn_implementation="sdpa")
    return model.eval(), shape


def prompt(model: Any, shape: Shape, batch: int) -> dict[str, torch.Tensor]:
    """A prompt of a few words, the image and `shape.words` more words, for each of `batch` samples."""
    device, config = model.device, model.config
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(10, 30000, (batch, 4 + shape.words), generator=generator).to(device)
    image = torch.full((batch, shape.visual), config.image_token_id, device=device)
    tags = {}
    if config.model_type == "qwen2_5_vl":
        start, end = (
            torch.full((batch, 1), tag, device=device)
            for tag in (config.vision_start_token_id, config.vision_end_token_id)
        )
        image = torch.cat([start, image, end], 1)
        side = 2 * int(shape.visual**0.5)
        tags["image_grid_thw"] = torch.tensor([[1, side, side]] * batch, device=device)
        pixels = torch.randn(batch * side * side, 3 * 2 * 14 * 14, generator=generator)
    else:
        side = config.vision_config.image_size
        pixels = torch.randn(batch, 3, side, side, generator=generator)
    ids = torch.cat([words[:, :4], image, words[:, 4:]], 1)
    if tags:
        tags["mm_token_type_ids"] = (ids == config.image_token_id).int()
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels.to(device, model.dtype), **tags}
